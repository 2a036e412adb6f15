"""How requests and answers get from the client to the services and back, without a network."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from weakref import ref

from itwin_export_async._protocol.messages import (
    Request,
    Response,
    StreamedResponse,
    TransportError,
)
from itwin_export_async.emulator._config import Settings
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.messages import body_of, head_of, length_of, whole
from itwin_export_async.emulator._http.pipeline import Gateway

_BROKEN = "the connection broke within the answer"


def handled(gateway: Gateway, request: Request) -> Response:
    """The answer to one request, at once, its body whole; a broken connection is raised."""
    exchange = gateway.begin(request, sent=gateway.judge.next_order(), caller=_caller())
    if not exchange.breaks:
        gateway.delivered(exchange)
        return whole(_answer(exchange))
    gateway.lost(exchange)
    if exchange.answer is None:
        raise _broken(exchange)
    raise ConnectionResetError(_BROKEN)


async def carried(gateway: Gateway, settings: Settings, request: Request) -> Response:
    """The answer to one request as it comes over a network, its body whole."""
    exchange = await _asked(gateway, settings, request)
    if exchange.breaks:
        gateway.lost(exchange)
        raise _no_answer(request, ConnectionResetError(_BROKEN))
    gateway.delivered(exchange)
    return whole(_answer(exchange))


@asynccontextmanager
async def streamed(
    gateway: Gateway, settings: Settings, request: Request
) -> AsyncIterator[StreamedResponse]:
    """The answer to one request as it comes over a network, its body in pieces."""
    exchange = await _asked(gateway, settings, request)
    answer, stop = _answer(exchange), exchange.stop
    is_read = False

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal is_read
        for piece in body_of(answer, stop):
            await asyncio.sleep(0)
            yield piece
        is_read = True
        if exchange.breaks:
            gateway.lost(exchange)
            raise _no_answer(request, ConnectionResetError(_BROKEN))

    yield StreamedResponse(response=head_of(answer), chunks=chunks())
    if answer.status < 300 and length_of(answer) and not is_read:
        gateway.judge.unread(exchange)
    gateway.delivered(exchange)


async def _asked(gateway: Gateway, settings: Settings, request: Request) -> Exchange:
    """The request has gone there, and the answer has come; one that did not is raised."""
    sent = gateway.judge.next_order()
    await asyncio.sleep(settings.latency)
    exchange = gateway.begin(request, sent=sent, caller=_caller())
    if exchange.late:
        try:
            await asyncio.sleep(exchange.late)
        except asyncio.CancelledError:  # the client has given up
            gateway.lost(exchange)
            raise
    if exchange.answer is None:
        gateway.lost(exchange)
        failure = _broken(exchange)
        raise _no_answer(request, failure) from failure
    return exchange


def _caller() -> Hashable:
    """Who waits for the answer: a task, or all that goes on outside of tasks."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return "no task" if task is None else ref(task)


def _answer(exchange: Exchange) -> Response:
    assert exchange.answer is not None
    return exchange.answer


def _broken(exchange: Exchange) -> OSError:
    assert isinstance(exchange.said, OSError)
    return exchange.said


def _no_answer(request: Request, failure: OSError) -> TransportError:
    return TransportError(
        message=str(failure) or type(failure).__name__,
        method=request.method,
        url=request.url,
        may_have_been_processed=not isinstance(failure, ConnectionRefusedError),
    )
