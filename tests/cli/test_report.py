"""The report: its content, that it is safe to pass on, and that a browser shows it."""

import os
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from itwin_export_async import (
    AuthorizationRequired,
    Conflict,
    DownloadError,
    ExecutionResult,
    ExecutionState,
    ExportRequest,
    InvalidRequest,
    Job,
    LedgerError,
    NotFound,
    NothingToExport,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestStats,
    RequestTimeout,
    Run,
    RunFailed,
    RunPartlyFailed,
    RunTimeout,
    RunUpdate,
    ServerError,
    StartTimeout,
    Task,
    TaskErrorInfo,
    TokenError,
    TransportError,
    UploadError,
)
from itwin_export_async.cli.errors import (
    MissingToken,
    RecordedError,
    failed_tasks,
    hint,
    message,
    safe_link,
    summary_line,
)
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.report.page import page, prepare_report, write_report
from itwin_export_async.cli.output.report.timeline import ROWS_DRAWN, all_runs, one_run
from tests.support.browser import Browser

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
KB = "https://kb.example/article?id=KB0012345"


def after(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def a_run(number: int = 0, *, bad: TaskErrorInfo | None = None, whole: bool = True) -> Run:
    """A run that began `number` seconds late; `whole`: its jobs are known."""
    result = ExecutionResult.ERROR if bad else ExecutionResult.SUCCESS
    done: dict[str, Any] = {"state": ExecutionState.COMPLETED, "result": result, "raw": {"a": "b"}}
    task = Task(
        id="t1",
        start_date_time=after(number + 20),
        end_date_time=after(number + 80),
        error=bad,
        **done,
    )
    waiting = Task(id="t2", state=ExecutionState.QUEUED)
    job = Job(
        id="j1",
        start_date_time=after(number + 10),
        end_date_time=after(number + 90),
        tasks=(task, waiting),
        **done,
    )
    return Run(
        id=f"r{number}",
        connection_id="c1",
        start_date_time=after(number),
        end_date_time=after(number + 100),
        jobs=(job,) if whole else (),
        **done,
    )


def a_record(name: str, run: Run | None, **ends: Any) -> Record:
    request = ExportRequest(imodel_id=f"m-{name}", destination=f"out/{name}/", key=name)
    record = Record.of(request)
    if run is not None:
        states = (ExecutionState.QUEUED, ExecutionState.EXECUTING, ExecutionState.EXECUTING)
        for state in states:
            record.update(RunUpdate(run=evolve(run, state=state, result=None)))
        record.update(RunUpdate(run=run))
    record.finish(**ends)
    return record


def failed(name: str, **error: Any) -> Record:
    run = a_run(bad=TaskErrorInfo(**error))
    return a_record(
        name,
        run,
        error=RunFailed(message="ended with Error", connection_id="c1", run_id="r0", run=run),
    )


def text(records: list[Record], folder: Path = Path(".")) -> str:
    return "".join(page(records, began=BEGAN, now=after(120), folder=folder))


class Checked(HTMLParser):
    """Reads HTML, and minds what is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(html: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Checked()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser.seen


def test_failures_come_first_with_hints(tmp_path: Path) -> None:
    file = tmp_path / "a b.ifc"
    file.write_bytes(b"ifc" * 1000)
    elsewhere = Path(__file__)
    records = [
        a_record("good", a_run(), paths=[file, elsewhere]),
        failed(
            "bad", error_code="TAE_1", description="No room.", can_user_fix=True, kb_article_link=KB
        ),
        failed("worse", can_user_fix=False),
        Record.of(ExportRequest(imodel_id="m", destination="out/later.ifc")),
        a_record("active", evolve(a_run(), state=ExecutionState.EXECUTING, result=None)),
        a_record("begun", None),
    ]
    records[4].finished_at = records[5].finished_at = None
    records[5].start()
    html = text(records, tmp_path)
    seen = checked(html)
    assert "Exports: 2 failed, 3 not finished" in html
    places = [
        html.index(f">{word}<") for word in ("Failed", "Not finished", "Timeline", "Exported")
    ]
    assert places == sorted(places)
    assert "The run ended with Error: TAE_1: No room." in html
    assert "You can fix it." in html
    assert "You cannot fix it." in html
    assert "Correct the iModel or the mapping as described" in html
    assert "no explanation" in html
    assert ("a", {"href": KB, "rel": "noreferrer"}) in seen
    assert ("a", {"href": "a%20b.ifc"}) in seen
    assert f"<li>{elsewhere} · " in html
    assert "Queued → Executing → Completed" in html
    assert "<b>not started</b>later.ifc" in html
    assert "<b>preparing</b>begun" in html
    assert "<b>Executing</b>active" in html
    assert not [tag for tag, _ in seen if tag in ("script", "link", "img", "iframe")]


def test_run_of_an_earlier_call_needs_no_jobs() -> None:
    record = Record.of(ExportRequest(imodel_id="m", destination="out/"))
    record.run = a_run(whole=False)
    record.finish(paths=[])
    assert "All exports succeeded" in text([record])
    assert "Success" in text([record])
    record.run = evolve(a_run(), start_date_time=None)
    assert all_runs([record]) == one_run(record) == ""
    record.run = None
    assert '<b class="good">done</b>' in text([record])


def test_requests_are_counted() -> None:
    stats = RequestStats(calls=1234, polls=1000, retries=1)
    html = "".join(page([], began=BEGAN, now=BEGAN, folder=Path("."), stats=stats))
    assert "1,234 calls to the service, of them 1,000 polls and 1 retry" in html


def test_texts_are_escaped_and_secrets_left_out() -> None:
    nasty = "<script>alert(1)</script>\"'&"
    signed = "https://a.blob.example/x?sig=planted"
    record = failed(
        nasty, error_code=nasty, description=f"{nasty} {signed}", kb_article_link=signed
    )
    record.connection_id = record.run_id = record.imodel_id = nasty
    other = a_record(nasty, a_run(), error=DownloadError(message=f"{signed} failed"))
    html = text([record, other, failed("x", kb_article_link="javascript:alert(1)")])
    checked(html)
    assert "<script" not in html
    assert "javascript:" not in html
    assert "planted" not in html


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        (KB, True),
        ("", False),
        ("javascript:alert(1)", False),
        ("https://a.example/x?a=1&SIG=2", False),
        ("http://a.example/", True),
        ("https://bücher.example:8443/a", True),
        ("https://[kb/KB0041879", False),
        ("https://kb.example@evil.example/", False),
        ("https://a.example/x\nitwin-export: all good", False),
    ],
)
def test_links_lead_to_pages_only(url: str, safe: bool) -> None:
    assert safe_link(url) == (url if safe else None)


def test_run_is_drawn_by_the_service_clock() -> None:
    (rects,) = [re.findall(r'class="([^"]*)" x="([\d.]+)%" y="\d+" width="([\d.]+)%"', one_run(r))
                for r in [failed("bad")]]  # fmt: skip
    assert rects == [
        ("run bad", "0.00", "100.00"),
        ("job bad", "10.00", "80.00"),
        ("task bad", "20.00", "60.00"),
    ]
    rows = all_runs([a_record("a", a_run()), a_record("b", a_run(100)), a_record("c", None)])
    assert rows.count("<svg") == 2
    assert '<rect class="waiting" x="0.00%" y="18" width="5.00%"' in rows
    assert '<rect class="run" x="55.00%" y="18" width="45.00%"' in rows
    assert "+ 3 min" in rows
    plain = all_runs([a_record("a", a_run(whole=False))])
    assert '<rect class="run" x="0.00%" y="18" width="100.00%"' in plain


def test_many_runs_are_drawn_as_their_number() -> None:
    records = [a_record(f"b{n}", a_run(n % 50)) for n in range(ROWS_DRAWN + 1)]
    drawing = all_runs(records)
    assert f"up to {ROWS_DRAWN + 1} runs at once" in drawing
    assert len(drawing) < 60_000
    spread = all_runs([a_record(f"b{n}", a_run(1000 * n)) for n in range(ROWS_DRAWN + 1)])
    assert "up to 1 run at once" in spread
    assert 0 < spread.count("<rect") < 240


async def test_report_of_ten_thousand_exports_opens_in_a_browser(
    browser: Browser, tmp_path: Path
) -> None:
    records = [a_record(f"b{n}", a_run(n)) for n in range(9_700)]
    records += [failed(f"f{n}", description="No room.") for n in range(300)]
    write_report(tmp_path / "r.html", records, began=BEGAN, now=after(99_999))
    assert (tmp_path / "r.html").stat().st_size < 12_000_000
    async with browser.page((tmp_path / "r.html").as_uri()) as shown:
        assert await shown.value("document.querySelectorAll('details').length") == 10_000


@pytest.mark.parametrize("dark", [False, True])
async def test_browser_shows_the_report(browser: Browser, tmp_path: Path, dark: bool) -> None:
    write_report(tmp_path / "r.html", [a_record("a", a_run())], began=BEGAN, now=after(9))
    async with browser.page((tmp_path / "r.html").as_uri()) as shown:
        picture = await shown.screenshot(1280, 900, dark=dark)
        background = await shown.value("getComputedStyle(document.body).backgroundColor")
    assert picture.startswith(b"\x89PNG")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 3 * 128
    assert light is not dark


def test_report_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / "r.html"
    write_report(report, [], began=BEGAN, now=BEGAN)
    before = report.read_text()

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"^/.*/r\.html: the report cannot be written: No space left"):
        write_report(report, [a_record("a", None)], began=BEGAN, now=BEGAN)
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    assert report.read_text() == before


def test_surrogate_is_spelled_out(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", [a_record("\ud800x", None)], began=BEGAN, now=BEGAN)
    assert "\\ud800x" in (tmp_path / "r.html").read_text()


def test_file_with_an_undecodable_name_is_linked(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path / "b") + b"\xfc.ifc"))
    file.touch()
    assert ("a", {"href": "b%FC.ifc"}) in checked(
        text([a_record("a", None, paths=[file])], tmp_path)
    )


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (".", "report: . is a folder, not a file"),
        ("/dev/null", "report: /dev/null is a device or pipe, not a file"),
        ("x" * 300, " cannot be written: File name too long"),
    ],
)
async def test_impossible_path_of_a_report_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{re.escape(text)}$"):
        await prepare_report(Path(place))
    assert not list(tmp_path.iterdir())


async def test_earlier_report_is_left_alone_by_the_check(tmp_path: Path) -> None:
    await prepare_report(tmp_path / "new" / "r.html")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "r.html").write_text("an earlier one")
    await prepare_report(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "an earlier one"


def not_fetched(cause: Exception | None) -> DownloadError:
    error = DownloadError(message="x")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RunFailed(connection_id="c", run_id="r"), "Export again"),
        (
            RunTimeout(connection_id="c", run_id="r", resume_token="1.a.b"),
            "itwin-export watch 1.a.b -o PATH",
        ),
        (AuthorizationRequired(), "itwin-export auth consent --open"),
        (PermissionDenied(status=403), "administrator"),
        (NotFound(status=404, code="OperationNotFound"), "--base-url"),
        (NotFound(status=404), "Check the id"),
        (InvalidRequest(status=422), "Correct the parameter"),
        (Conflict(status=409), "--if-active wait"),
        (RateLimited(status=429), "--tier community"),
        (TransportError(message="x"), "Check the network"),
        (LedgerError(message="x", key="k"), "a key of its own"),
        (LedgerError(message="x"), "--ledger"),
        (OSError(28, "No space left"), "has room"),
        (not_fetched(OSError(28, "No space left")), "has room"),
        (not_fetched(ServerError(status=503)), "Check the network"),
        (not_fetched(RequestTimeout(message="x")), "Check the network"),
        (not_fetched(RateLimited(status=429)), "Wait, or use --tier"),
        (not_fetched(NotFound(status=404)), "Try again later"),
        (not_fetched(None), "Try again later"),
        (DownloadError(message="x", reason="disk"), "has room"),
        (NothingToExport(imodel_id="m"), "named version"),
        (UploadError(message="x"), "disk has room"),
        (RunPartlyFailed(connection_id="c", run_id="r"), "--keep-partial"),
        (MissingToken("x"), "itwin-export demo"),
        (RecordedError("x", "PermissionDenied"), "administrator"),
        (RecordedError("x", "Another"), "Run the batch again"),
        (TokenError(message="x"), "Get a new ITWIN_ACCESS_TOKEN"),
        (TokenError(message="x", is_transient=True), "Check the network"),
        (StartTimeout(imodel_id="m", seconds=9.0), "a longer --timeout"),
        (ProtocolError(message="x"), "contact Bentley's support"),
        (ValueError("x"), "a bug"),
    ],
)
def test_every_error_has_a_hint(error: Exception, text: str) -> None:
    assert text in hint(error)
    assert message(error)
    assert "\n" not in summary_line(error)


def test_known_cause_has_the_hint_of_the_knowledge_base() -> None:
    error = failed("x", error_code="X", description="the mapping file is broken").error
    assert error is not None
    assert hint(error).startswith("The mapping file does not fit its schema: start again from ")


def test_advice_for_programmers_is_left_out() -> None:
    text = "is still Executing after 9 s; it may still be running, "
    text += "client.resume(error.resume_token) waits for it again"
    error = RunTimeout(connection_id="c", run_id="r", message=text)
    assert summary_line(error) == "the run is still Executing after 9 s; it may still be running"
    assert message(ValueError()) == "ValueError"
    assert message(ValueError("a 'b' is not one of 'c' (a newer one passes as C('b'))")) == (
        "a 'b' is not one of 'c'"
    )


def test_task_without_an_explanation_says_so() -> None:
    run = evolve(a_run(), jobs=(Job(id="j", state=ExecutionState.COMPLETED, tasks=(
        Task(id="t", state=ExecutionState.COMPLETED, result=ExecutionResult.ERROR),
    )),))  # fmt: skip
    (task,) = failed_tasks(RunFailed(connection_id="c", run_id="r", run=run))
    assert (task.result, task.reason, task.can_user_fix, task.link) == (
        *("Error", "no explanation"),
        *(None, None),
    )
