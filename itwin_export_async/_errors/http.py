"""What goes wrong in an exchange with a service."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, field, fields, frozen, has
from multidict import CIMultiDict

from itwin_export_async._redaction import without_query

if TYPE_CHECKING:
    from itwin_export_async._runs.handle import RunHandle


def _restore(cls: type["ExportError"], values: dict[str, Any]) -> "ExportError":
    return cls(**values)


class ExportError(Exception):
    """The root of all that this library raises about the service and the way to it."""

    may_have_been_processed: bool = False

    def __reduce__(self) -> Any:
        cls: type[Any] = type(self)
        if not has(cls):
            return super().__reduce__()
        values = {f.name: getattr(self, f.name) for f in fields(cls)}
        return _restore, (type(self), values)


@define(eq=False, kw_only=True, slots=False)
class TransportError(ExportError):
    """No answer came.

    `may_have_been_processed` is False when the service surely has not seen the request: no connection was made.
    """

    message: str
    method: str = ""
    url: str = field(default="", converter=without_query)
    may_have_been_processed: bool = True

    def __str__(self) -> str:
        return f"no answer to {self.method} {self.url}: {self.message}"


@define(eq=False, kw_only=True, slots=False)
class RequestTimeout(TransportError, TimeoutError):
    """No answer came within the request timeout."""


def _ignoring_case(headers: Mapping[str, str]) -> Mapping[str, str]:
    return CIMultiDict(headers)  # unlike its read-only kind, it pickles


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
    it gave the request, None without one. `headers` are those of the answer, without secrets; they
    are looked up without regard to case.
    """

    status: int
    code: str = ""
    message: str = ""
    details: tuple[ErrorDetail, ...] = ()
    request_id: str | None = None
    method: str = ""
    url: str = field(default="", converter=without_query)
    retry_after: float | None = None
    headers: Mapping[str, str] = field(factory=dict, converter=_ignoring_case, repr=False)

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

    `handle` is a handle of that active run, or None when there is none to hold.
    """

    handle: "RunHandle | None" = field(default=None, repr=False)


class RateLimited(ResponseError):
    """429: more calls than the subscription allows; `retry_after` says for how long."""

    @property
    def tier(self) -> str | None:
        """The subscription's tier, such as `Community`; None where the service does not say."""
        names = ("itwinplatform-ratelimited-tier", "itwinplatform-tier")
        return next((self.headers[name] for name in names if self.headers.get(name)), None)

    def __str__(self) -> str:
        return super().__str__() + (f" - the tier is {self.tier}" if self.tier else "")


class ServerError(ResponseError):
    """5xx: the service or its gateway is in trouble."""


@define(eq=False, kw_only=True, slots=False)
class ProtocolError(ExportError):
    """The service broke its own contract: unreadable JSON, no Location, a foreign origin.

    `path` is the place in the answer, such as `run.jobs[0].state`, or empty. `is_transient` says that
    asking again may help: a proxy's page may have stood for the answer.
    """

    message: str
    method: str = ""
    url: str = field(default="", converter=without_query)
    path: str = ""
    is_transient: bool = False

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}" + (f" [{self.method} {self.url}]" if self.url else "")


@define(eq=False, kw_only=True, slots=False)
class TokenError(ExportError):
    """No token could be had: the token service refused, or what provides it failed.

    `is_transient` says that trying again later may help. `retry_after` is the wait in seconds that the
    token service asked for, None when it asked for none.
    """

    message: str
    is_transient: bool = False
    retry_after: float | None = None

    def __str__(self) -> str:
        return self.message
