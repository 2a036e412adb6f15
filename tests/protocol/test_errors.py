"""The tree of errors: each error has its facts, shows them, and pickles with them."""

import copy
import pickle
import re
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

import itwin_export_async
from itwin_export_async import _errors
from itwin_export_async._errors import (
    AuthorizationRequired,
    Conflict,
    DownloadError,
    ErrorDetail,
    ExportError,
    InvalidRequest,
    InvalidSignature,
    LedgerError,
    NotFound,
    NothingToExport,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseError,
    RunError,
    RunFailed,
    RunPartlyFailed,
    RunTimeout,
    RunUnreachable,
    ServerError,
    StartTimeout,
    TokenError,
    TransportError,
    UploadError,
)
from itwin_export_async._models import Run, TaskErrorInfo, hints
from itwin_export_async._protocol.codec import decode
from tests.support.samples import answer, job, run, task


def tree(root: type[ExportError] = ExportError) -> Iterator[type[ExportError]]:
    """All error classes of the package itself."""
    if getattr(_errors, root.__name__, None) is root:
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
    "correlation_id": "k1",
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
    "resume_token": "t",
}
_HTTP = {"message": "some text", "method": "GET", "url": "https://h/p"}
FACTS: dict[type[ExportError], dict[str, Any]] = {
    ResponseError: _RESPONSE,
    TransportError: _HTTP | {"may_have_been_processed": False},
    ProtocolError: _HTTP | {"path": "run.state", "may_have_been_processed": False},
    TokenError: {"message": "some text", "is_transient": True},
    AuthorizationRequired: {"url": "https://portal.example.com/authenticate"},
    DownloadError: {
        "message": "some text",
        "reason": "refused",
        "file_id": "f1",
        "destination": "out/a.ifc",
        "is_transient": True,
    },
    UploadError: {"message": "some text", "source": "in/mapping.json"},
    LedgerError: {"message": "some text", "path": "exports.db", "key": "bridge"},
    NothingToExport: {"imodel_id": "m1", "message": "is a baseline"},
    StartTimeout: {"imodel_id": "m1", "seconds": 2.5},
    RunError: _RUN,
    InvalidSignature: {},
}
TREE = tuple(kind for kind in tree() if kind is not ExportError)
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


def facts_of(kind: type[ExportError]) -> dict[str, Any]:
    return next(facts for parent, facts in FACTS.items() if issubclass(kind, parent))


def made(kind: type[ExportError]) -> ExportError:
    return kind(**facts_of(kind))


def raised(error: ExportError) -> ExportError:
    try:
        raise error from OSError("the cause")
    except ExportError as caught:
        return caught


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", TREE)
def test_error_pickles_with_its_fields_and_notes(kind: type[ExportError], protocol: int) -> None:
    error = made(kind)
    error.add_note("seen at night")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert {name: getattr(again, name) for name in facts_of(kind)} == facts_of(kind)
    assert (str(again), again.__notes__) == (str(error), ["seen at night"])
    assert again.is_transient is error.is_transient
    assert again.may_have_been_processed is error.may_have_been_processed


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("error", [ExportError("boom"), InvalidSignature("no signature")])
def test_error_with_a_plain_text_pickles(error: ExportError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert again.args == error.args == (str(error),)


@pytest.mark.parametrize("kind", TREE)
def test_copy_of_an_error_keeps_traceback_cause_and_notes(kind: type[ExportError]) -> None:
    error = raised(made(kind))
    error.add_note("first")
    again = copy.copy(error)
    assert (type(again), str(again)) == (kind, str(error))
    assert again.__cause__ is error.__cause__ is not None
    assert again.__suppress_context__
    assert traceback.extract_tb(again.__traceback__) == traceback.extract_tb(error.__traceback__)
    again.add_note("second")
    assert error.__notes__ == ["first"]


class Custom(NotFound):
    """A caller's own subclass, which is constructed another way."""

    def __init__(self, model: str, *, color: str) -> None:
        super().__init__(status=404, code="NoModel", message=f"no {model}")
        self.color = color

    def __str__(self) -> str:
        return f"{self.color}: {super().__str__()}"


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
def test_subclass_of_a_caller_copies_and_pickles(again: Any) -> None:
    error = Custom("bridge", color="red")
    same = again(error)
    assert type(same) is Custom
    assert (str(same), same.color, same.code) == (str(error), "red", "NoModel")
    assert same.args == ("red: 404 NoModel: no bridge",)


@pytest.mark.parametrize("kind", TREE)
def test_args_of_an_error_are_its_sentence(kind: type[ExportError]) -> None:
    error = made(kind)
    assert error.args == (str(error),)


@pytest.mark.parametrize("kind", TREE)
def test_error_shows_its_facts(kind: type[ExportError]) -> None:
    facts, text = facts_of(kind), str(made(kind))
    shown = {"message", "code", "status", "path", "source", "destination", "imodel_id", "seconds"}
    shown |= {"run_id", "connection_id", "correlation_id"}
    for name in shown & facts.keys():
        assert str(facts[name]) in text


@pytest.mark.parametrize("kind", TREE)
def test_error_is_of_the_public_package(kind: type[ExportError]) -> None:
    assert getattr(itwin_export_async, kind.__name__) is kind
    assert kind.__module__ == "itwin_export_async"


def test_timeouts_are_timeout_errors() -> None:
    assert issubclass(RequestTimeout, TimeoutError)
    assert issubclass(RunTimeout, TimeoutError)
    assert issubclass(StartTimeout, TimeoutError)
    assert not issubclass(RunUnreachable, TimeoutError)


def test_tree_is_the_one_that_is_drawn() -> None:
    drawn = (_errors.__doc__ or "").partition("\n\n")[2].rpartition("\n\n")[0]
    names = [kind.__name__ for kind in TREE]
    assert sorted(re.findall(r"─ (\w+)", drawn)) == sorted(names)
    others = ["DownloadFailure", "ErrorDetail", "ExportError"]
    assert sorted([*names, *others]) == sorted(_errors.__all__)


@pytest.mark.parametrize(
    ("error", "is_transient", "may_have_been_processed"),
    [
        (TransportError(message="x"), True, True),
        (TransportError(message="x", may_have_been_processed=False), True, False),
        (RequestTimeout(message="x"), True, True),
        (ResponseError(status=408), True, True),
        (ResponseError(status=418), False, False),
        (InvalidRequest(status=422), False, False),
        (PermissionDenied(status=403), False, False),
        (NotFound(status=404), False, False),
        (Conflict(status=409), True, False),
        (Conflict(status=303), False, False),
        (RateLimited(status=429, retry_after=9.0), True, False),
        (ServerError(status=500), True, True),
        (ServerError(status=503), True, True),
        (ServerError(status=503, retry_after=1.0), True, False),
        (ProtocolError(message="x"), False, True),
        (ProtocolError(message="x", is_transient=True), True, True),
        (TokenError(message="x"), False, False),
        (TokenError(message="x", is_transient=True), True, False),
        (AuthorizationRequired(), False, False),
        (DownloadError(message="x", reason="incomplete"), False, False),
        (DownloadError(message="x", reason="refused", is_transient=True), True, False),
        (UploadError(message="x"), False, False),
        (LedgerError(message="x"), False, False),
        (InvalidSignature("x"), False, False),
        (NothingToExport(imodel_id="m"), False, False),
        (StartTimeout(imodel_id="m", seconds=1.0), True, True),
        (RunFailed(connection_id="c", run_id="r"), False, True),
        (RunTimeout(connection_id="c", run_id="r"), True, True),
        (RunUnreachable(connection_id="c", run_id="r"), True, True),
    ],
)
def test_error_says_whether_to_wait_and_whether_it_may_have_acted(
    error: ExportError, is_transient: bool, may_have_been_processed: bool
) -> None:
    assert error.is_transient is is_transient
    assert error.may_have_been_processed is may_have_been_processed


DOWNLOADS = [
    DownloadError(message="https://h/p", reason=reason, file_id="f1", destination="/out/a.ifc")
    for reason in (
        "not_finished",
        "no_output",
        "not_available",
        "refused",
        "incomplete",
        "mismatch",
        "disk",
    )
]


@pytest.mark.parametrize("error", [*map(made, TREE), *DOWNLOADS, ExportError("https://h/p")])
def test_public_sentence_holds_no_url_path_host_or_id(error: ExportError) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9 ,;.()]+", error.public)
    assert not re.search(r"://|\bh\b|\bf1\b|\bm1\b|\br1\b|\bc1\b|out|exports\.db", error.public)


def test_public_sentences_of_downloads_differ_by_reason() -> None:
    assert len({error.public for error in DOWNLOADS}) == len(DOWNLOADS)


def test_download_reason_is_one_of_the_known() -> None:
    with pytest.raises(ValueError, match="reason"):
        DownloadError(message="x", reason="because")  # type: ignore[arg-type]


def test_start_timeout_says_that_there_may_be_a_run() -> None:
    text = str(StartTimeout(imodel_id="m1", seconds=3600.0))
    assert "timed out after 3600 s before a run was started for iModel m1" in text
    assert "if a start was in flight, that run continues" in text.casefold()


def test_headers_of_a_response_error_are_looked_up_without_case() -> None:
    error = ResponseError(status=429, headers={"Retry-After": "3"})
    for again in (error, copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert again.headers["retry-after"] == again.headers.get("RETRY-AFTER") == "3"
        assert list(again.headers) == ["Retry-After"]
        assert again.headers == error.headers == {"Retry-After": "3"}
        assert again.headers != ResponseError(status=429).headers


def test_error_without_facts_still_reads_well() -> None:
    assert str(ResponseError(status=500)) == "500"
    assert str(ProtocolError(message="odd")) == "odd"
    assert "get_authorization" in str(AuthorizationRequired())
    assert str(DownloadError(message="gone", file_id="f1")) == "f1: gone"
    assert str(DownloadError(message="gone")) == "gone"
    assert str(UploadError(message="gone")) == "gone"
    assert str(NothingToExport(imodel_id="m1")) == "iModel m1 has no visible named version"


@pytest.mark.parametrize("kind", [TransportError, ProtocolError, ResponseError])
def test_url_of_an_error_has_no_query(kind: type[ExportError]) -> None:
    error: Any = kind(**facts_of(kind) | {"url": "https://u:planted@h/p?sig=planted"})
    assert error.url == "https://h/p"
    assert "planted" not in repr(error) + str(error) + pickle.dumps(error).decode("latin-1")


@pytest.mark.parametrize(
    "error",
    [
        TransportError(message="a\nb\x1b[31m https://h/?sig=planted"),
        ProtocolError(message="a\nb\x1b[31m https://h/?sig=planted"),
        TokenError(message="a\nb\x1b[31m client_secret=planted"),
        ResponseError(status=400, message="a\nb\x1b[31m Bearer planted"),
        ResponseError(status=400, code="a\nb\x1b[31m Bearer planted"),
        ResponseError(
            status=400, details=(ErrorDetail(code="c", message="a\nb\x1b Bearer planted"),)
        ),
        DownloadError(message="a\nb\x1b[31m sig=planted"),
        LedgerError(message="a\nb\x1b[31m sig=planted"),
        RunError(message="a\nb\x1b[31m sig=planted", connection_id="c", run_id="r\x1b"),
    ],
)
def test_text_of_an_error_is_one_line_without_secrets(error: ExportError) -> None:
    text = str(error)
    assert text.isprintable()
    assert "planted" not in text
    assert r"a b\x1b" in text


def test_text_of_an_error_is_short_whatever_the_service_sends() -> None:
    detail = ErrorDetail(code="c" * 9000, message="m" * 9000, target="t" * 9000)
    error = ResponseError(
        status=400,
        code="c" * 9000,
        message="m" * 9000,
        details=(detail,) * 9000,
        request_id="q" * 9000,
    )
    assert len(str(error)) < 20_000
    assert len(error.details) == 20


def test_page_for_the_user_is_shown_whole() -> None:
    page = "https://portal.example.com/authenticate?redirect_url=https://me.example.com"
    assert page in str(AuthorizationRequired(url=page))


def test_conflict_may_have_no_handle() -> None:
    assert Conflict(status=409).handle is None


def test_plain_404_does_not_blame_the_path() -> None:
    assert "version" not in str(NotFound(status=404, code="FileNotFound"))


def failed(*tasks: Any, **more: Any) -> str:
    return str(RunFailed(connection_id="c1", run_id="r1", run=run(job(*tasks)), **more))


def test_failed_run_names_code_description_remedy_and_link() -> None:
    text = failed(task("t1", "Error", error=BROKEN))
    for fact in ("r1", "c1", "t1", "TAE_BRW_1000", "Failed to export your file.",
                 "can be fixed by the user", "https://kb.example.com/41879"):  # fmt: skip
        assert fact in text


def test_failed_run_names_every_failed_task_and_no_other() -> None:
    text = failed(task("bad1", "Error"), task("fine"), task("bad2", "TimedOut"))
    assert "bad1" in text
    assert "bad2" in text
    assert "fine" not in text


def test_failed_run_says_that_the_user_cannot_fix_it() -> None:
    assert "cannot be fixed by the user" in failed(
        task("t1", "Error", error=TaskErrorInfo(error_code="E", can_user_fix=False))
    )


def test_failed_run_invents_no_remedy() -> None:
    text = failed(task("t1", "Error", error=TaskErrorInfo(error_code="E1", message="why")))
    assert "E1: why" in text
    assert "fixed by the user" not in text


def test_failed_task_without_an_explanation_is_still_named() -> None:
    assert "t1 finished with Canceled" in failed(task("t1", "Canceled"))
    assert "E2" in failed(task("t1", "Error", error=TaskErrorInfo(error_code="E2")))


def test_failed_run_without_a_snapshot_reads_well() -> None:
    error = RunFailed(connection_id="c1", run_id="r1", message="failed")
    assert str(error) == "run r1 of connection c1 failed"
    assert error.hints == ()


def test_partly_failed_run_is_a_failed_one() -> None:
    assert issubclass(RunPartlyFailed, RunFailed)


def failed_whole(**fault: str | None) -> str:
    body = {"run": {"id": "r1", "state": "Completed", "result": "Error", "error": fault}}
    snapshot = decode(answer(body), "run", Run)
    return str(RunFailed(connection_id="c1", run_id="r1", run=snapshot))


def test_failed_run_shows_the_error_of_the_whole_run() -> None:
    text = failed_whole(errorKey="FolderGone", description="No such folder.")
    assert "FolderGone: No such folder." in text
    assert "get_authorization" not in text
    assert failed_whole(errorKey="FolderGone", description=None).endswith("FolderGone")


def test_failed_task_is_one_line_whatever_the_service_sends() -> None:
    text = failed(
        task(
            "t\n1", "Error", error=TaskErrorInfo(error_code="E\r\n", kb_article_link="https://x\ny")
        ),
        task("t\n2", "TimedOut"),
    )
    assert text.splitlines()[1:] == [
        "  task t 1 finished with Error: E (see https://x y)",
        "  task t 2 finished with TimedOut and no explanation",
    ]


def test_error_of_a_whole_run_is_one_line_whatever_the_service_sends() -> None:
    text = failed_whole(errorKey="Folder\nGone", description="No\r\n  such folder.")
    assert "\n  Folder Gone: No such folder." in text
    assert len(text.splitlines()) == len(failed_whole(errorKey="FolderGone").splitlines())


def test_failed_run_names_the_page_for_a_missing_consent() -> None:
    text = failed_whole(errorKey="UserNotAuthenticated", description="User is not authenticated.")
    assert "UserNotAuthenticated: User is not authenticated." in text
    assert "get_authorization" in text


def test_error_of_a_run_without_words_leaves_no_blank_line() -> None:
    assert failed_whole() == failed_whole(errorKey="", description="")
    assert "\n" not in failed_whole()


def test_resume_token_is_not_in_the_repr() -> None:
    assert "resume-me" not in repr(
        RunTimeout(connection_id="c", run_id="r", resume_token="resume-me")
    )


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (
            {"description": "The iModel has more than 1.5 million elements."},
            hints.TOO_MANY_ELEMENTS,
        ),
        ({"description_key": "TooManyElements"}, hints.TOO_MANY_ELEMENTS),
        ({"message": "No write access to the folder."}, hints.NO_WRITE_ACCESS),
        ({"details": "You do not have permission to read the iModel."}, hints.NO_READ_ACCESS),
        ({"details": "Cannot Parse Json File UserDefinedMapping.json"}, hints.BAD_MAPPING),
        ({"description_key": "iModelNotFound"}, hints.NO_IMODEL),
        ({"description": "iModel does not exist"}, hints.NO_IMODEL),
        ({"description": "Failed to export your file."}, None),
        ({}, None),
    ],
)
def test_hint_names_the_remedy_of_a_known_cause(words: dict[str, str], hint: str | None) -> None:
    error = TaskErrorInfo(**words)  # type: ignore[arg-type]
    assert error.hint == hint
    snapshot = run(job(task("t1", "Error", error=error), task("t2", "Error", error=error)))
    failure = RunFailed(connection_id="c1", run_id="r1", run=snapshot)
    assert failure.hints == ((hint,) if hint else ())
    assert failure.public == ("the export failed" + (f"; {hint}" if hint else ""))
    assert str(failure).count(hint or "fixed") == (2 if hint else 0)
