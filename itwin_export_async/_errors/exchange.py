"""What can go wrong, as one tree.

    ExportError
    ├── TransportError            no answer came
    │   └── RequestTimeout        ... in time (also a TimeoutError)
    ├── ResponseError             the service refused
    │   ├── InvalidRequest        400, 422
    │   ├── AuthenticationFailed  401
    │   ├── PermissionDenied      403
    │   ├── NotFound              404
    │   ├── Conflict              409, and 303 where joining was not wanted
    │   ├── RateLimited           429
    │   └── ServiceUnavailable    5xx
    ├── ProtocolError             the service broke its own contract
    ├── TokenError                no token could be had
    ├── AuthorizationRequired     the user has to consent first
    ├── DownloadError             a file could not be fetched whole
    └── RunError                  the run, or the following of it, ended badly
        ├── RunFailed             the run's outcome is not a success
        │   └── RunPartlyFailed   some of its tasks succeeded
        ├── RunTimeout            it took too long (also a TimeoutError)
        └── RunUnreachable        its state could not be read for too long

A caller's mistake is a `ValueError`, a `TypeError` or (for a client that is not open) a
`RuntimeError` instead. Every error pickles with its fields, and none shows a secret: addresses
appear without their query.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, field, fields, frozen, has

from itwin_export_async._models import Run, Task
from itwin_export_async._secrets import redacted, without_query

if TYPE_CHECKING:
    from itwin_export_async._runs import RunHandle


def _restore(cls: type["ExportError"], values: dict[str, Any]) -> "ExportError":
    return cls(**values)


class ExportError(Exception):
    """The root of all that this library raises about the service and the way to it."""

    def __reduce__(self) -> Any:
        cls: type[Any] = type(self)
        if not has(cls):
            return super().__reduce__()
        values = {f.name: getattr(self, f.name) for f in fields(cls)}
        return _restore, (type(self), values)


@define(eq=False, kw_only=True, slots=False)
class TransportError(ExportError):
    """No answer came.

    `sent` is False when the service surely has not seen the request: no connection was made.
    """

    message: str
    method: str = ""
    url: str = field(default="", converter=without_query)
    sent: bool = True

    def __str__(self) -> str:
        return f"no answer to {self.method} {self.url}: {self.message}"


@define(eq=False, kw_only=True, slots=False)
class RequestTimeout(TransportError, TimeoutError):
    """No answer came within the request timeout."""


@frozen(kw_only=True)
class ErrorDetail:
    """One line of a refusal's `details`: what is wrong, and with which parameter.

    `target` is the name of that parameter, or None when the service does not say.
    """

    code: str
    message: str
    target: str | None = None

    def __str__(self) -> str:
        return f"{self.target}: {self.message}" if self.target else self.message


@define(eq=False, kw_only=True, slots=False)
class ResponseError(ExportError):
    """The service answered, and the answer is a refusal.

    `code` is the service's own error code, or empty when its body had none. `retry_after` is the
    wait it asked for in seconds, None when it asked for none. `request_id` is the identification
    it gave the request, None without one. `headers` are those of the answer, without secrets.
    """

    status: int
    code: str = ""
    message: str = ""
    details: tuple[ErrorDetail, ...] = ()
    request_id: str | None = None
    method: str = ""
    url: str = field(default="", converter=without_query)
    retry_after: float | None = None
    headers: Mapping[str, str] = field(factory=dict, repr=False)

    def __str__(self) -> str:
        what = f"{self.status} {self.code}".rstrip()
        if self.message:
            what += f": {self.message}"
        if self.details:
            what += f" ({'; '.join(map(str, self.details))})"
        if self.retry_after is not None:
            what += f" (asked to wait {self.retry_after:g} s)"
        return f"{what} [{self.method} {self.url}]" if self.url else what


class InvalidRequest(ResponseError):
    """400 or 422: the service does not accept what was sent; `details` name the parameters."""


class AuthenticationFailed(ResponseError):
    """401: the token is missing, expired or lacks the scope, also after one renewal."""


class PermissionDenied(ResponseError):
    """403: the identity behind the token may not do this."""


class NotFound(ResponseError):
    """404: no such connection, run or file; or, from the gateway, no such path or version."""

    @property
    def is_gateway(self) -> bool:
        """Whether the gateway answered and not the API: the path or the API version is wrong."""
        return "OperationNotFound" in (self.code, *(detail.code for detail in self.details))

    def __str__(self) -> str:
        text = super().__str__()
        if self.is_gateway:
            text += " - the gateway knows no such path or API version; check base_url"
        return text


@define(eq=False, kw_only=True, slots=False)
class Conflict(ResponseError):
    """409: another request for the same iModel came first; or 303, when an active run exists.

    `run` is a handle of that active run, or None when there is none to hold.
    """

    run: "RunHandle | None" = field(default=None, repr=False)


class RateLimited(ResponseError):
    """429: more calls than the subscription allows; `retry_after` says for how long."""

    @property
    def tier(self) -> str | None:
        """The subscription's tier, such as `Community`; None where the service does not say."""
        names = ("itwinplatform-ratelimited-tier", "itwinplatform-tier")
        return next((self.headers[name] for name in names if self.headers.get(name)), None)

    def __str__(self) -> str:
        return super().__str__() + (f" - the tier is {self.tier}" if self.tier else "")


class ServiceUnavailable(ResponseError):
    """5xx: the service or its gateway is in trouble."""


@define(eq=False, kw_only=True, slots=False)
class ProtocolError(ExportError):
    """The service broke its own contract: unreadable JSON, no Location, a foreign origin.

    `path` is the place in the answer, such as `run.jobs[0].state`, or empty. `passing` says that
    asking again may help: a proxy's page may have stood for the answer.
    """

    message: str
    method: str = ""
    url: str = field(default="", converter=without_query)
    path: str = ""
    passing: bool = False

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}" + (f" [{self.method} {self.url}]" if self.url else "")


@define(eq=False, kw_only=True, slots=False)
class TokenError(ExportError):
    """No token could be had: the token service refused, or what provides it failed.

    `passing` says that trying again later may help. `retry_after` is the wait in seconds that the
    token service asked for, None when it asked for none.
    """

    message: str
    passing: bool = False
    retry_after: float | None = None

    def __str__(self) -> str:
        return self.message


@define(eq=False, kw_only=True, slots=False)
class AuthorizationRequired(ExportError):
    """The user has to consent to background work first, on the page `url` (None if not told)."""

    url: str | None = None

    def __str__(self) -> str:
        page = self.url or "the page that get_authorization names"
        return f"the user has not yet agreed to exports in their name; they can at {page}"


@define(eq=False, kw_only=True, slots=False)
class DownloadError(ExportError):
    """A file could not be fetched whole. Nothing stands under its final name.

    `file_id` is the Storage id, `destination` the path it was meant for.
    """

    message: str
    file_id: str = ""
    destination: str = ""

    def __str__(self) -> str:
        return f"{self.destination or self.file_id}: {self.message}"


@define(eq=False, kw_only=True, slots=False)
class RunError(ExportError):
    """The run, or the following of it, ended badly.

    `run` is what was last seen of it, None when nothing was. `token` lets
    `client.resume(token)` take the run up again, in any process.
    """

    message: str = ""
    connection_id: str
    run_id: str
    run: Run | None = field(default=None, repr=False)
    token: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"run {self.run_id} of connection {self.connection_id} {self.message}".rstrip()


def _told(task: Task) -> str:
    """One failed task as a sentence: what, why, and whether the user can mend it."""
    result = task.result.value if task.result else "no result"
    error = task.error
    if error is None:
        return f"task {task.id} ended with {result}, without an explanation"
    why = redacted(": ".join(filter(None, (error.error_code, error.description or error.message))))
    hints = []
    if error.can_user_fix is not None:
        hints.append(f"{'can' if error.can_user_fix else 'cannot'} be fixed by the user")
    if error.kb_article_link:
        hints.append(f"see {error.kb_article_link}")
    told = f"task {task.id} ended with {result}: {why or 'no description'}"
    return f"{told} ({'; '.join(hints)})" if hints else told


class RunFailed(RunError):
    """The run ended, and not well: `run.outcome` says how; the text names each failed task."""

    def __str__(self) -> str:
        lines = [super().__str__()]
        if self.run is not None and (fault := self.run.error) is not None:
            lines.append(redacted(": ".join(filter(None, (fault.error_key, fault.description)))))
        if self.run is not None:
            lines += map(_told, self.run.failed_tasks)
        return "\n  ".join(lines)


class RunPartlyFailed(RunFailed):
    """The run ended with some tasks done and some failed; what was done can be downloaded."""


@define(eq=False, kw_only=True, slots=False)
class RunTimeout(RunError, TimeoutError):
    """The time for waiting is over. The run may well go on: `client.resume(error.token)`."""


class RunUnreachable(RunError):
    """The run's state could not be read for longer than the outage allowance."""
