"""The vocabulary of one HTTP exchange: what is asked, what came back, or that nothing came.

Everything that speaks of the network does it in these words: the operations build a `Request`, a
`Transport` turns it into a `Response` or raises `TransportError`, the rules read either of them.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from attrs import evolve, field, frozen
from multidict import (
    CIMultiDict,
    CIMultiDictProxy,
)  # what aiohttp's own headers are made of

from itwin_export_async._errors import TransportError
from itwin_export_async._redaction import Secret, without_query

__all__ = ["Request", "Response", "StreamedResponse", "Transport", "TransportError"]

_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})


def _case_insensitive(headers: Mapping[str, str]) -> Mapping[str, str]:
    if isinstance(headers, CIMultiDictProxy):
        return headers
    return CIMultiDictProxy(CIMultiDict(headers))


def _shown(url: str) -> str:
    return repr(without_query(url))


@frozen(kw_only=True)
class Request:
    """One HTTP request.

    `url` is absolute, or a reference such as `/export/connections` that the session resolves
    against its base address. `repeatable` says that sending it twice does no harm: then it is sent
    again after any transient failure, otherwise only when the service surely did not take it.
    `secrets` are values in it that no text may repeat.
    """

    method: str
    url: str = field(repr=_shown)
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    repeatable: bool = field()
    secrets: tuple[Secret, ...] = field(default=(), repr=False)

    @repeatable.default
    def _by_method(self) -> bool:
        return self.method in _IDEMPOTENT

    def sent_to(self, url: str, headers: Mapping[str, str]) -> "Request":
        """The same request, for this address and with these headers."""
        return Request(  # every poll comes by: `evolve` costs three times as much
            method=self.method,
            url=url,
            headers=headers,
            body=self.body,
            repeatable=self.repeatable,
            secrets=self.secrets,
        )


@frozen(kw_only=True)
class Response:
    """The answer to one request, its body read whole.

    `headers` are looked up without regard to case. `method` and `url` are those of the request; a
    transport may leave them out. `uncertain_for` is set when an earlier sending of the same request may
    have been taken although its answer was lost: the seconds from that sending to this answer.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict, converter=_case_insensitive, repr=False)
    body: bytes = field(default=b"", repr=False)
    method: str = ""
    url: str = field(default="", repr=_shown)
    uncertain_for: float | None = None

    def to(self, request: Request) -> "Response":
        """The same, which names the request that it answers."""
        return self if self.url else evolve(self, method=request.method, url=request.url)


@frozen(kw_only=True)
class StreamedResponse:
    """An answer whose body is read piece by piece: `response` has all but the body."""

    response: Response
    chunks: AsyncIterator[bytes]


class Transport(Protocol):
    """Carries requests to the service; the one place where bytes meet a network.

    It follows no redirect, adds no header of its own that matters, and repeats nothing. When no
    answer came it raises `TransportError`, whose `sent` tells whether the service may have seen
    the request.
    """

    async def send(self, request: Request, /) -> Response:
        """The answer with its whole body."""
        ...

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedResponse]:
        """The answer, its body to be read while the block lasts."""
        ...

    async def close(self) -> None:
        """Give back what the transport itself opened."""
        ...
