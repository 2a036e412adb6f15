"""What went wrong, in words for who can do something about it, and what that is."""

import re

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
    PermissionDenied,
    ProtocolError,
    RateLimited,
    ResponseError,
    RunError,
    RunFailed,
    RunTimeout,
    RunUnreachable,
    ServerError,
    StartTimeout,
    Task,
    TokenError,
    TransportError,
)
from itwin_export_async._redaction import redacted
from itwin_export_async.cli.output.console import flat

_FOR_PROGRAMMERS = re.compile(
    r"[,;] client\.resume\(error\.resume_token\) takes it up again"
    r"|; they can at the page that get_authorization\(\) returns"
    r"|; wait\(\) says why"
    r"|; one that wrote to a blob of yours is fetched by storage\.download_blob\(\)"
    r"| \(a newer one passes as \w+\(.*?\)\)"
)
_PAGE = re.compile(r"https?://[\w.-]+(:\d+)?([/?#]\S*)?", re.IGNORECASE)
_SIGNED = re.compile(r"[?&](sig|signature|se|token|access_token|x-amz-[a-z-]+)=", re.IGNORECASE)


class MissingToken(ValueError):
    """The environment names nothing that a token could come from."""


class RefusedLedger(LedgerError):
    """The ledger cannot be had, and nothing was sent."""


@frozen(kw_only=True)
class FailedTask:
    """A task that failed. `can_user_fix` is None where the service does not say; `link` too."""

    id: str
    result: str
    code: str
    description: str
    can_user_fix: bool | None
    link: str | None

    @property
    def why(self) -> str:
        """What it failed for in one line, as far as the service says."""
        told = ": ".join(filter(None, (self.code, self.description)))
        return " ".join(told.split()) or "no explanation"


def words(error: BaseException) -> str:
    """What happened, without advice to programmers; in one line, but for the tasks of a run."""
    told = _FOR_PROGRAMMERS.sub("", str(error)) or type(error).__name__
    return told if isinstance(error, RunFailed) else flat(told)


def headline(error: BaseException) -> str:
    """What happened, in one line that begins with what matters."""
    if not isinstance(error, RunError):
        return words(error)
    told = f"the run {_FOR_PROGRAMMERS.sub('', error.message)}"
    return flat(": ".join([told, *(task.why for task in failed_tasks(error)[:1])]))


def failed_tasks(error: BaseException | None) -> tuple[FailedTask, ...]:
    """The tasks that a run failed with, none where it did not come to that."""
    if not isinstance(error, RunFailed) or error.run is None:
        return ()
    return tuple(map(_failed_task, error.run.failed_tasks))


def _failed_task(task: Task) -> FailedTask:
    error, result = task.error, task.result
    return FailedTask(
        id=task.id,
        result=result.value if result else "",
        code=redacted(error.error_code) if error else "",
        description=redacted(error.description or error.message) if error else "",
        can_user_fix=error.can_user_fix if error else None,
        link=safe_link(error.kb_article_link) if error else None,
    )


def safe_link(url: str) -> str | None:
    """The address if it is one of a page and not signed, otherwise None."""
    return url if _PAGE.fullmatch(url) and not is_signed(url) else None


def is_signed(text: str) -> bool:
    """Whether an address with a signature or a token is in it."""
    return _SIGNED.search(text) is not None


def remedy(error: BaseException) -> str:
    """What to do about it."""
    match error:
        case RunFailed():
            return _about_tasks(error)
        case RunTimeout() | RunUnreachable():
            return f"The run may well go on; itwin-export watch '{error.resume_token}' takes it up again."
        case DownloadError():
            return _about_download(error)
        case AuthorizationRequired():
            return "Sign in and agree: itwin-export authorize --open."
        case TokenError(is_transient=True) | ServerError() | TransportError():
            return "Check the network and try again; trouble of the service passes."
        case AuthenticationFailed() | TokenError():
            return (
                "Get a new ITWIN_ACCESS_TOKEN (they last for an hour), or check "
                "ITP_SERVICE_CLIENT_ID and ITP_SERVICE_CLIENT_SECRET."
            )
        case MissingToken():
            return "Set what is named; without an account there is itwin-export demo."
        case PermissionDenied():
            return "Ask the iTwin's administrator for the right to export and to use its Storage."
        case NotFound(is_gateway=True):
            return "Check --base-url."
        case NotFound():
            return "Check the id, and whether this account can see the iModel."
        case InvalidRequest():
            return "Correct what the service names."
        case Conflict():
            return "The iModel has an active run: wait for it, or use --if-active wait."
        case RateLimited():
            return "Wait for so long; --tier community keeps inside a small subscription's limits."
        case LedgerError(key=str()):
            return "Give what has changed a key of its own, or start another ledger."
        case LedgerError():
            return "Name another file with --ledger, or wait until this one is free."
        case StartTimeout():
            return "Give the same command again, with more time."
        case OSError():
            return "Check that the folder can be written and has room, and try again."
        case ProtocolError() | ResponseError():
            return "Try again; if it stays so, tell Bentley's support."
        case _:
            return "Correct what was asked for."


def _about_download(error: DownloadError) -> str:
    match error.__cause__:
        case RateLimited() | ServerError() | TransportError() | OSError() as cause:
            return remedy(cause)
        case ExportError():
            return "Try again later; if it stays so, tell Bentley's support."
        case _:
            return "Mend what is named, if that can be, and try again."


def _about_tasks(error: RunFailed) -> str:
    can = {task.can_user_fix for task in failed_tasks(error)}
    if True in can:
        return "Mend what is described, in the iModel or the mapping, and export again."
    if can == {False}:
        return f"Only Bentley can mend it: tell their support the run, {error.run_id}."
    return "Export again; if it stays so, tell Bentley's support the run."
