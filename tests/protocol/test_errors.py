"""One tree of errors: each carries its facts, tells them, and pickles with them."""

import copy
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

from itwin_export_async import _errors
from itwin_export_async._errors import (
    AuthorizationRequired,
    Conflict,
    DownloadError,
    ErrorDetail,
    ExportError,
    LedgerError,
    NotFound,
    ProtocolError,
    RequestTimeout,
    ResponseError,
    RunError,
    RunFailed,
    RunPartlyFailed,
    RunTimeout,
    RunUnreachable,
    StartTimeout,
    TokenError,
    TransportError,
    UploadError,
)
from itwin_export_async._models import Run, TaskErrorInfo
from itwin_export_async._protocol.codec import decode
from itwin_export_async._redaction import redacted
from tests.support.samples import answer, job, run, task


def tree(root: type[ExportError] = ExportError) -> Iterator[type[ExportError]]:
    """All error classes of the package's own modules."""
    if root.__module__.startswith(f"{_errors.__name__}."):
        yield root
    for child in root.__subclasses__():
        yield from tree(child)


BROKEN = TaskErrorInfo(
    error_code="TAE_BRW_1000",
    description="Failed to export your file.",
    kb_article_link="https://kb.example.com/41879",
    can_user_fix=True,
)
LAST = run(job(task("t1", "Error", error=BROKEN), task("t2")))
_RESPONSE = {
    "status": 409,
    "code": "SomeCode",
    "message": "some text",
    "details": (ErrorDetail(code="D", message="detail text", target="connectionId"),),
    "request_id": "q1",
    "method": "POST",
    "url": "https://h/p",
    "retry_after": 2.5,
    "headers": {"Date": "today"},
}
_RUN = {
    "message": "went wrong",
    "connection_id": "c1",
    "run_id": "r1",
    "run": LAST,
    "resume_token": "{}",
}
_EXCHANGE = {"message": "some text", "method": "GET", "url": "https://h/p"}
FACTS: dict[type[ExportError], dict[str, Any]] = {
    ResponseError: _RESPONSE,
    TransportError: _EXCHANGE | {"may_have_been_processed": False},
    ProtocolError: _EXCHANGE | {"path": "run.state"},
    TokenError: {"message": "some text", "is_transient": True},
    AuthorizationRequired: {"url": "https://portal.example.com/authenticate"},
    DownloadError: {"message": "some text", "file_id": "f1", "destination": "out/a.ifc"},
    UploadError: {"message": "some text", "source": "in/mapping.json"},
    LedgerError: {"message": "some text", "path": "exports.db", "key": "bridge"},
    StartTimeout: {"imodel_id": "m1", "seconds": 2.5},
    RunError: _RUN,
}
TREE = tuple(kind for kind in tree() if kind is not ExportError)


def facts_of(kind: type[ExportError]) -> dict[str, Any]:
    return next(facts for parent, facts in FACTS.items() if issubclass(kind, parent))


def made(kind: type[ExportError]) -> ExportError:
    return kind(**facts_of(kind))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", TREE)
def test_every_error_pickles_and_keeps_its_facts(kind: type[ExportError], protocol: int) -> None:
    error = pickle.loads(pickle.dumps(made(kind), protocol))
    assert type(error) is kind
    assert {name: getattr(error, name) for name in facts_of(kind)} == facts_of(kind)
    assert str(error) == str(made(kind))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_root_of_the_tree_pickles_too(protocol: int) -> None:
    error = pickle.loads(pickle.dumps(ExportError("boom"), protocol))
    assert type(error) is ExportError
    assert str(error) == "boom"


@pytest.mark.parametrize("kind", TREE)
def test_every_error_tells_its_facts(kind: type[ExportError]) -> None:
    facts, text = facts_of(kind), str(made(kind))
    told = {"message", "code", "status", "path", "source", "destination", "imodel_id", "seconds"}
    for name in (told | {"run_id", "connection_id"}) & facts.keys():
        assert str(facts[name]) in text


@pytest.mark.parametrize("kind", TREE)
def test_every_error_has_one_root(kind: type[ExportError]) -> None:
    with pytest.raises(ExportError):
        raise made(kind)


def test_what_took_too_long_is_a_timeout_error() -> None:
    assert issubclass(RequestTimeout, TimeoutError)
    assert issubclass(RunTimeout, TimeoutError)
    assert issubclass(StartTimeout, TimeoutError)
    assert not issubclass(RunUnreachable, TimeoutError)


def test_the_tree_is_the_one_that_is_drawn() -> None:
    drawn = (_errors.__doc__ or "").partition("\n\n")[2].rpartition("\n\n")[0]
    names = [kind.__name__ for kind in TREE]
    assert sorted(re.findall(r"─ (\w+)", drawn)) == sorted(names)
    assert sorted([*names, "ErrorDetail", "ExportError"]) == sorted(_errors.__all__)


def test_a_start_that_took_too_long_says_that_there_may_be_a_run() -> None:
    text = str(StartTimeout(imodel_id="m1", seconds=3600.0))
    assert "iModel m1 had no run after 3600 s" in text
    assert "one that was being started goes on" in text


def test_the_headers_of_a_refusal_are_looked_up_without_regard_to_case() -> None:
    error = ResponseError(status=429, headers={"Retry-After": "3"})
    for again in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert again.headers["retry-after"] == again.headers.get("RETRY-AFTER") == "3"
        assert list(again.headers) == ["Retry-After"]
        assert again.headers == error.headers == {"Retry-After": "3"}
        assert again.headers != ResponseError(status=429).headers


def test_an_error_without_facts_still_reads_well() -> None:
    assert str(ResponseError(status=500)) == "500"
    assert str(ProtocolError(message="odd")) == "odd"
    assert "get_authorization" in str(AuthorizationRequired())
    assert str(DownloadError(message="gone", file_id="f1")) == "f1: gone"
    assert str(UploadError(message="gone")) == "gone"


@pytest.mark.parametrize("kind", [TransportError, ProtocolError])
def test_an_address_is_kept_without_its_query(kind: type[ExportError]) -> None:
    error: Any = kind(**facts_of(kind) | {"url": "https://u:planted@h/p?sig=planted"})
    assert error.url == "https://h/p"
    assert "planted" not in repr(error) + str(error) + pickle.dumps(error).decode("latin-1")


def test_a_page_for_the_user_is_told_whole() -> None:
    page = "https://portal.example.com/authenticate?redirect_url=https://me.example.com"
    assert page in str(AuthorizationRequired(url=page))


def test_a_conflict_may_have_no_run_to_hold() -> None:
    assert Conflict(status=409).handle is None


def test_a_plain_404_does_not_blame_the_path() -> None:
    assert "version" not in str(NotFound(status=404, code="FileNotFound"))


def failed(*tasks: Any, **more: Any) -> str:
    return str(RunFailed(connection_id="c1", run_id="r1", run=run(job(*tasks)), **more))


def test_a_failed_run_names_code_description_remedy_and_link() -> None:
    text = failed(task("t1", "Error", error=BROKEN))
    for fact in ("r1", "c1", "t1", "TAE_BRW_1000", "Failed to export your file.",
                 "can be fixed by the user", "https://kb.example.com/41879"):  # fmt: skip
        assert fact in text


def test_a_failed_run_names_every_failed_task_and_no_other() -> None:
    text = failed(task("bad1", "Error"), task("fine"), task("bad2", "TimedOut"))
    assert "bad1" in text
    assert "bad2" in text
    assert "fine" not in text


def test_a_failure_that_nobody_can_fix_says_so() -> None:
    assert "cannot be fixed by the user" in failed(
        task("t1", "Error", error=TaskErrorInfo(error_code="E", can_user_fix=False))
    )


def test_a_remedy_the_service_did_not_tell_is_not_made_up() -> None:
    text = failed(task("t1", "Error", error=TaskErrorInfo(error_code="E1", message="why")))
    assert "E1: why" in text
    assert "fixed by the user" not in text


def test_a_task_without_an_explanation_is_still_named() -> None:
    assert "t1 ended with Canceled" in failed(task("t1", "Canceled"))
    assert "E2" in failed(task("t1", "Error", error=TaskErrorInfo(error_code="E2")))


def test_a_failed_run_that_was_never_seen_is_still_told() -> None:
    error = RunFailed(connection_id="c1", run_id="r1", message="failed")
    assert str(error) == "run r1 of connection c1 failed"


def test_a_partly_failed_run_is_a_failed_one() -> None:
    assert issubclass(RunPartlyFailed, RunFailed)


def failed_whole(**fault: str | None) -> str:
    body = {"run": {"id": "r1", "state": "Completed", "result": "Error", "error": fault}}
    seen = decode(answer(body), "run", Run)
    return str(RunFailed(connection_id="c1", run_id="r1", run=seen))


def test_the_reason_of_a_whole_run_is_told() -> None:
    text = failed_whole(errorKey="FolderGone", description="No such folder.")
    assert "FolderGone: No such folder." in text
    assert "get_authorization" not in text
    assert failed_whole(errorKey="FolderGone", description=None).endswith("FolderGone")


def test_a_task_is_told_in_one_line_whatever_the_service_says() -> None:
    text = failed(
        task(
            "t\n1", "Error", error=TaskErrorInfo(error_code="E\r\n", kb_article_link="https://x\ny")
        ),
        task("t\n2", "TimedOut"),
    )
    assert text.splitlines()[1:] == [
        "  task t 1 ended with Error: E (see https://x y)",
        "  task t 2 ended with TimedOut, without an explanation",
    ]


def test_a_reason_is_one_line_whatever_the_service_says() -> None:
    text = failed_whole(errorKey="Folder\nGone", description="No\r\n  such folder.")
    assert "\n  Folder Gone: No such folder." in text
    assert len(text.splitlines()) == len(failed_whole(errorKey="FolderGone").splitlines())


def test_a_user_who_has_not_agreed_is_told_where_they_can() -> None:
    text = failed_whole(errorKey="UserNotAuthenticated", description="User is not authenticated.")
    assert "UserNotAuthenticated: User is not authenticated." in text
    assert "get_authorization" in text


def test_a_reason_without_words_leaves_no_blank_line() -> None:
    assert failed_whole() == failed_whole(errorKey="", description="")
    assert "\n" not in failed_whole()


def test_a_token_to_resume_with_is_not_in_the_repr() -> None:
    assert "resume-me" not in repr(
        RunTimeout(connection_id="c", run_id="r", resume_token="resume-me")
    )


@pytest.mark.parametrize(
    "text",
    ["Bearer abc.planted", "sig=planted%3D&x=1", "client_secret: planted", '"password":"planted"',
     "eyJhbGciOiJSUzI1NiJ9.planted", "refresh_token=planted", "SIG=planted",
     "login?next=https%3A%2F%2Fh%2Fb%3Fsv%3D1%26sig%3Dplanted", "to=%3Fsig%253dplanted"],
)  # fmt: skip
def test_what_looks_like_a_secret_is_redacted(text: str) -> None:
    assert "planted" not in redacted(f"before {text} after")
    assert redacted(f"before {text} after").startswith("before ")
