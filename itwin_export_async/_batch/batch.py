"""Many exports at once; each outcome as soon as it is known.

Requests are read when a slot is free and no request that was read before can begin. A request
waits while another one of its iModel runs, and gives its slot back while another client's run is
active, so that the order of requests costs next to nothing. A slot is also taken while an outcome
is not consumed: memory is bounded by `concurrency` and `MAX_WAITING`.
"""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Coroutine,
)
from contextlib import asynccontextmanager, nullcontext
from os import PathLike
from typing import Any, Final

from attrs import define, evolve, field

from itwin_export_async._batch.entries import new_entry
from itwin_export_async._batch.itwin import ItwinSource
from itwin_export_async._batch.ledger import Ledger, finish_uninterrupted
from itwin_export_async._batch.outcomes import ExportOutcomes, OnStart, Requests
from itwin_export_async._batch.output_paths import OutputPaths
from itwin_export_async._batch.pipeline import BatchContext, ExportPipeline
from itwin_export_async._errors import ExportError, LedgerError
from itwin_export_async._models import ExportOutcome, ExportRequest, RunUpdate
from itwin_export_async._models.validators import validate_timeout
from itwin_export_async._runs.handle import OnUpdate, RunHandle

log = logging.getLogger("itwin_export_async.batch")

MAX_WAITING = 1000  # requests that were read and cannot begin yet

_DONE: Final = object()


def export_many(
    context: BatchContext,
    requests: Requests | ItwinSource,
    *,
    concurrency: int,
    timeout: float | None,
    ledger: str | PathLike[str] | None,
    on_start: OnStart | None = None,
    on_update: OnUpdate | None = None,
) -> ExportOutcomes:
    """The outcomes of the requests. Wrong arguments are refused at once."""
    if not isinstance(concurrency, int) or isinstance(concurrency, bool):
        raise TypeError(f"concurrency must be an int, not {concurrency!r}")
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    validate_timeout(timeout)
    opened = None if ledger is None else Ledger(ledger)
    paths = OutputPaths(() if opened is None else opened.companions)
    batch = _Batch(
        context=evolve(context, ledger=opened, paths=paths),
        source=requests,
        concurrency=concurrency,
        timeout=timeout,
        on_start=on_start,
        on_update=on_update,
    )
    return ExportOutcomes(batch.outcomes())


class _CallbackError(Exception):
    """Carries what a caller's callback raised out of the export that called it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


@define(eq=False)
class _UserCallback:
    """A callback of the caller; `_CallbackError` carries its exceptions past our own handlers."""

    callback: Any
    request: ExportRequest

    async def __call__(self, value: RunUpdate | RunHandle) -> None:
        if isinstance(value, RunUpdate):
            value = evolve(value, request=self.request)
        task = asyncio.current_task()
        try:
            result = self.callback(value)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError as error:
            if task is not None and task.cancelling():
                raise
            raise _CallbackError(error) from error
        except BaseException as error:
            raise _CallbackError(error) from error


@define(eq=False, kw_only=True)
class _Batch:
    """The exports of one call, and the outcomes that are not consumed yet."""

    context: BatchContext
    source: Requests | ItwinSource
    concurrency: int
    timeout: float | None
    on_start: OnStart | None
    on_update: OnUpdate | None
    _requests: Any = field(init=False)  # an iterator
    _free: int = field(init=False)  # slots
    _waiting: deque[ExportRequest] = field(factory=deque)  # read, and their iModel is busy
    _busy: set[str] = field(factory=set)  # iModels with a running export
    _has_more: bool = True
    _tasks: "set[asyncio.Task[Any]]" = field(factory=set)
    _changed: asyncio.Event = field(factory=asyncio.Event)  # a slot or an iModel is free
    _finished: "asyncio.Queue[asyncio.Task[Any]]" = field(factory=asyncio.Queue)
    _resuming: deque[asyncio.Event] = field(factory=deque)  # exports that need their slot back

    def __attrs_post_init__(self) -> None:
        self._free = self.concurrency
        if not isinstance(self.source, ItwinSource):
            self._requests = _iterator(self.source)  # raises at once for what is not iterable

    async def outcomes(self) -> AsyncGenerator[ExportOutcome, None]:
        """Yield each outcome once. Whatever ends the generator ends all its waiting first."""
        self.context.runs.session.check_open()
        self.context.consent.clear()
        async with self.context.ledger or nullcontext():
            try:
                if self.context.ledger is not None:
                    self.context.paths.load(await self.context.ledger.output_files())
                if isinstance(self.source, ItwinSource):
                    self._requests = self.source.items(self.context.ledger, self.context.outage)
                self._spawn(self._dispatch())
                while self._tasks:
                    task = await self._finished.get()
                    self._tasks.discard(task)
                    outcome = _result_of(task)
                    if outcome is not None:
                        yield outcome
                        self._release()
            finally:
                for task in self._tasks:
                    task.cancel()
                await finish_uninterrupted(asyncio.gather(*self._tasks, return_exceptions=True))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished.put_nowait)

    async def _dispatch(self) -> None:
        """Begin exports as slots and iModels become free, until there are no more requests."""
        while True:
            self._changed.clear()
            if self._free > 0 and len(self._tasks) <= self.concurrency + MAX_WAITING:
                request = self._next_waiting()
                if request is None and self._has_more and len(self._waiting) < MAX_WAITING:
                    item = await self._read()
                    if isinstance(item, ExportOutcome):
                        self._free -= 1
                        self._spawn(_return(item))
                        continue
                    request = item
                    if request is not None and request.imodel_id in self._busy:
                        self._waiting.append(request)
                        continue
                if request is not None:
                    self._free -= 1
                    self._busy.add(request.imodel_id)
                    self._spawn(self._export(request))
                    continue
            if not self._has_more and not self._waiting:
                return
            await self._changed.wait()

    def _next_waiting(self) -> ExportRequest | None:
        """The first waiting request whose iModel is free."""
        for index, request in enumerate(self._waiting):
            if request.imodel_id not in self._busy:
                del self._waiting[index]
                return request
        return None

    async def _read(self) -> ExportRequest | ExportOutcome | None:
        if isinstance(self._requests, AsyncIterator):
            request = await anext(self._requests, _DONE)
        else:
            request = next(self._requests, _DONE)
        if request is _DONE:
            self._has_more = False
            return None
        if not isinstance(request, ExportRequest | ExportOutcome):
            raise TypeError(f"requests must be ExportRequest, not {type(request).__name__}")
        return request

    def _release(self) -> None:
        """Free a slot: for an export that gave its own away, else for the next request."""
        self._free += 1
        self._give_slots()

    def _give_slots(self) -> None:
        while self._free > 0 and self._resuming:
            self._free -= 1
            self._resuming.popleft().set()
        self._changed.set()

    @asynccontextmanager
    async def _without_slot(self) -> AsyncIterator[None]:
        """Another export may use the slot meanwhile; afterwards this one is served first."""
        self._release()
        try:
            yield
        except BaseException:
            self._free -= 1  # taken back at once: its outcome will release it
            raise
        granted = asyncio.Event()
        self._resuming.append(granted)
        self._give_slots()
        try:
            await granted.wait()
        except asyncio.CancelledError:
            if not granted.is_set():
                self._resuming.remove(granted)
                self._free -= 1
            raise

    async def _export(self, request: ExportRequest) -> ExportOutcome:
        try:
            try:
                pipeline = await self._pipeline(request)
            except LedgerError as error:
                if error.key is None:
                    raise
                return ExportOutcome(request=request, error=error)
            try:
                return await pipeline.run(self.timeout)
            except (LedgerError, _CallbackError):
                raise
            except (ExportError, OSError) as error:
                return await pipeline.fail(error)
            except Exception as error:  # a bug in one export does not end the others
                log.exception("export of iModel %s: unexpected error", request.imodel_id)
                return await pipeline.fail(error)
        finally:
            self._busy.discard(request.imodel_id)
            self._changed.set()

    async def _pipeline(self, request: ExportRequest) -> ExportPipeline:
        context = self.context
        ledger = context.ledger
        return ExportPipeline(
            context=context,
            request=request,
            entry=new_entry(request) if ledger is None else await ledger.claim(request),
            on_start=None if self.on_start is None else _UserCallback(self.on_start, request),
            on_update=None if self.on_update is None else _UserCallback(self.on_update, request),
            without_slot=self._without_slot,
        )


async def _return(outcome: ExportOutcome) -> ExportOutcome:
    return outcome


def _iterator(requests: Requests) -> Any:
    if isinstance(requests, AsyncIterable):
        return aiter(requests)
    return iter(requests)


def _result_of(task: "asyncio.Task[Any]") -> ExportOutcome | None:
    """The outcome of an export. Raises what the caller's own code raised."""
    try:
        outcome: ExportOutcome | None = task.result()
    except _CallbackError as carried:
        error = carried.error
        if isinstance(error, asyncio.CancelledError):
            raise RuntimeError("a callback raised CancelledError") from error
        raise error from error.__cause__
    return outcome
