"""One HTTP exchange as values: the request, the response, or the error that none came.

The protocol modules build a `Request`, a `Transport` turns it into a `Response` or raises
`TransportError`, and the retry rules read either of them.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from attrs import evolve, field, frozen

# aiohttp's headers are of these types, and it re-exports neither publicly
from multidict import CIMultiDict, CIMultiDictProxy

from itwin_export_async._errors import TransportError
from itwin_export_async._redaction import Secret, without_query

__all__ = ["Request", "Response", "StreamedResponse", "Transport", "TransportError"]

_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})


def _case_insensitive(headers: Mapping[str, str]) -> Mapping[str, str]:
    if isinstance(headers, CIMultiDictProxy):
        return headers
    return CIMultiDictProxy(CIMultiDict(headers))


def _repr_url(url: str) -> str:
    return repr(without_query(url))


@frozen(kw_only=True)
class Request:
    """One HTTP request.

    `url` is absolute, or a path such as `/export/connections` below the session's base URL.
    `retryable`: sending it twice does no harm, so that it is retried after any transient failure.
    Other requests are retried only if the service certainly did not process them. `secrets` are
    values in it that no text may repeat.
    """

    method: str
    url: str = field(repr=_repr_url)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    retryable: bool = field()
    secrets: tuple[Secret, ...] = field(default=(), repr=False)

    @retryable.default
    def _by_method(self) -> bool:
        return self.method in _IDEMPOTENT

    def with_target(self, url: str, headers: Mapping[str, str]) -> "Request":
        """The same request with this URL and these headers."""
        return Request(  # on the path of every poll: `evolve` costs three times as much
            method=self.method,
            url=url,
            headers=headers,
            body=self.body,
            retryable=self.retryable,
            secrets=self.secrets,
        )


@frozen(kw_only=True)
class Response:
    """The response to one request, with its whole body.

    `headers` are case-insensitive. `method` and `url` are the request's; a transport may leave them
    out. `correlation_id` is the `X-Correlation-Id` that the request carried, None if it had none.
    `uncertain_for`: seconds from the first sending whose effect is unknown to this response; None
    if no earlier sending of this request may have been processed.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict, converter=_case_insensitive, repr=False)
    body: bytes = field(default=b"", repr=False)
    method: str = ""
    url: str = field(default="", repr=_repr_url)
    correlation_id: str | None = None
    uncertain_for: float | None = None

    def for_request(self, request: Request) -> "Response":
        """The same response, naming its request."""
        correlation_id = request.headers.get("X-Correlation-Id")
        if self.url and self.correlation_id == correlation_id:
            return self
        return evolve(self, method=request.method, url=request.url, correlation_id=correlation_id)


@frozen(kw_only=True)
class StreamedResponse:
    """A response whose body is read in chunks: `response` has everything but the body."""

    response: Response
    chunks: AsyncIterator[bytes]


class Transport(Protocol):
    """Sends requests to the services: the only place that uses the network.

    It follows no redirect, retries nothing and keeps no cookies. If no response came it raises
    `TransportError`, whose `may_have_been_processed` is False only if the service certainly has not
    seen the request.
    """

    async def send(self, request: Request, /) -> Response:
        """Send a request and return the response with its whole body."""
        ...

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedResponse]:
        """Send a request; the body is read while the block lasts."""
        ...

    async def close(self) -> None:
        """Close what the transport itself opened."""
        ...
