"""A transport with prepared responses, for those that no real service sends."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from itwin_export_async._protocol.messages import StreamedResponse
from itwin_export_async.transport import Request, Response

# of emulators whose runs are the same each time: the service sends dates in whole seconds
EPOCH = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)

Outcome = Response | ConnectionError | TimeoutError
Answer = Response | Exception | Callable[[Request], Response]


class Answers:
    """Returns its responses in order, the last one for ever; keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[Request] = []
        self.closed = False

    async def send(self, request: Request, /) -> Response:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Response) else answer(request)

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[StreamedResponse]:
        response = await self.send(request)

        async def chunks() -> AsyncIterator[bytes]:
            yield response.body

        yield StreamedResponse(response=response, chunks=chunks())

    async def close(self) -> None:
        self.closed = True


def answer(status: int, body: str = "", **headers: str) -> Response:
    """A response; `_` in a header's name stands for `-`."""
    named: dict[str, Any] = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=body.encode(), headers=named)
