"""What goes wrong in a request to a service."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from attrs import define, field, frozen
from multidict import CIMultiDict  # aiohttp's own headers; unlike its read-only kind, it pickles

from itwin_export_async._redaction import redacted, without_query

if TYPE_CHECKING:
    from itwin_export_async._runs.handle import RunHandle
else:
    RunHandle = Any  # this room is below that of the handles

E = TypeVar("E", bound=BaseException)

MAX_DETAILS = 20  # of an error response; further ones are dropped
MAX_MESSAGE = 2000  # characters of a sentence of ours, in which paths and URLs may stand
_MAX_CODE = 100


def _code(text: str) -> str:
    return redacted(text, limit=_MAX_CODE)


def _optional_code(text: str | None) -> str | None:
    return None if text is None else _code(text)


def to_message(text: str) -> str:
    """A sentence of an error: in one line, without secrets."""
    return redacted(text, limit=MAX_MESSAGE)


def copy_error(error: E) -> E:
    """A copy of an `ExportError`, with its fields, notes, traceback and cause.

    `__init__` is not called, because its arguments are not known. An error whose
    `__new__` fails is returned itself, and so is any other error: a copy may lack fields of it.
    """
    if not isinstance(error, ExportError):
        return error
    kind = type(error)
    try:
        copy = kind.__new__(kind, *_given_args(error))
    except Exception:  # noqa: BLE001 - of a caller's `__new__`
        return error
    copy.__dict__.update(error.__dict__)
    if "__notes__" in error.__dict__:
        copy.__notes__ = list(error.__notes__)
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)


def _given_args(error: BaseException) -> tuple[Any, ...]:
    args: tuple[Any, ...] = BaseException.args.__get__(error)  # type: ignore[attr-defined]
    return args


def _restore(
    cls: type["ExportError"], args: tuple[Any, ...], state: dict[str, Any]
) -> "ExportError":
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class ExportError(Exception):
    """The root of all errors about the services and the way to them.

    `is_transient`: waiting may cure it. `may_have_been_processed`: the service may have acted on
    the request. Copies and pickles keep all fields and notes; copies keep the traceback and the
    cause too.
    """

    is_transient: bool = False
    may_have_been_processed: bool = False
    _PUBLIC: ClassVar[str] = "the export failed"

    @property
    def public(self) -> str:
        """A sentence for a visitor: no URL, path, host or id."""
        return self._PUBLIC

    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The sentence, which JSON result backends show."""
        return (str(self),)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), _given_args(self), dict(self.__dict__))

    def __copy__(self) -> Self:
        return copy_error(self)


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class TransportError(ExportError):
    """No response was received.

    `may_have_been_processed` is False where the service certainly has not seen the request, for
    example because no connection was made.
    """

    message: str = field(converter=to_message)
    method: str = ""
    url: str = field(default="", converter=without_query)
    may_have_been_processed: bool = True
    is_transient = True
    _PUBLIC = "the export service cannot be reached at the moment"

    def __str__(self) -> str:
        request = f" to {self.method} {self.url}" if self.url else ""
        return f"no response{request}: {self.message}"


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class RequestTimeout(TransportError, TimeoutError):
    """No response was received within the request timeout."""

    _PUBLIC = "the export service did not respond in time"


@frozen(kw_only=True)
class ErrorDetail:
    """One line of an error response's `details`: what is wrong, and with which parameter.

    `target` is the name of that parameter, None where the service does not name one.
    """

    code: str = field(converter=_code)
    message: str = field(converter=redacted)
    target: str | None = field(default=None, converter=_optional_code)

    def __str__(self) -> str:
        return f"{self.target}: {self.message}" if self.target else self.message


def _details(details: tuple[ErrorDetail, ...]) -> tuple[ErrorDetail, ...]:
    return tuple(details)[:MAX_DETAILS]


def _case_insensitive(headers: Mapping[str, str]) -> Mapping[str, str]:
    return CIMultiDict(headers)


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class ResponseError(ExportError):
    """The service refused the request.

    `code` is the service's own error code, empty where its body has none. `retry_after` is the
    requested wait in seconds, None without one. `request_id` is the service's id of the request,
    None without one. `correlation_id` is the `X-Correlation-Id` of the request, by which Bentley's
    support finds it; None where it is not known. `headers` are those of the response, without
    secrets; names are compared without case. `is_from_api`: the body is an error of the API, and
    not of a gateway or proxy in front of it.
    """

    status: int
    code: str = field(default="", converter=_code)
    message: str = field(default="", converter=redacted)
    details: tuple[ErrorDetail, ...] = field(default=(), converter=_details)
    request_id: str | None = field(default=None, converter=_optional_code)
    correlation_id: str | None = field(default=None, converter=_optional_code)
    method: str = ""
    url: str = field(default="", converter=without_query)
    retry_after: float | None = None
    headers: Mapping[str, str] = field(factory=dict, converter=_case_insensitive, repr=False)
    is_transient: bool = field(init=False, repr=False)
    may_have_been_processed: bool = field(repr=False)
    is_from_api: bool = field(repr=False)
    _PUBLIC = "the export service refused the request"

    @is_transient.default
    def _by_status(self) -> bool:
        return self.status >= 500 or self.status in (408, 409, 429)

    @may_have_been_processed.default
    def _without_an_answer_of_its_own(self) -> bool:
        """A gateway's error says nothing about the service behind it."""
        if self.status == 503 and self.retry_after is not None:
            return False
        return self.status >= 500 or self.status == 408

    @is_from_api.default
    def _has_a_code_of_the_api(self) -> bool:
        return bool(self.code) and not self._lacks_operation

    @property
    def _lacks_operation(self) -> bool:
        return "OperationNotFound" in (self.code, *(detail.code for detail in self.details))

    def __str__(self) -> str:
        text = f"{self.status} {self.code}".rstrip()
        if self.message:
            text += f": {self.message}"
        if self.details:
            text += f" ({'; '.join(map(str, self.details))})"
        if self.retry_after is not None:
            text += f" (retry after {self.retry_after:g} s)"
        if self.url:
            text += f" [{self.method} {self.url}]"
        if self.correlation_id:
            text += f" [correlation id {self.correlation_id}]"
        return text


class InvalidRequest(ResponseError):
    """400 or 422: the service does not accept what was sent; `details` name the parameters."""

    _PUBLIC = "the export service does not accept the request"


class AuthenticationFailed(ResponseError):
    """401: the token is missing, expired or lacks the scope, also after one renewal."""

    _PUBLIC = "the export service does not accept the credentials of this application"


class PermissionDenied(ResponseError):
    """403: the identity behind the token may not do this."""

    _PUBLIC = "access to the model or to its folder is denied"


class NotFound(ResponseError):
    """404: no such connection, run or file; or, from the gateway, no such path or version."""

    _PUBLIC = "the model, export or file was not found"

    @property
    def is_gateway(self) -> bool:
        """Whether the gateway answered and not the API: the path or the API version is wrong."""
        return self._lacks_operation

    def __str__(self) -> str:
        text = super().__str__()
        if self.is_gateway:
            text += " - the gateway has no such path or API version; check base_url"
        return text


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class Conflict(ResponseError):
    """409: another request for the same iModel came first; or 303, when an active run exists.

    `handle` is a handle of that active run, None where the service does not name it.
    """

    handle: RunHandle | None = field(default=None, repr=False)
    _PUBLIC = "another export of this model is active"


class RateLimited(ResponseError):
    """429: more calls than the subscription allows; `retry_after` is the requested wait."""

    _PUBLIC = "the export service is busy; try again later"

    @property
    def tier(self) -> str | None:
        """The subscription's tier, such as `Community`; None where the service does not say."""
        names = ("itwinplatform-ratelimited-tier", "itwinplatform-tier")
        return next((self.headers[name] for name in names if self.headers.get(name)), None)

    def __str__(self) -> str:
        return super().__str__() + (f" - the tier is {self.tier}" if self.tier else "")


class ServerError(ResponseError):
    """5xx: the service or its gateway has failed."""

    _PUBLIC = "the export service is not available at the moment"


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class ProtocolError(ExportError):
    """The service broke its own contract: unreadable JSON, no Location, a foreign origin.

    `path` is the position in the response, such as `run.jobs[0].state`, or empty. `is_transient` is
    True for a response that is no JSON at all: a proxy's page may have replaced it.
    `may_have_been_processed` is False where nothing was sent.
    """

    message: str = field(converter=to_message)
    method: str = ""
    url: str = field(default="", converter=without_query)
    path: str = ""
    is_transient: bool = False
    may_have_been_processed: bool = True
    _PUBLIC = "the export service sent an unexpected response"

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message}" + (f" [{self.method} {self.url}]" if self.url else "")


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class TokenError(ExportError):
    """No token: the token service refused, or the provider failed.

    `is_transient` is True where a later attempt may succeed. `retry_after` is the wait in seconds
    that the token service requested, None without one.
    """

    message: str = field(converter=to_message)
    is_transient: bool = False
    retry_after: float | None = None
    _PUBLIC = "this application cannot sign in to the export service"

    def __str__(self) -> str:
        return self.message


class InvalidSignature(ExportError):
    """A webhook event has no valid signature: another sender, or another secret."""

    _PUBLIC = "the signature of the event is not valid"
