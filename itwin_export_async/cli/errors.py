"""Errors in words for the person at the command line, and what to do about them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from attrs import frozen

from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    Conflict,
    DownloadError,
    ExportError,
    InvalidRequest,
    LedgerError,
    NotFound,
    NothingToExport,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    ResponseError,
    RunError,
    RunFailed,
    RunPartlyFailed,
    RunTimeout,
    RunUnreachable,
    ServerError,
    StartTimeout,
    Task,
    TokenError,
    TransportError,
    UploadError,
)
from itwin_export_async._redaction import redacted  # no public name yet
from itwin_export_async.cli.output.console import single_line

_CODE_ADVICE = re.compile(  # of the library's messages, for programmers
    r"[,;] client\.resume\(error\.resume_token\) (?:waits for it again|continues)"
    r"|; they can at the page that get_authorization\(\) returns"
    r"|\. If a start was in flight, that run continues; find it with a ledger or if_active='join'"
    r"| \(get_authorization\(\) returns the page where the user can consent\)"
    r"|; give a local path, or write the chunks of storage\.open\(\) there"
    r"| \(a newer one passes as \w{1,40}\([^()\n]{0,100}\)\)"
)
_PAGE = re.compile(r"https?://[\w.-]+(:\d+)?([/?#]\S*)?", re.IGNORECASE)
_SIGNED = re.compile(r"[?&](sig|signature|se|token|access_token|x-amz-[a-z-]+)=", re.IGNORECASE)
_IDS = re.compile(r"\[correlation id [^\]]{0,100}\]|[0-9a-f-]{36}|[\w-]{43,90}|\d+", re.IGNORECASE)
_RUN_PREFIX = re.compile(r"\Arun \S{1,100} of connection \S{1,100} ")
MAX_LINK = 2000  # characters


class UsageError(ValueError):
    """The command line, or a file that it names, is wrong; nothing was sent."""


class MissingToken(UsageError):
    """The environment has no credentials."""


class RefusedLedger(LedgerError):
    """The ledger cannot be used, and nothing was sent."""


class RecordedError(ExportError):
    """A failure as a ledger has it. `recorded_type` is the class of the error."""

    def __init__(self, text: str, recorded_type: str) -> None:
        super().__init__(text)
        self.text = _RUN_PREFIX.sub("the run ", text)
        self.recorded_type = recorded_type

    def __str__(self) -> str:
        return self.text


@contextmanager
def user_input() -> Iterator[None]:
    """Raise a `ValueError` or `TypeError` of the block as a `UsageError`.

    For calls that check nothing but what the user gave.
    """
    try:
        yield
    except UsageError:
        raise
    except (ValueError, TypeError) as error:
        raise UsageError(_CODE_ADVICE.sub("", redacted(str(error), limit=1000))) from error


@frozen(kw_only=True)
class FailedTask:
    """A failed task. `can_user_fix` and `link` are None where the service does not give them."""

    id: str
    result: str
    code: str
    description: str
    can_user_fix: bool | None
    link: str | None

    @property
    def reason(self) -> str:
        """The reason in one line, as far as the service gives one."""
        text = ": ".join(filter(None, (self.code, self.description)))
        return " ".join(text.split()) or "no explanation"


def message(error: BaseException) -> str:
    """What happened, in one line; a failed run has a line for each failed task."""
    text = _CODE_ADVICE.sub("", str(error)) or type(error).__name__
    if isinstance(error, RunFailed | UsageError):
        return text
    return single_line(text)


def summary_line(error: BaseException) -> str:
    """What happened, in one line that begins with what matters."""
    if isinstance(error, RunError):
        text = f"the run {_CODE_ADVICE.sub('', error.message)}"
        return single_line(": ".join([text, *(task.reason for task in failed_tasks(error)[:1])]))
    if isinstance(error, ExportError | OSError | UsageError):
        return single_line(message(error))
    return single_line(f"{type(error).__name__}: {redacted(str(error))}")


def failure_group(error: BaseException) -> tuple[str, ...]:
    """A key that equal failures of different exports share: ids and numbers do not count."""
    if isinstance(error, ResponseError):
        return type(error).__name__, str(error.status), error.code, _IDS.sub("#", error.message)
    return type(error).__name__, _IDS.sub("#", summary_line(error)), *hints(error)


def failed_tasks(error: BaseException | None) -> tuple[FailedTask, ...]:
    """The failed tasks of a run, none for another error."""
    if not isinstance(error, RunFailed) or error.run is None:
        return ()
    return tuple(map(_failed_task, error.run.failed_tasks))


def _failed_task(task: Task) -> FailedTask:
    error, result = task.error, task.result
    return FailedTask(
        id=redacted(task.id),
        result=redacted(result.value) if result else "",
        code=redacted(error.error_code) if error else "",
        description=redacted(error.description or error.message) if error else "",
        can_user_fix=error.can_user_fix if error else None,
        link=safe_link(error.kb_article_link) if error else None,
    )


def safe_link(url: str) -> str | None:
    """The URL if it is one of a page and not signed, otherwise None."""
    is_page = len(url) <= MAX_LINK and _PAGE.fullmatch(url) and not is_signed(url)
    return url if is_page else None


def is_signed(text: str) -> bool:
    """Whether a URL with a signature or a token is in the text."""
    return _SIGNED.search(text) is not None


def hints(error: BaseException | None) -> tuple[str, ...]:
    """What to do about the causes that Bentley's knowledge base lists, none for others."""
    return error.hints if isinstance(error, RunFailed) else ()


def hint(error: BaseException) -> str:
    """What to do about it."""
    match error:
        case RunFailed():
            return _task_hint(error)
        case RunTimeout() | RunUnreachable():
            token = error.resume_token
            return f"The run may still be running; continue with itwin-export watch {token} -o PATH"
        case DownloadError():
            return _download_hint(error)
        case AuthorizationRequired():
            return "Sign in and consent: itwin-export auth consent --open"
        case TokenError(is_transient=True) | ServerError() | TransportError():
            return "Check the network, and try again later."
        case AuthenticationFailed() | TokenError():
            return (
                "Get a new ITWIN_ACCESS_TOKEN (one is valid for an hour), or check "
                "ITP_SERVICE_CLIENT_ID and ITP_SERVICE_CLIENT_SECRET."
            )
        case MissingToken():
            return "Without an account, try itwin-export demo."
        case PermissionDenied():
            return "Ask the iTwin's administrator for access; itwin-export check names the rights."
        case NotFound(is_gateway=True):
            return "Check --base-url."
        case NotFound():
            return "Check the id, and whether this account may see the iModel."
        case InvalidRequest():
            return "Correct the parameter that the service names."
        case Conflict():
            return "The iModel has an active run: wait for its end, or use --if-active wait."
        case RateLimited():
            return "Wait, or use --tier community to stay within a small subscription's limit."
        case NothingToExport():
            return "Create a named version on a changeset, or use --version latest."
        case LedgerError(key=str()):
            return "Give the changed request a key of its own, or use another ledger."
        case LedgerError():
            return "Name another file with --ledger, or wait until this one is free."
        case StartTimeout():
            return "Run the same command again, with a longer --timeout."
        case UploadError() | OSError():
            return "Check that the path can be used and that the disk has room, and try again."
        case RecordedError():
            return _RECORDED_HINTS.get(error.recorded_type, "Run the batch again.")
        case ProtocolError() | ResponseError():
            return "Try again; if it persists, contact Bentley's support."
        case _:
            return "This is a bug of itwin-export: please report it."


def _download_hint(error: DownloadError) -> str:
    if error.reason == "disk":
        return "Check that the folder can be written and has room, and try again."
    match error.__cause__:
        case RateLimited() | ServerError() | TransportError() | OSError() as cause:
            return hint(cause)
        case _:
            return "Try again later; if it persists, contact Bentley's support."


def _task_hint(error: RunFailed) -> str:
    if known := hints(error):
        return "; ".join(f"{text[:1].upper()}{text[1:]}" for text in known)
    fixable = {task.can_user_fix for task in failed_tasks(error)}
    if True in fixable:
        return "Correct the iModel or the mapping as described, and export again."
    if fixable == {False}:
        return "Only Bentley can fix this: report the run to their support."
    if isinstance(error, RunPartlyFailed):
        return "Export again, or use --keep-partial to keep the files that were made."
    return "Export again; if it persists, report the run to Bentley's support."


_RECORDED_HINTS = {
    type(error).__name__: hint(error)
    for error in (
        AuthenticationFailed(status=401),
        AuthorizationRequired(),
        DownloadError(message=""),
        InvalidRequest(status=422),
        NotFound(status=404),
        NothingToExport(imodel_id=""),
        PermissionDenied(status=403),
        RunFailed(connection_id="", run_id=""),
        RunPartlyFailed(connection_id="", run_id=""),
        ServerError(status=500),
        TokenError(message=""),
        TransportError(message=""),
    )
}
