"""Many exports at once; each outcome as soon as it is known.

Requests are read when a slot is free and no request that was read before can begin. A request
waits while another one of its iModel runs, and gives its slot back while another client's run is
active, so that the order of requests costs next to nothing. A slot is also taken while an outcome
is not consumed: memory is bounded by `concurrency` and `MAX_WAITING`.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing, nullcontext
from contextvars import Context, copy_context
from math import inf
from os import PathLike
from typing import Any, Final

from attrs import define, evolve, field

from itwin_export_async._batch.context import BatchContext, Record
from itwin_export_async._batch.entries import new_entry
from itwin_export_async._batch.itwin import ItwinSource
from itwin_export_async._batch.ledger import Ledger, finish_uninterrupted
from itwin_export_async._batch.outcomes import ExportOutcomes, OnStart, Requests
from itwin_export_async._batch.output_paths import OutputPaths
from itwin_export_async._batch.pipeline import ExportPipeline
from itwin_export_async._batch.slots import Slots
from itwin_export_async._errors import ExportError, LedgerError
from itwin_export_async._models import ExportOutcome, ExportRequest, RunUpdate
from itwin_export_async._models.validators import validate_timeout
from itwin_export_async._protocol.files import was_skipped
from itwin_export_async._runs.callback import Callback
from itwin_export_async._runs.handle import OnUpdate, RunHandle

log = logging.getLogger("itwin_export_async.batch")

MAX_WAITING = 1000  # requests that were read and cannot begin yet
OUTCOME_KINDS = ("exported", "skipped", "up_to_date", "failed")

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

    callback: Callback
    request: ExportRequest

    async def __call__(self, value: RunUpdate | RunHandle) -> None:
        if isinstance(value, RunUpdate):
            value = evolve(value, request=self.request)
        try:
            await self.callback(value)
        except asyncio.CancelledError:
            raise
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
    _caller: Context = field(init=False, factory=copy_context)  # the trace of `export_many`
    _requests: Any = field(init=False)  # an iterator
    _slots: Slots = field(init=False)
    _waiting: deque[ExportRequest | ExportOutcome] = field(factory=deque)  # read and not begun
    _busy: set[str] = field(factory=set)  # iModels with a running export
    _has_more: bool = True
    _wanted: asyncio.Event = field(factory=asyncio.Event)  # another request
    _tasks: "set[asyncio.Task[Any]]" = field(factory=set)
    _changed: asyncio.Event = field(factory=asyncio.Event)  # a slot or an iModel is free
    _finished: "asyncio.Queue[asyncio.Task[Any]]" = field(factory=asyncio.Queue)
    _begun: int = 0  # exports
    _counts: Counter[str] = field(factory=Counter)  # of consumed outcomes

    def __attrs_post_init__(self) -> None:
        self._slots = Slots(self.concurrency, self._changed)
        if isinstance(self.source, AsyncIterable):
            self._requests = aiter(self.source)
        elif not isinstance(self.source, ItwinSource):
            self._requests = iter(self.source)  # raises at once for what is not iterable

    async def outcomes(self) -> AsyncGenerator[ExportOutcome, None]:
        """Yield each outcome once. Whatever ends the generator ends all its waiting first."""
        context, ledger = self.context, self.context.ledger
        context.runs.session.check_open()
        context.runs.session.warn_if_token_ends(inf if self.timeout is None else self.timeout)
        context.consent.clear()
        async with ledger or nullcontext(), AsyncExitStack() as stack:
            self._log_begin()
            began_at = asyncio.get_running_loop().time()
            try:
                if ledger is not None:
                    context.paths.load(await ledger.output_files())
                if isinstance(self.source, ItwinSource):
                    in_thread = context.runs.outputs.in_thread
                    items = self.source.items(ledger, context.outage, in_thread)
                    self._requests = await stack.enter_async_context(aclosing(items))
                self._spawn(self._read_requests())
                self._spawn(self._dispatch())
                while self._tasks:
                    task = await self._finished.get()
                    self._tasks.discard(task)
                    outcome = _result_of(task)
                    if outcome is not None:
                        self._counts[_kind_of(outcome)] += 1
                        yield outcome
                        self._slots.release()
            finally:
                for task in self._tasks:
                    task.cancel()
                try:
                    everything = asyncio.gather(*self._tasks, return_exceptions=True)
                    await finish_uninterrupted(everything)
                finally:
                    self._log_end(asyncio.get_running_loop().time() - began_at)

    def _log_begin(self) -> None:
        fields: dict[str, Any] = {"concurrency": self.concurrency}
        ledger = "no ledger"
        if self.context.ledger is not None:
            fields["ledger"] = str(self.context.ledger.path)
            ledger = f"ledger {self.context.ledger.path}"
        message = "batch began: up to %d exports at once, %s"
        log.info(message, self.concurrency, ledger, extra={"itwin": fields})

    def _log_end(self, seconds: float) -> None:
        """Log how many outcomes of each kind were consumed, and how many were not."""
        counts = {name: self._counts[name] for name in OUTCOME_KINDS}
        counts["not_consumed"] = self._begun - self._counts.total()
        shown = [
            f"{count} {name.replace('_', ' ')}"
            for name, count in counts.items()
            if count or name in ("exported", "failed")
        ]
        fields = {**counts, "seconds": seconds}
        log.info("batch ended after %.0f s: %s", seconds, ", ".join(shown), extra={"itwin": fields})

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work, context=self._caller.copy())
        self._tasks.add(task)
        task.add_done_callback(self._finished.put_nowait)

    async def _read_requests(self) -> None:
        """Read requests as they are wanted, in one task, as async generators may require."""
        while self._has_more:
            await self._wanted.wait()
            if isinstance(self._requests, AsyncIterator):
                item = await anext(self._requests, _DONE)
            else:
                item = next(self._requests, _DONE)
            if item is _DONE:
                self._has_more = False
            elif isinstance(item, ExportRequest | ExportOutcome):
                self._waiting.append(item)
            else:
                raise TypeError(f"requests must be ExportRequest, not {type(item).__name__}")
            self._wanted.clear()
            self._changed.set()

    async def _dispatch(self) -> None:
        """Begin exports as slots and iModels become free, until there are no more requests."""
        while self._has_more or self._waiting:
            self._changed.clear()
            if self._slots.free > 0 and len(self._tasks) <= self.concurrency + MAX_WAITING:
                item = self._next_ready()
                if item is not None:
                    self._begin(item)
                    continue
                if len(self._waiting) < MAX_WAITING:
                    self._wanted.set()
            await self._changed.wait()

    def _next_ready(self) -> ExportRequest | ExportOutcome | None:
        """The first item that was read and can begin, None without one."""
        for index, item in enumerate(self._waiting):
            if isinstance(item, ExportOutcome) or item.imodel_id not in self._busy:
                del self._waiting[index]
                return item
        return None

    def _begin(self, item: ExportRequest | ExportOutcome) -> None:
        self._slots.take()
        self._begun += 1
        if isinstance(item, ExportOutcome):
            self._spawn(_return(item))
        else:
            self._busy.add(item.imodel_id)
            self._spawn(self._export(item))

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
        entry = new_entry(request) if ledger is None else await ledger.claim(request)
        return ExportPipeline(
            context=context,
            request=request,
            record=Record(entry=entry, ledger=ledger),
            on_start=_UserCallback(Callback("on_start", self.on_start), request),
            on_update=_UserCallback(Callback("on_update", self.on_update), request),
            without_slot=self._slots.given_away,
        )


def _kind_of(outcome: ExportOutcome) -> str:
    if outcome.error is not None:
        return "failed"
    if outcome.up_to_date:
        return "up_to_date"
    return "skipped" if outcome.run is not None and was_skipped(outcome.run) else "exported"


async def _return(outcome: ExportOutcome) -> ExportOutcome:
    return outcome


def _result_of(task: "asyncio.Task[Any]") -> ExportOutcome | None:
    """The outcome of an export. Raises what the caller's own code raised."""
    try:
        outcome: ExportOutcome | None = task.result()
    except _CallbackError as carried:
        raise carried.error from carried.error.__cause__
    return outcome
