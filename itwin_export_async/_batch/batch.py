"""Many exports at once, and what came of each as soon as it is there.

The requests are read as places become free, and a place is free again once its outcome was taken:
who takes them slowly slows the reading down, so that an endless list takes no more memory than a
short one. There are twice as many places as exports may go on at once, since those of one iModel
wait for each other.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import nullcontext
from os import PathLike
from typing import Any, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from attrs import define, evolve, field

from itwin_export_async._batch.entries import Entry, new_entry
from itwin_export_async._batch.ledger import Ledger, finish_uninterrupted
from itwin_export_async._batch.output_paths import Places
from itwin_export_async._batch.pipeline import Export, Terms
from itwin_export_async._errors import ExportError, LedgerError
from itwin_export_async._models import ExportOutcome, ExportRequest, RunUpdate
from itwin_export_async._models.validators import validate_timeout
from itwin_export_async._runs.handle import OnUpdate

Requests = Iterable[ExportRequest] | AsyncIterable[ExportRequest]

_END: Final = object()


def export_many(
    terms: Terms,
    requests: Requests,
    concurrency: int,
    timeout: float | None,
    ledger: str | PathLike[str] | None,
    on_update: OnUpdate | None,
) -> AsyncGenerator[ExportOutcome, None]:
    """The outcomes of the requests. Wrong arguments are refused at once."""
    if not isinstance(concurrency, int):
        raise TypeError(f"concurrency must be a whole number, not {concurrency!r}")
    if concurrency < 1:
        raise ValueError(f"concurrency must be at least 1, not {concurrency}")
    validate_timeout(timeout)
    opened = None if ledger is None else Ledger(ledger)
    places = Places(uuid4().hex if opened is None else str(opened.place))
    batch = _Batch(
        terms=evolve(terms, ledger=opened, places=places),
        requests=requests,
        concurrency=concurrency,
        timeout=timeout,
        on_update=on_update,
    )
    return batch.outcomes()


def _iterator(requests: Requests) -> Any:
    if isinstance(requests, AsyncIterable):
        return aiter(requests)
    return iter(requests)


@define(eq=False)
class _Telling:
    """The caller's `on_update` for one request. `is_speaking`: whether an error is its own."""

    on_update: OnUpdate
    request: ExportRequest
    is_speaking: bool = False

    async def __call__(self, update: RunUpdate) -> None:
        self.is_speaking = True
        told = self.on_update(evolve(update, request=self.request))
        try:
            if inspect.isawaitable(told):
                await told
        except asyncio.CancelledError:
            self.is_speaking = False
            raise
        self.is_speaking = False


@define(eq=False, kw_only=True)
class _Batch:
    """The exports of one call, and what has ended of them but was not taken yet."""

    terms: Terms
    requests: Any = field(converter=_iterator)
    concurrency: int
    timeout: float | None
    on_update: OnUpdate | None
    _places: asyncio.Semaphore = field(init=False)
    _under_way: asyncio.Semaphore = field(init=False)
    _turns: "WeakValueDictionary[str, asyncio.Lock]" = field(factory=WeakValueDictionary)
    _tasks: "set[asyncio.Task[ExportOutcome | None]]" = field(factory=set)
    _ended: "asyncio.Queue[asyncio.Task[ExportOutcome | None]]" = field(factory=asyncio.Queue)

    def __attrs_post_init__(self) -> None:
        self._places = asyncio.Semaphore(2 * self.concurrency)
        self._under_way = asyncio.Semaphore(self.concurrency)

    async def outcomes(self) -> AsyncGenerator[ExportOutcome, None]:
        """Each outcome once. Whatever ends this ends all waiting before it is over."""
        self.terms.desk.session.check_open()
        async with self.terms.ledger or nullcontext():
            try:
                await self._look_back()
                self._begin(self._read())
                while self._tasks:
                    task = await self._ended.get()
                    self._tasks.discard(task)
                    outcome = task.result()
                    if outcome is not None:
                        self._places.release()
                        yield outcome
            finally:
                for task in self._tasks:
                    task.cancel()
                await finish_uninterrupted(asyncio.gather(*self._tasks, return_exceptions=True))

    async def _look_back(self) -> None:
        """See what earlier calls have put in place, so that nothing overwrites it."""
        if self.terms.ledger is not None and self.terms.places is not None:
            self.terms.places.know(await self.terms.ledger.files())

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended.put_nowait)

    async def _read(self) -> None:
        """Begin with each request as soon as there is a place for it."""
        while True:
            await self._places.acquire()
            request = await self._next()
            if request is _END:
                return
            if not isinstance(request, ExportRequest):
                raise TypeError(f"requests must be ExportRequest, not {type(request).__name__}")
            self._begin(self._export(request))

    async def _next(self) -> Any:
        if isinstance(self.requests, AsyncIterator):
            return await anext(self.requests, _END)
        return next(self.requests, _END)

    async def _export(self, request: ExportRequest) -> ExportOutcome:
        turn = self._turns.setdefault(request.imodel_id, asyncio.Lock())
        async with turn, self._under_way:
            # not before: those who have their turn find what was left of others, too
            entry = await self._entry(request)
            if isinstance(entry, LedgerError):
                return ExportOutcome(request=request, error=entry)
            return await self._outcome(request, entry)

    async def _entry(self, request: ExportRequest) -> Entry | LedgerError:
        if self.terms.ledger is None:
            return new_entry(request)
        return await self.terms.ledger.claim(request)

    async def _outcome(self, request: ExportRequest, entry: Entry) -> ExportOutcome:
        """What came of it. What the caller's own code raises is raised."""
        telling = None if self.on_update is None else _Telling(self.on_update, request)
        export = Export(terms=self.terms, request=request, entry=entry, on_update=telling)
        try:
            return await export.within(self.timeout)
        except LedgerError:
            raise
        except (ExportError, OSError, TypeError, ValueError) as error:
            if telling is not None and telling.is_speaking:
                raise
            return await export.ended_with(error)
