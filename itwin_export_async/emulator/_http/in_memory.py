"""Requests and answers without a network."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from weakref import ref

from itwin_export_async._protocol.messages import (
    Request,
    Response,
    StreamedResponse,
    TransportError,
)
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.messages import (
    body_chunks,
    body_length,
    ids_in_location,
    materialize,
    without_body,
)
from itwin_export_async.emulator._http.pipeline import Pipeline

_BROKEN = "the connection broke within the answer"
_STARTS = frozenset({"create_run", "start_synchronization", "start_manifest_synchronization"})
_LONG_RUN = 60.0  # seconds of real time
_REAL_TIME_LOOPS = frozenset({"asyncio", "uvloop", "winloop"})


class InMemoryTransport:
    """Carries requests to a pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._has_warned = False

    def handle(self, request: Request) -> Response:
        """Return the answer to a request at once. A broken connection is raised as `OSError`."""
        pipeline = self._pipeline
        exchange = pipeline.dispatch(request, sent=pipeline.auditor.next_order(), caller=_caller())
        if not exchange.breaks:
            pipeline.delivered(exchange)
            return materialize(_answer(exchange))
        pipeline.lost(exchange)
        if exchange.answer is None:
            raise _failure(exchange)
        raise ConnectionResetError(_BROKEN)

    async def send(self, request: Request) -> Response:
        """Return the answer to a request after the latency of the network."""
        exchange = await self._exchange(request)
        if exchange.breaks:
            self._pipeline.lost(exchange)
            raise _transport_error(request, ConnectionResetError(_BROKEN))
        self._pipeline.delivered(exchange)
        return materialize(_answer(exchange))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """Yield the answer to a request with its body in chunks."""
        exchange = await self._exchange(request)
        answer, truncate_at = _answer(exchange), exchange.truncate_at
        is_read = False

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal is_read
            for chunk in body_chunks(answer, truncate_at):
                await asyncio.sleep(0)
                yield chunk
            is_read = True
            if exchange.breaks:
                self._pipeline.lost(exchange)
                raise _transport_error(request, ConnectionResetError(_BROKEN))

        yield StreamedResponse(response=without_body(answer), chunks=chunks())
        if answer.status < 300 and body_length(answer) and not is_read:
            self._pipeline.auditor.unread(exchange)
        self._pipeline.delivered(exchange)

    async def _exchange(self, request: Request) -> Exchange:
        """Send a request and await its answer. Raises `TransportError` if none arrives."""
        pipeline = self._pipeline
        sent = pipeline.auditor.next_order()
        await asyncio.sleep(pipeline.platform.settings.latency)
        exchange = pipeline.dispatch(request, sent=sent, caller=_caller())
        if exchange.delay:
            try:
                await asyncio.sleep(exchange.delay)
            except asyncio.CancelledError:  # the client has stopped waiting
                pipeline.lost(exchange)
                raise
        if exchange.answer is None:
            pipeline.lost(exchange)
            failure = _failure(exchange)
            raise _transport_error(request, failure) from failure
        self._warn_of_long_run(exchange)
        return exchange

    def _warn_of_long_run(self, exchange: Exchange) -> None:
        """Warn once if a run was started that takes minutes of real time."""
        response = exchange.handler_response
        if (
            self._has_warned
            or exchange.operation not in _STARTS
            or response is None
            or response.status != 202
            or not _is_real_time()
        ):
            return
        run = self._pipeline.platform.run(*ids_in_location(response))
        assert run is not None, "it was started just now"
        seconds = run.ends_at - run.starts_at
        if not run.has_planned_duration and seconds > _LONG_RUN:
            self._has_warned = True
            warnings.warn(
                f"a run of the emulator takes {seconds:.0f} s of real time here: use the fixture "
                "itwin_virtual_time or run_virtual(), or pass speed= or run_seconds= to Emulator",
                stacklevel=4,
            )


def _is_real_time() -> bool:
    """Whether the running loop is known to follow real time."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0] in _REAL_TIME_LOOPS


def _caller() -> Hashable:
    """Return an identity of the current task, or one for all code outside of tasks."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return "no task" if task is None else ref(task)


def _answer(exchange: Exchange) -> Response:
    assert exchange.answer is not None
    return exchange.answer


def _failure(exchange: Exchange) -> OSError:
    assert isinstance(exchange.response, OSError)
    return exchange.response


def _transport_error(request: Request, failure: OSError) -> TransportError:
    return TransportError(
        message=str(failure) or type(failure).__name__,
        method=request.method,
        url=request.url,
        may_have_been_processed=not isinstance(failure, ConnectionRefusedError),
    )
