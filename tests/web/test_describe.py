"""describe_run and describe_health: what visitors see of a run and of the client."""

from datetime import UTC, datetime

import pytest

from itwin_export_async import ClientHealth, Estimate, RunErrorInfo, TaskErrorInfo
from itwin_export_async.web import describe_health, describe_run
from tests.support.samples import job, run, task

START = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
END = datetime(2026, 11, 22, 9, 37, tzinfo=UTC)


def failed(**error: object) -> dict[str, object]:
    """What a visitor sees of a task with this error."""
    info = TaskErrorInfo(**error)  # type: ignore[arg-type]
    described = describe_run(run(job(task(result="Error", error=info)), result="Error"))
    (failure,) = described["failures"]
    assert isinstance(failure, dict)
    return failure


def test_run_that_succeeded_is_described_without_failures() -> None:
    final = run(job(task()), start_date_time=START, end_date_time=END)
    assert describe_run(final) == {
        "state": "Completed",
        "outcome": "Success",
        "is_final": True,
        "started_at": "2026-11-22T09:30:00+00:00",
        "finished_at": "2026-11-22T09:37:00+00:00",
        "remaining": None,
        "failures": [],
    }


def test_active_run_has_no_outcome_and_the_estimate() -> None:
    active = run(state="Executing", result=None, start_date_time=START)
    estimate = Estimate(low=60.0, median=90.0, high=200.0)
    described = describe_run(active, estimate)
    assert described["outcome"] is None
    assert described["is_final"] is False
    assert described["remaining"] == {"low": 60.0, "median": 90.0, "high": 200.0}
    assert describe_run(run(), estimate)["remaining"] is None


def test_outcome_is_the_true_one() -> None:
    described = describe_run(run(job(task(result="Error"))))
    assert described["outcome"] == "Error"
    assert len(described["failures"]) == 1


def test_failure_has_code_text_remedy_and_link() -> None:
    assert failed(
        error_code="TAE_BRW_1000",
        description="Failed to read the references of Bridge.dgn.",
        message="internal text",
        can_user_fix=True,
        kb_article_link="https://kb.example.com/41879?id=1",
    ) == {
        "code": "TAE_BRW_1000",
        "text": "Failed to read the references of Bridge.dgn.",
        "can_user_fix": True,
        "link": "https://kb.example.com/41879?id=1",
    }


def test_message_stands_for_a_missing_description() -> None:
    assert failed(message="too many elements")["text"] == "too many elements"


def test_failure_without_an_error_is_empty() -> None:
    (failure,) = describe_run(run(job(task(result="TimedOut")), result="Error"))["failures"]
    assert failure == {"code": "", "text": "", "can_user_fix": None, "link": None}


def test_error_of_the_whole_run_is_a_failure_where_no_task_failed() -> None:
    error = RunErrorInfo(error_key="UserNotAuthenticated", description="Sign in again.")
    (failure,) = describe_run(run(result="Error", error=error))["failures"]
    assert failure["code"] == "UserNotAuthenticated"
    assert failure["text"] == "Sign in again."


@pytest.mark.parametrize(
    "link",
    [
        "",
        "http://kb.example.com/41879",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "https://user@kb.example.com/",
        "https://kb.example.com\\@other.example/",
        'https://kb.example.com/"onclick="x',
        "https://kb.example.com/\nx",
        "https://[kb.example.com/",
        "//kb.example.com/",
    ],
)
def test_link_that_is_no_plain_https_page_is_left_out(link: str) -> None:
    assert failed(kb_article_link=link)["link"] is None


@pytest.mark.parametrize(
    "internal",
    [
        "https://blobs.example/exports/1?sig=secret",
        "abfs://container@account/x",
        "C:\\Jobs\\7\\Bridge.dgn",
        "D:/jobs/Bridge.dgn",
        "\\\\fileserver\\share\\Bridge.dgn",
        "/mnt/jobs/7/Bridge.dgn",
        "/tmp/x",
        "728f7680-0ee2-42b9-8e18-48b206feb22b",
        "10.2.0.17:8443",
        "worker-7.export.internal",
        "imodel.blob.core.windows.net",
        "Bearer abcdefghijk",
        "sig=abcdefghijk",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3",
    ],
)
def test_text_shows_nothing_internal(internal: str) -> None:
    text = failed(description=f"Could not read {internal} now", error_code=internal)
    assert text["text"] == "Could not read [...] now"
    assert internal not in str(text["code"])


def test_text_is_one_printable_line_of_bounded_length() -> None:
    assert failed(description="a\r\nb\x1b[31m")["text"] == "a b[31m"
    assert len(str(failed(description="word " * 10_000)["text"])) == 500


def test_plain_words_stay_as_they_are() -> None:
    text = "The mapping file and/or view 4.3 of Bridge.dgn (1,500,000 elements) is too large: 7/8"
    assert failed(description=text)["text"] == text


def test_health_is_ok_while_the_service_answers() -> None:
    described = describe_health(ClientHealth(is_open=True, last_response_at=START, runs_polled=3))
    assert described == {
        "ok": True,
        "outage_since": None,
        "last_response_at": "2026-11-22T09:30:00+00:00",
        "runs_polled": 3,
    }


def test_health_is_not_ok_in_an_outage_and_while_closed() -> None:
    described = describe_health(ClientHealth(is_open=True, outage_since=START))
    assert (described["ok"], described["outage_since"]) == (False, "2026-11-22T09:30:00+00:00")
    assert describe_health(ClientHealth(is_open=False))["ok"] is False
