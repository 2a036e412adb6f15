"""The end of a batch: equal failures together."""

from datetime import UTC, datetime
from pathlib import Path

from itwin_export_async import (
    ExecutionState,
    ExportRequest,
    PermissionDenied,
    Run,
    RunTimeout,
    ServerError,
)
from itwin_export_async.cli.errors import failure_group
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.report.page import page
from itwin_export_async.cli.output.summary import MAX_GROUPS, failure_lines, group_failures


def failed(name: str, error: Exception) -> Record:
    record = Record.of(ExportRequest(imodel_id=f"m-{name}", destination=f"{name}/", key=name))
    record.finish(error=error)
    return record


def denied(number: int, *, code: str = "Denied") -> PermissionDenied:
    message = f"request {number} of 7dbd531d-6967-47b2-8945-a722a437ad{number:02} was refused"
    return PermissionDenied(status=403, code=code, message=message)


def test_failures_that_differ_in_ids_are_equal() -> None:
    assert failure_group(denied(1)) == failure_group(denied(2))
    assert failure_group(denied(1)) != failure_group(denied(1, code="Other"))
    assert failure_group(OSError(28, "full")) != failure_group(OSError(28, "gone"))
    first, second = (
        RunTimeout(connection_id="c", run_id="r", message=f"is still Executing after {n} s")
        for n in (1, 2)
    )
    assert failure_group(first) == failure_group(second)


def test_largest_group_comes_first() -> None:
    records = [failed("a", ServerError(status=500))]
    records += [failed(f"b{number}", denied(number)) for number in range(3)]
    assert [len(group) for group in group_failures(records)] == [3, 1]
    text = "\n".join(failure_lines(records))
    assert text.startswith("4 of 4 exports failed:\n\n  3 exports: b0, b1, b2\n    403 Denied")
    assert text.count("-> ") == 2


def test_very_many_kinds_of_failures_are_counted() -> None:
    names = [chr(65 + number) * 3 for number in range(MAX_GROUPS + 2)]
    records = [failed(name, denied(1, code=name)) for name in names]
    assert list(failure_lines(records))[-1].startswith("  and 2 other kinds of failure")


def test_run_of_a_timeout_is_kept() -> None:
    run = Run(id="r", connection_id="c", state=ExecutionState.QUEUED)
    error = RunTimeout(connection_id="c", run_id="r", run=run, resume_token="1.a.b")
    record = failed("a", error)
    assert (record.run == run, record.resume_token) == (True, "1.a.b")


def test_report_has_a_heading_for_equal_failures() -> None:
    records = [failed("a", ServerError(status=500))]
    records += [failed(f"b{number}", denied(number)) for number in range(3)]
    now = datetime.now(UTC)
    html = "".join(page(records, began=now, now=now, folder=Path()))
    assert html.count("<h3>") == 1
    assert "<h3>3 exports: 403 Denied: request 0 of " in html
