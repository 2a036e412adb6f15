"""Progress: estimates, outages, clocks, and narrow terminals."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from itwin_export_async import (
    Estimate,
    ExecutionState,
    ExportRequest,
    Job,
    Run,
    RunUpdate,
    ServerError,
)
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.batch_progress import (
    MIN_SLOW,
    BatchProgress,
    estimate_batch,
    quantile,
)
from itwin_export_async.cli.output.console import SafeConsole
from itwin_export_async.cli.output.format import duration, time_left
from itwin_export_async.cli.output.progress import RunProgress, background, every
from itwin_export_async.cli.running_batch import CHECK_INTERVAL
from tests.support.command import CommandLine, Stream
from tests.support.fakes import answer

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


def screen(width: int, height: int = 12) -> Console:
    return SafeConsole(
        file=Screen(), force_terminal=True, width=width, height=height, color_system=None
    )


def rendered(progress: BatchProgress | RunProgress, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(progress.render())
    return [line.rstrip() for line in captured.get().splitlines()]


def record(name: str) -> Record:
    request = ExportRequest(imodel_id=f"m-{name}", destination=f"out/{name}/", key=name)
    return Record.of(request)


def executing(started: datetime | None = None) -> Run:
    state = ExecutionState.EXECUTING
    return Run(id="r", connection_id="c", state=state, start_date_time=started)


def test_failures_are_visible_in_60_columns() -> None:
    console = screen(60, height=10)
    progress = BatchProgress(console, 40, lambda: 4812)
    for number in range(20):
        each = record(f"a bridge with a very long name {number}")
        progress.updated(each, RunUpdate(run=executing()))
        if number < 3:
            each.finish(error=ServerError(status=503, message="x" * 200))
            progress.finished(each)
    lines = rendered(progress, console)
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 60
    assert sum(line.startswith("failed  a bridge") for line in lines) == 3
    assert any(line.startswith("export") and "executing" in line for line in lines)
    assert any(re.match(r"and \d+ more", line) for line in lines)


@pytest.mark.parametrize(("width", "columns"), [(60, 4), (90, 5), (140, 6)])
def test_wide_terminals_show_more_columns(width: int, columns: int) -> None:
    console = screen(width)
    progress = BatchProgress(console, None, lambda: None)
    progress.updated(record("b"), RunUpdate(run=executing()))
    head = next(line for line in rendered(progress, console) if line.startswith("export"))
    assert len(head.split()) == columns


def test_outages_are_visible() -> None:
    console = screen(80)
    since = datetime(2026, 11, 28, 12, 3, 4, tzinfo=UTC)
    progress = BatchProgress(console, 2, lambda: None, outage_since=lambda: since)
    progress.updated(record("b"), RunUpdate(run=executing(), trouble=ServerError(status=503)))
    text = "\n".join(rendered(progress, console))
    assert "outage since 12:03:04 UTC: waiting for the service" in text
    assert "outage, retrying: 503" in text


def test_outages_are_printed_once_into_a_log() -> None:
    file = StringIO()
    progress = BatchProgress(SafeConsole(file=file), 2, lambda: None)
    each = record("b")
    for trouble in (None, ServerError(status=503), ServerError(status=503), None):
        progress.updated(each, RunUpdate(run=executing(), trouble=trouble))
    assert file.getvalue() == "b: outage, retrying: 503\n"


def test_outages_of_a_single_run_are_printed() -> None:
    file = StringIO()
    progress = RunProgress(SafeConsole(file=file))
    each = record("b")
    progress.add(each)
    for trouble in (None, ServerError(status=503), None, None):
        progress.updated(each, RunUpdate(run=executing(), trouble=trouble))
    texts = [line.partition("s  ")[2] for line in file.getvalue().splitlines()]
    assert texts == ["b: Executing", "b: outage, retrying: 503", "b: Executing"]


def test_single_run_shows_estimate_and_outage() -> None:
    console = screen(120)
    progress = RunProgress(console, outage_since=lambda: NOW)
    each = record("b")
    progress.add(each)
    assert "outage since 12:00:00 UTC: waiting" in "\n".join(rendered(progress, console))
    assert "starting" in "\n".join(rendered(progress, console))
    progress.updated(each, RunUpdate(run=executing(), trouble=ServerError(status=503)))
    each.estimate = Estimate(low=420.0, median=720.0, high=1500.0)
    each.estimated_at = datetime.now(UTC)
    text = "\n".join(rendered(progress, console))
    assert "about 12 min left (7 to 25)" in text
    assert "outage, retrying: 503" in text
    each.finish()
    each.run = None
    each.states.clear()
    assert "done" in "\n".join(rendered(progress, console))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ((420, 720, 1500), "about 12 min left (7 to 25)"),
        ((5, 20, 80), "about 20 s left (5 to 80)"),
        ((3600, 7200, 14400), "about 2.0 h left (1.0 to 4.0)"),
        ((0, 0, 0), "almost done"),
    ],
)
def test_estimates_are_readable(seconds: tuple[float, float, float], text: str) -> None:
    low, median, high = seconds
    assert time_left(Estimate(low=low, median=median, high=high)) == text


def test_batch_is_estimated_from_earlier_runs() -> None:
    arguments = {"waiting": 4, "ages": [10.0, 200.0], "concurrency": 2}
    assert estimate_batch(durations=[60, 60], **arguments) is None  # type: ignore[arg-type]
    estimate = estimate_batch(durations=[60, 100, 140], **arguments)  # type: ignore[arg-type]
    assert estimate == Estimate(low=145.0, median=245.0, high=345.0)
    assert quantile([1, 2, 3], 1.0) == 3


def test_minutes_keep_their_seconds() -> None:
    assert len({duration(seconds) for seconds in range(95, 150)}) == 55


def test_slow_run_is_named_once() -> None:
    progress = BatchProgress(SafeConsole(file=StringIO()), 1, lambda: None, durations=[60.0] * 5)
    slow = record("slow")
    started = datetime.now(UTC) - timedelta(seconds=100)
    progress.updated(slow, RunUpdate(run=executing(started)))
    assert list(progress.slow_runs()) == []
    known = BatchProgress(
        SafeConsole(file=StringIO()), 1, lambda: None, durations=[60.0] * MIN_SLOW
    )
    known.updated(slow, RunUpdate(run=executing(started)))
    known.updated(record("quick"), RunUpdate(run=executing()))
    ((named, age),) = known.slow_runs()
    assert (named is slow, age >= 100) == (True, True)
    assert list(known.slow_runs()) == []


def test_slow_run_is_named_by_the_batch(cli: CommandLine, tmp_path: Path) -> None:
    ids = [cli.emulator.add_imodel(f"b{number}") for number in range(MIN_SLOW + 1)]
    for imodel_id in ids[:-1]:
        cli.emulator.plan_next_run(imodel_id, "Success", duration=10)
    cli.emulator.plan_next_run(ids[-1], "Success", duration=100 * CHECK_INTERVAL)
    (tmp_path / "m.csv").write_text("imodel_id\n" + "\n".join(ids))
    words = ("batch", f"{tmp_path}/m.csv", "-o", f"{tmp_path}/out", "--concurrency", "50")
    assert cli.invoke(*words)[2].count("takes longer than 95 of 100 earlier runs: ") == 1


def test_clock_is_printed_into_a_log(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Success", duration=1000)
    (tmp_path / "m.csv").write_text(f"imodel_id\n{imodel_id}\n")
    code, _, err = cli.invoke("batch", f"{tmp_path}/m.csv", "-o", f"{tmp_path}/out")
    lines = re.findall(r"^\d\d:\d\d:\d\d UTC  (.*)$", err, re.MULTILINE)
    assert (code, len(lines)) == (0, 3)
    assert lines[0].startswith("0 done, 0 failed, 1 left, 1 of them active, ")
    cli.emulator.plan_next_run(imodel_id, "Success", duration=1000)
    code, _, err = cli.invoke("run", imodel_id, "-o", f"{tmp_path}/")
    lines = re.findall(r"^\d\d:\d\d:\d\d UTC  (.*)$", err, re.MULTILINE)
    assert (code, len(lines)) == (0, 3)
    assert re.match(rf"{imodel_id}: Executing, about \d+ min left", lines[1])


def test_report_is_rewritten_while_the_batch_runs(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [cli.emulator.add_imodel(f"b{number}") for number in range(2)]
    cli.emulator.plan_next_run(ids[0], "Success", duration=30)
    cli.emulator.plan_next_run(ids[1], "Success", duration=1000)
    (tmp_path / "m.csv").write_text("imodel_id\n" + "\n".join(ids))
    seen: list[str] = []

    class Reader(Stream):
        def write(self, text: str, /) -> int:
            if " UTC  " in text:
                seen.append((tmp_path / "r.html").read_text())
            return super().write(text)

    words = ("batch", "m.csv", "-o", "out", "--report", "r.html")
    assert cli.invoke(*words, err=Reader())[0] == 0
    assert "Exports: 1 not finished" in seen[0]
    assert '<dt>succeeded</dt><dd class="good">1</dd>' in seen[0]


def test_report_that_cannot_be_rewritten_ends_nothing(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Success", duration=100)
    (tmp_path / "m.csv").write_text(f"imodel_id\n{imodel_id}\n")

    def full(*_: object, **__: object) -> None:
        raise OSError("r.html: the report cannot be written: No space left on device")

    monkeypatch.setattr("itwin_export_async.cli.running_batch.write_report", full)
    code, out, err = cli.invoke("batch", "m.csv", "-o", "out", "--report", "r.html")
    assert (code, "1 of 1 export done" in out) == (1, True)
    assert err.count("No space left") >= 2


@pytest.mark.parametrize("command", ["run", "batch"])
def test_outage_before_a_run_is_printed_with_the_clock(
    cli: CommandLine, tmp_path: Path, command: str
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.inject("list_connections", *[answer(503)] * 5000)
    (tmp_path / "m.csv").write_text(f"imodel_id\n{imodel_id}\n")
    what = imodel_id if command == "run" else f"{tmp_path}/m.csv"
    code, _, err = cli.invoke(command, what, "-o", f"{tmp_path}/out")
    assert code == 1
    assert re.search(r"UTC  .*, outage since \d\d:\d\d:\d\d UTC: waiting", err)


def test_estimate_that_fails_is_no_error(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.inject("list_runs", *[answer(403)] * 9)
    assert cli.invoke("run", imodel_id, "-o", f"{tmp_path}/")[0] == 0


async def test_background_work_raises_its_bugs() -> None:
    async def fail() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        async with background(fail()):
            await asyncio.sleep(1)
    async with background():
        pass


async def test_actions_are_repeated() -> None:
    calls: list[float] = []
    clock = asyncio.get_running_loop().time

    async def slow() -> None:
        calls.append(clock())

    begin = clock()
    async with background(every(10, lambda: calls.append(clock())), every(10, slow)):
        await asyncio.sleep(25)
    assert [round(at - begin) for at in calls] == [10, 10, 20, 20]


def test_queue_and_execution_are_separate() -> None:
    each = record("b")
    assert each.phases(NOW) == (None, None)
    each.states = [(NOW, "Queued")]
    assert each.phases(NOW + timedelta(seconds=5)) == (5.0, None)
    each.states.append((NOW + timedelta(seconds=5), "Executing"))
    assert each.phases(NOW + timedelta(seconds=7)) == (5.0, 2.0)
    job = Job(id="j", state=ExecutionState.COMPLETED, start_date_time=NOW + timedelta(seconds=20))
    each.run = Run(
        id="r",
        state=ExecutionState.COMPLETED,
        start_date_time=NOW,
        end_date_time=NOW + timedelta(seconds=60),
        jobs=(job,),
    )
    assert each.phases(NOW) == (20.0, 40.0)


def test_seconds_are_zero_before_the_start() -> None:
    assert record("b").seconds(NOW) == 0.0
