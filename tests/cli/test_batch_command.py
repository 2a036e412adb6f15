"""`itwin-export batch`: what its file may log_message, and what comes of it."""

import asyncio
import json
import os
import re
import shlex
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from rich.console import Console

from itwin_export_async import (
    ClientHealth,
    ExecutionState,
    ExportClient,
    ExportOutcome,
    ExportOutcomes,
    ExportRequest,
    LedgerError,
    Run,
    RunUpdate,
    TokenError,
)
from itwin_export_async.cli.batch_args import BatchArgs
from itwin_export_async.cli.commands.batch import run_batch
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.batch_progress import BatchProgress, estimate_by_pace
from itwin_export_async.cli.output.format import duration, size
from itwin_export_async.emulator import Emulator
from tests.support.command import CommandLine, Stream, invoke, start
from tests.support.environment import CREDENTIALS
from tests.support.fakes import answer

Batch = Callable[..., Any]
ID = "7dbd531d-6967-47b2-8945-a722a437ad7a"


@pytest.fixture
def run(cli: CommandLine, tmp_path: Path) -> Batch:
    """Runs a batch in virtual time, without a ledger unless one is given; its exit code."""

    async def run(lines: str, **changes: Any) -> int:
        file = tmp_path / "models.csv"
        file.write_text(lines)
        args = BatchArgs(file=str(file), folder=str(tmp_path / "out"), ledger=None)
        return await run_batch(cli.invocation, evolve(args, **changes))

    return run


def table(*imodels: str) -> str:
    return "imodel_id,key\n" + "".join(f"{id},b{n}\n" for n, id in enumerate(imodels))


async def test_success_is_exit_code_0(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(*(emulator.add_imodel(f"Bridge {n}") for n in range(3)))
    report = tmp_path / "new" / "r.html"
    assert await run(lines, ifc_version="IFC2x3", connection="nightly", report=report) == 0
    out, err = capsys.readouterr()
    assert b"IFC2X3" in (tmp_path / "out/b1/Bridge 1.ifc").read_bytes()
    assert re.search(r"^3 of 3 exports done in .*: 3 files, .* kB in .*/out$", out, re.MULTILINE)
    assert f"The report is {report}" in out
    assert re.search(r"^\[3/3\] Success  b\d: .*/Bridge \d.ifc \(.* kB\), ", err, re.MULTILINE)
    assert "All exports succeeded" in report.read_text()
    calls = len(emulator.requests) - emulator.count("get_blob") - emulator.count("issue_token")
    assert f"{calls} calls to the service" in report.read_text()


async def test_failures_come_first_with_hints(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = emulator.add_imodel("Tunnel")
    emulator.plan_next_run(bad, "Error")
    secret = emulator.add_imodel("Secret", authorized=False)
    lines = table(emulator.add_imodel(), bad, secret)
    assert await run(lines, ledger=tmp_path / "l.db") == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 of 3 exports failed:\n\n  b1: ")
    assert re.search(r"b1: .*\n    the run ended with Error: TAE_.*\n", out)
    assert re.search(r"b2: .*\n    403 .*\n    -> Ask the iTwin's administrator", out)
    assert "1 of 3 exports done" in out
    assert "this retries what failed:\n  itwin-export batch models.csv" in err
    assert "failed  b1: the run ended with Error: TAE_" in err

    assert await run(lines, ledger=tmp_path / "l.db") == 1  # one is done, one comes now
    out, err = capsys.readouterr()
    assert "b0: " in err
    assert "up to date  b0: " in err
    assert "1 of 3 exports done, 1 up to date, 1 failed" in out


async def test_equal_failures_are_grouped(
    emulator: Emulator, run: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(*(emulator.add_imodel("Secret", authorized=False) for _ in range(23)))
    assert await run(lines) == 1
    out, err = capsys.readouterr()
    assert (out.count("->"), "23 exports: b" in out, " and 18 more\n" in out) == (1, True, True)
    assert "itwin-export:" not in err


LOG = (
    "INFO start\nERROR iModelToIFCConverter - Cannot Parse Json File?sig=planted\n"
    + "ERROR x\n" * 9
)


@pytest.mark.parametrize("is_readable", [True, False])
def test_errors_of_the_log_are_shown(cli: CommandLine, tmp_path: Path, is_readable: bool) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Error")
    url = cli.emulator.user_blob("log.txt", content=LOG.encode())
    if not is_readable:
        url = cli.emulator.user_blob("missing.txt")
    line = {"imodel_id": imodel_id, "logs_sas_url": url}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    words = ["batch", f"{tmp_path}/m.jsonl", "-o", f"{tmp_path}/out", "--json"]
    code, out, err = cli.invoke(*words, "--report", f"{tmp_path}/r.html")
    errors = json.loads(out)["error"].get("log_errors", [])
    assert (code, len(errors)) == (1, 3 if is_readable else 0)
    for text in (err, (tmp_path / "r.html").read_text()):
        assert ("Cannot Parse Json File" in text) is is_readable
        assert "planted" not in text


def test_fixed_token_is_warned_about_once(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    health = ClientHealth(is_open=True, token_expires_at=datetime(2100, 1, 1, tzinfo=UTC))
    monkeypatch.setattr(ExportClient, "health", lambda _: health)
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", cli.emulator.token())
    (tmp_path / "m.csv").write_text(f"imodel_id\n{imodel_id}\n")
    err = cli.invoke("batch", f"{tmp_path}/m.csv", "-o", f"{tmp_path}/out")[2]
    assert err.count("ITWIN_ACCESS_TOKEN ends at 00:00 UTC and is not renewed") == 1


async def test_json_is_alone_on_stdout(
    emulator: Emulator, run: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = emulator.add_imodel("Tunnel")
    emulator.plan_next_run(bad, "Error")
    secret = emulator.add_imodel("Secret", authorized=False)
    assert await run(table(emulator.add_imodel(), bad, secret), json=True) == 1
    out, err = capsys.readouterr()
    expected = {line["key"]: line for line in map(json.loads, out.splitlines())}
    assert set(expected["b0"]) == {
        *("key", "name", "imodel_id", "destination", "revision", "columns", "ok", "status"),
        *("connection_id", "run_id", "result", "run_started", "run_ended"),
        *("queued_seconds", "executing_seconds", "files", "error"),
    }
    assert (expected["b0"]["ok"], expected["b0"]["result"], expected["b0"]["error"]) == (
        True,
        "Success",
        None,
    )
    (file,) = expected["b0"]["files"]
    assert Path(file["path"]).stat().st_size == file["size"]
    assert expected["b1"]["error"]["tasks"][0]["code"].startswith("TAE_")
    assert (expected["b2"]["error"]["status"], expected["b2"]["run_id"]) == (403, None)
    assert "2 of 3 exports failed" in err


async def test_json_of_an_unreachable_run_has_its_resume_token(
    client: ExportClient, emulator: Emulator, run: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.inject("get_run", *[answer(503)] * 2000)
    assert await run(table(emulator.add_imodel()), json=True) == 1
    expected = json.loads(capsys.readouterr().out)
    assert expected["error"]["type"] == "RunUnreachable"
    assert client.resume(expected["error"]["resume_token"]).run_id == expected["run_id"]


async def test_timeout_is_exit_code_3(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.plan_next_run(slow := emulator.add_imodel(), "Success", duration=500)
    report = tmp_path / "r.html"
    assert await run(table(slow), timeout=100, report=report) == 3
    out, err = capsys.readouterr()
    assert "0 of 1 export done" in out
    assert "1 export not finished" in err
    assert "Without --no-ledger the same command would continue" in err
    assert "1 not finished" in report.read_text()

    emulator.plan_next_run(slow := emulator.add_imodel(), "Success", duration=500)
    assert await run(table(slow), timeout=100, ledger=tmp_path / "l.db") == 3
    assert "this continues:\n  itwin-export batch models.csv" in capsys.readouterr().err
    before = emulator.count("create_run")
    assert await run(table(slow), ledger=tmp_path / "l.db") == 0
    assert emulator.count("create_run") == before


@pytest.mark.parametrize(("fate", "code"), [("Success", 1), ("Error", 1), ("slow", 3)])
async def test_report_that_fails_hides_nothing(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fate: str,
    code: int,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("r.html: the report cannot be written: No space left on device")

    monkeypatch.setattr("itwin_export_async.cli.running_batch.write_report", full)
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, *(("Success",) if fate == "slow" else (fate,)), duration=500)
    timeout = 100 if fate == "slow" else None
    places = {"report": tmp_path / "r.html", "ledger": tmp_path / "l.db"}
    assert await run(table(imodel_id), timeout=timeout, **places) == code
    out, err = capsys.readouterr()
    assert f"{int(fate == 'Success')} of 1 export done" in out
    assert "The report is" not in out
    assert ("itwin-export batch models.csv" in err) is (fate != "Success")
    assert err.endswith(
        "itwin-export: r.html: the report cannot be written: No space left on device\n"
    )


async def test_report_is_written_though_stdout_is_closed(
    emulator: Emulator, run: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        with pytest.raises(BrokenPipeError):
            await run(table(emulator.add_imodel()), report=tmp_path / "r.html")
        with suppress(BrokenPipeError):
            closed.close()
    assert "All exports succeeded" in (tmp_path / "r.html").read_text()


async def test_cancellation_passes_though_the_report_fails(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("itwin_export_async.cli.running_batch.write_report", full)
    emulator.plan_next_run(slow := emulator.add_imodel(), "Success", duration=500)
    work = asyncio.create_task(run(table(slow), report=tmp_path / "r.html"))
    asyncio.get_running_loop().call_later(100, work.cancel)
    with pytest.raises(asyncio.CancelledError):
        await work
    out, err = capsys.readouterr()
    assert ("0 of 1 export done" in out, err.endswith("itwin-export: full\n")) == (True, True)


async def test_timeout_error_of_the_library_is_not_the_timeout_of_the_batch(
    emulator: Emulator, run: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> AsyncGenerator[ExportOutcome, None]:
        raise TimeoutError("another")
        yield

    monkeypatch.setattr(ExportClient, "export_many", lambda *_, **__: ExportOutcomes(fail()))
    with pytest.raises(TimeoutError, match="another"):
        await run(table(emulator.add_imodel()), timeout=100)


async def test_rejected_token_ends_the_batch(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = table(*(emulator.add_imodel() for _ in range(200)))
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", "wrong")
    assert await run(lines, report=tmp_path / "r.html", concurrency=2) == 4
    assert capsys.readouterr().err.endswith(
        "199 exports not tried: they would fail in the same way\n"
    )
    assert len(emulator.requests) < 50
    assert "1 failed, 199 not finished" in (tmp_path / "r.html").read_text()


async def test_token_that_expired_since_an_earlier_call_ends_the_batch(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = [emulator.add_imodel() for _ in range(200)]
    assert await run(table(*ids[:1]), ledger=tmp_path / "l.db") == 0
    before = len(emulator.requests)
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", "expired")
    assert await run(table(*ids), ledger=tmp_path / "l.db", concurrency=2) == 4
    err = capsys.readouterr().err
    assert "198 exports not tried: they would fail in the same way\n" in err
    assert "this continues:\n  itwin-export batch" in err
    assert len(emulator.requests) - before < 50


async def test_missing_consent_ends_the_batch(
    emulator: Emulator, run: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.user_authorized = False
    assert await run(table(emulator.add_imodel()), authentication_type="User") == 4
    out, err = capsys.readouterr()
    assert "-> Sign in and consent: itwin-export auth consent --open" in out
    assert "itwin-export:" not in err


async def test_transient_token_error_does_not_end_the_batch(
    emulator: Emulator,
    run: Batch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def outcomes() -> AsyncGenerator[ExportOutcome, None]:
        for is_transient in (True, False):
            error = TokenError(message="x", is_transient=is_transient)
            yield ExportOutcome(request=request, error=error)

    imodel_id = emulator.add_imodel()
    request = ExportRequest(imodel_id=imodel_id, destination="b0/", key="b0")
    monkeypatch.setattr(ExportClient, "export_many", lambda *_, **__: ExportOutcomes(outcomes()))
    assert await run(table(imodel_id)) == 4
    assert capsys.readouterr().err.count("failed ") == 2


async def test_file_that_is_no_ledger_is_left_alone(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "l.db"
    ledger.write_text("not a database at all" * 100)
    with pytest.raises(LedgerError):
        await run(table(emulator.add_imodel()), ledger=ledger)
    assert capsys.readouterr() == ("", "")  # nothing began, and the same command never would


async def test_ledger_that_breaks_later_leaves_the_command_that_continues(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = emulator.add_imodel(), emulator.add_imodel()
    emulator.plan_next_run(second, "Success", duration=1000)

    def break_it(self: Record, outcome: ExportOutcome) -> None:
        raise LedgerError(message="cannot be used: disk I/O error", path="l.db")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "finish_with", break_it)
        with pytest.raises(LedgerError):
            await run(table(first, second), ledger=tmp_path / "l.db")
    assert "this continues:\n  itwin-export batch models.csv" in capsys.readouterr().err


async def test_paths_are_reported_alike_by_every_call(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "imodel_id,destination\n"
    lines += f"{emulator.add_imodel('Bridge')},\n{emulator.add_imodel('Tunnel')},x/t.ifc\n"
    expected = []
    for _ in range(2):
        assert await run(lines, folder="out", ledger=tmp_path / "l.db", json=True) == 0
        out = map(json.loads, capsys.readouterr().out.splitlines())
        expected.append({line["imodel_id"]: line["files"][0]["path"] for line in out})
    assert sorted(expected[0].values(), key=len)[0] == "out/x/t.ifc"
    assert expected[0] == expected[1]


@pytest.mark.parametrize(
    ("ledger", "expected"),
    [
        ("junk.db", "cannot be used: file is not a database; choose another file, "),
        ("link.db", "cannot be used: unable to open database file; check that its folder"),
        ("busy.db", "is in use by another call, of process"),
    ],
)
def test_unusable_ledger_is_exit_code_2(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ledger: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models.csv").write_text(table(ID))
    Path("junk.db").write_text("no database at all" * 100)
    Path("link.db").symlink_to("nowhere/l.db")
    cli.invoke("batch", "models.csv", "-o", "out", "--ledger", "busy.db")  # it exists now
    with open("busy.db-lock", "w") as other:
        flock(other, LOCK_EX | LOCK_NB)
        before = len(cli.emulator.requests)
        words = ("models.csv", "-o", "out", "--report", "r.html", "--ledger", ledger)
        code, out, err = cli.invoke("batch", *words)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith(f"itwin-export: ledger {ledger}: {expected}")
    assert second.startswith("  Name another file with --ledger")
    assert len(cli.emulator.requests) == before
    assert not Path("r.html").exists()


@pytest.mark.parametrize(
    ("folder", "ledger"), [("out", "out/l.db"), ("a/b/", "a/l.db"), ("./out", "x/../out/l.db")]
)
def test_ledger_can_be_in_the_new_output_folder(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, ledger: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "models.csv").write_text(table(cli.emulator.add_imodel()))
    assert cli.invoke("batch", "models.csv", "-o", folder, "--ledger", ledger)[0] == 0
    assert (tmp_path / ledger).is_file()


async def test_spelling_of_the_folder_does_not_matter_to_the_ledger(
    emulator: Emulator, run: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = table(emulator.add_imodel()) + f"{emulator.add_imodel()},\n"
    for folder in ("out", "./out/", "out//"):
        assert await run(lines, folder=folder, ledger=tmp_path / "l.db") == 0
    assert emulator.count("create_run") == 2


def test_missing_credentials_start_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "models.csv").write_text(f"imodel_id\n{ID}\n")
    code, out, err = invoke("batch", f"{tmp_path}/models.csv", "-o", f"{tmp_path}/new")
    assert (code, out, err.count("\n")) == (4, "", 2)
    assert not (tmp_path / "new").exists()


async def test_lines_are_read_from_standard_input(
    emulator: Emulator,
    run: Batch,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    emulator.plan_next_run(bad := emulator.add_imodel(), "Error")
    stdin = TextIOWrapper(BytesIO(table(bad).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert await run("", file="-", ledger=tmp_path / "l.db") == 1
    assert "retries what failed (with the same lines):" in capsys.readouterr().err


SIGNALS = [
    (signal.SIGINT, 130, "interrupted"),
    (signal.SIGTERM, 143, "terminated"),
    (signal.SIGHUP, 129, "hung up"),
]


@pytest.mark.usefixtures("integration")
@pytest.mark.parametrize(("number", "code", "last"), SIGNALS)
def test_signal_ends_the_reading_of_standard_input(
    tmp_path: Path, number: signal.Signals, code: int, last: str
) -> None:
    theirs, ours = os.pipe()
    with start("batch", "-", "-o", "out", cwd=tmp_path, stdin=theirs) as process:
        os.close(theirs)
        os.write(ours, b"\n" * 100_000)  # more than a pipe holds: some of it was read
        process.send_signal(number)
        out, err = process.communicate()
    os.close(ours)
    assert (process.returncode, out, err) == (code, "", f"itwin-export: {last}\n")


@pytest.mark.parametrize(
    ("lines", "words", "code", "expected"),
    [
        ("imodel_id\n", [], 2, "models.csv has no exports"),
        ("imodel_id\nm1\n", ["--tier", "gold"], 2, "'gold' is not one of 'community', 'standard'"),
        ("imodel_id\nm1\n", ["--concurrency", "0"], 2, "Invalid value for '--concurrency'"),
        (
            "imodel_id\nm1\n",
            ["--report", "/dev/null/r.html"],
            2,
            "report: the folder /dev/null cannot",
        ),
        ("imodel_id\nm1\n", ["--report", "."], 2, "report: . is a folder, not a file"),
        (
            "imodel_id\nm1\n",
            ["-o", "/dev/null/out"],
            2,
            "output: /dev/null/out: the folder cannot be",
        ),
        ("imodel_id\nm1\n", ["--ledger", "no/l.db"], 2, "no/l.db: the folder no does not exist"),
        (
            "imodel_id\nm1\n",
            ["--report", "./models.csv"],
            2,
            "cannot be both the file of exports and",
        ),
        (
            "imodel_id\nm1\n",
            ["--ledger", "models.csv"],
            2,
            "cannot be both the file of exports and",
        ),
        (
            "imodel_id\nm1\n",
            ["--ledger", "a", "--report", "a"],
            2,
            "cannot be both the ledger and the r",
        ),
        (
            "imodel_id,output\nm1,a\n",
            ["--report", "out/a", "-o", "out"],
            2,
            "be both the report and an",
        ),
        ("imodel_id\nm1\n", ["--ledger", "."], 2, ".: a ledger is a file, and this is a folder"),
        ("imodel_id,output\nm1,/etc/x\n", [], 2, "models.csv, line 2, column 2: destination"),
        (None, [], 2, "models.csv cannot be read: No such file or directory"),
    ],
)
def test_mistake_is_reported_before_anything_is_sent(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str | None,
    words: list[str], code: int, expected: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if lines is not None:
        Path("models.csv").write_text(lines.replace("m1", ID))
    ended, _, err = cli.invoke("batch", "models.csv", "-o", "out", *words)
    assert (ended, expected in " ".join(err.replace("│", " ").split())) == (code, True)
    assert cli.emulator.requests == []
    assert "--report" in words or not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code", "last"), SIGNALS)
def test_signal_leaves_the_command_that_continues(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals,
    code: int, last: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    ids = [cli.emulator.add_imodel(f"Bridge {n}") for n in range(3)]
    for imodel_id, seconds in zip(ids, (100, 200, 3000), strict=True):
        cli.emulator.plan_next_run(imodel_id, "Success", duration=seconds)
    Path("models 1.csv").write_text(table(*ids))
    words = ["batch", "models 1.csv", "-o", "out", "--ledger", "l.db", "--tier", "community"]
    words += ["--json", "--report", "r.html"]
    out = Stream(interrupt_at='"ok": true', signal_number=number)
    ended, expected, err = cli.invoke(*words, out=out)
    assert ended == code
    assert json.loads(expected)["ok"]
    assert err.endswith(f"itwin-export: {last}\n")
    assert "not finished" in Path("r.html").read_text()
    again = next(line for line in err.splitlines() if line.startswith("  itwin-export batch"))
    assert "'models 1.csv'" in again
    said = shlex.split(again)[1:]
    assert sorted(said) == sorted(words)
    ended, expected, _ = cli.invoke(*said)
    assert ended == 0
    assert [json.loads(line)["ok"] for line in expected.splitlines()] == [True] * 3
    assert cli.emulator.count("create_run") == 3


def test_file_that_looks_like_an_option_is_quoted_as_a_file(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.emulator.plan_next_run(bad := cli.emulator.add_imodel(), "Error")
    Path("-m.csv").write_text(table(bad))
    words = ["batch", "-o", "out", "--ledger", "l.db", "--json"]
    code, _, err = cli.invoke(*words, "--", "-m.csv")
    assert (code, err.splitlines()[-1].split()) == (1, ["itwin-export", *words, "--", "-m.csv"])


@pytest.mark.usefixtures("terminal")
def test_terminal_shows_the_progress(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [cli.emulator.add_imodel(f"Bridge {n}") for n in range(3)]
    cli.emulator.plan_next_run(ids[1], "Error")
    Path("models.csv").write_text(table(*ids))
    words = ("batch", "models.csv", "-o", "out", "--json")
    code, out, shown = cli.invoke(*words, err=Stream(is_terminal=True))
    assert code == 1
    assert "2 done" in shown
    assert "1 failed" in shown
    assert "2 of 3 exports done" in shown
    assert len([json.loads(line) for line in out.splitlines()]) == 3  # nothing else went there


def picture(progress: BatchProgress, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(progress.render())
    return [line.rstrip() for line in captured.get().splitlines()]


async def test_display_fits_its_terminal(
    client: ExportClient, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    console = Console(file=StringIO(), force_terminal=True, width=100, height=14, color_system=None)
    progress = BatchProgress(console, 40, lambda: 4812)
    assert "0 done, 0 failed, 40 left, 0 of them active" in picture(progress, console)
    requests = [
        ExportRequest(imodel_id=emulator.add_imodel(), destination=f"[b{n}]/") for n in range(20)
    ]
    records = {request.imodel_id: Record.of(request) for request in requests}
    emulator.plan_next_run(requests[0].imodel_id, "Error", duration=1)
    emulator.plan_next_run(requests[1].imodel_id, "Success", duration=1)

    def updated(update: RunUpdate) -> None:
        assert update.request is not None
        progress.updated(records[update.request.imodel_id], update)

    several = client.export_many(requests, on_update=updated)
    ended = 0
    async for outcome in several:
        record = records[outcome.request.imodel_id]
        record.finish_with(outcome)
        progress.finished(record)
        ended += 1
        if ended == 10:
            break
    await several.aclose()
    lines = picture(progress, console)
    assert len(lines) <= 14
    assert re.search(r"9 done, 1 failed, 30 left, 10 of them active", lines[1])
    assert re.search(r"about .* left \(.* to .*\) · 4,812 calls left in the rate limit", lines[2])
    assert lines[3].startswith("failed  [b0]: the run ended with Error: TAE_")
    assert any(re.match(r"\[b\d+\] +Executing +0/1 ", line) for line in lines)
    assert any(re.match(r"and \d+ more", line) for line in lines)


def test_run_without_tasks_is_shown_without_any() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    progress = BatchProgress(console, 1, lambda: None)
    record = Record(name="b", destination="b/")
    progress.updated(record, RunUpdate(run=Run(id="r1", state=ExecutionState.QUEUED)))
    assert re.fullmatch(r"b +Queued +0.0 s +r1", picture(progress, console)[-1])


def test_pace_counts_only_exports_of_this_call() -> None:
    assert estimate_by_pace(left=10, finished=0, elapsed=60) is None
    assert estimate_by_pace(left=10, finished=5, elapsed=60) == 120


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1.25, "1.2 s"),
        (45, "45 s"),
        (95, "1 min 35 s"),
        (149, "2 min 29 s"),
        (720, "12 min"),
        (5400, "90 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_durations_are_readable(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_missing_file_has_no_size() -> None:
    record = Record(name="x", destination="x")
    record.finish(paths=[Path("/nowhere/x.ifc")])
    assert size(record.files[0].size) == "gone"
