"""A service that is out of order for a while."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from itwin_export_async import TransportError
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response, StreamedResponse
from tests.support.fakes import answer

Trouble = Literal["network", "lost answers", "gateway", "token service"]


def refused(request: Request) -> TransportError:
    return TransportError(
        message="refused",
        method=request.method,
        url=request.url,
        may_have_been_processed=False,
    )


class Outage:
    """The emulator, out of order between two moments of the loop's time.

    - `network`: no connection is made.
    - `lost answers`: requests are processed, and their answers are lost.
    - `gateway`: 502 for each request to the API.
    - `token service`: 503 for each request for a token; known tokens are refused.
    """

    def __init__(self, emulator: Emulator, trouble: Trouble, begin: float, end: float) -> None:
        self._emulator = emulator
        self._trouble = trouble
        self._begin, self._end = begin, end
        self.tries = 0

    async def send(self, request: Request, /) -> Response:
        is_token = "token" in request.url
        if not self._begin <= asyncio.get_running_loop().time() < self._end:
            return await self._emulator.send(request)
        self.tries += 1
        match self._trouble:
            case "network":
                raise refused(request)
            case "lost answers":
                await self._emulator.send(request)
                raise TransportError(message="reset", method=request.method, url=request.url)
            case "gateway" if not is_token:
                return answer(502, "<html>")
            case "token service":
                return answer(503, "{}") if is_token else answer(401, "{}")
        return await self._emulator.send(request)

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
        if self._begin <= asyncio.get_running_loop().time() < self._end:
            self.tries += 1
            raise refused(request)
        async with self._emulator.stream(request) as response:
            yield response

    async def close(self) -> None:
        await self._emulator.close()
