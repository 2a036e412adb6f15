"""PollTask: one polled run with its subscribers, and Subscription: the queue of one of them."""

import asyncio
from collections.abc import Callable

from attrs import define, evolve, field, frozen

from itwin_export_async._models import Run
from itwin_export_async._polling.history import ConnectionHistory
from itwin_export_async._polling.state import (
    PollEvent,
    PollFailed,
    PollMissed,
    PollState,
    Snapshot,
    Throttled,
)
from itwin_export_async._protocol.runs import Service


@frozen(kw_only=True)
class RunKey:
    """Identifies a run. `imodel_id` is for log records; None where it is not known."""

    service: Service
    connection_id: str
    run_id: str
    imodel_id: str | None = field(default=None, eq=False)

    @property
    def label(self) -> str:
        """The run in a log line: with its iModel, or else its connection."""
        if self.imodel_id is None:
            return f"run {self.run_id} of connection {self.connection_id}"
        return f"run {self.run_id} of iModel {self.imodel_id}"

    @property
    def log_fields(self) -> dict[str, dict[str, str]]:
        """The `extra` of log records about the run."""
        fields = {"run_id": self.run_id, "connection_id": self.connection_id}
        if self.imodel_id is not None:
            fields["imodel_id"] = self.imodel_id
        return {"itwin": fields}


@define(eq=False)
class Subscription:
    """The events of one run for one subscriber, the present state first.

    Iterate with `async for`; the iteration ends after a final event. `latest`: the latest snapshot
    of the run, which may be ahead of the events; None before the first.
    """

    _events: list[PollEvent]
    _latest: Run | None = None
    _poll: "PollTask | None" = None
    _every_poll: bool = False
    _waiter: "asyncio.Future[None] | None" = None
    _is_finished: bool = False

    def __aiter__(self) -> "Subscription":
        return self

    async def __anext__(self) -> PollEvent:
        if self._is_finished:
            raise StopAsyncIteration
        while not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        event = self._events.pop(0)
        self._is_finished = event.is_final
        return event

    @property
    def latest(self) -> Run | None:
        """The latest snapshot of the run."""
        return self._latest if self._poll is None else self._poll.state.run

    def put(self, event: PollEvent) -> None:
        """Queue an event. Events without a change never queue behind each other."""
        is_needed = event.is_change or event.is_final or isinstance(event, Throttled)
        if not is_needed and not self._every_poll:
            return
        if self._events and not self._events[-1].is_change:
            self._events.pop()
        self._events.append(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Unsubscribe."""
        if self._poll is not None:
            self._poll.unsubscribe(self)


@define(eq=False, kw_only=True)
class PollTask:
    """One polled run: its state, its task and its subscribers.

    `missed`: the event of the latest poll, if that failed. `not_before`: when the service allows
    the next poll, in the loop's time. `polls_per_second`: what the run wants. `interval`, `due_at`:
    from the latest poll to the next one, and when that is. `forgetting`: the timer that ends a
    state without subscribers.
    """

    key: RunKey
    state: PollState
    history: ConnectionHistory
    due_at: float
    interval: float = 0.0
    task: "asyncio.Task[None] | None" = None
    forgetting: asyncio.TimerHandle | None = None
    subscribers: list[Subscription] = field(factory=list)
    missed: PollMissed | None = None
    not_before: float = 0.0
    polls_per_second: float = 0.0
    is_polling: bool = False
    has_failed: bool = False
    _on_last_left: "Callable[[PollTask], None]"
    _sleeper: "asyncio.Future[None] | None" = None
    _is_woken: bool = False

    def subscribe(self, *, every_poll: bool) -> Subscription:
        events: list[PollEvent] = []
        run = self.state.run
        if run is not None:
            events.append(Snapshot(run=run, is_final=self.state.is_done, is_replay=True))
        if self.missed is not None:
            is_outage = self.state.failing_since is not None
            events.append(evolve(self.missed, starts_outage=is_outage))
        subscription = Subscription(events, run, self, every_poll)
        self.subscribers.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self.subscribers.remove(subscription)
        if not self.subscribers:
            self._on_last_left(self)

    @property
    def is_over(self) -> bool:
        """Whether there will be no further poll."""
        return self.has_failed or self.state.is_done

    def stop_forgetting(self) -> None:
        if self.forgetting is not None:
            self.forgetting.cancel()
            self.forgetting = None

    def set_interval(self, seconds: float) -> None:
        self.interval, self.due_at = seconds, asyncio.get_running_loop().time() + seconds

    def publish(self, event: PollEvent) -> None:
        self.has_failed = isinstance(event, PollFailed)
        for subscription in self.subscribers:
            subscription.put(event)

    def wake(self) -> None:
        """Poll now, or right after the poll under way. A `Retry-After` is slept out."""
        self._is_woken = True
        if self.not_before <= asyncio.get_running_loop().time():
            self._end_sleep()

    async def sleep(self) -> None:
        """Sleep until the next poll is due, or not at all if woken since the last sleep."""
        if not self._is_woken or self.not_before > asyncio.get_running_loop().time():
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            timer = loop.call_at(self.due_at, self._end_sleep)
            try:
                await self._sleeper
            finally:
                timer.cancel()
        self._is_woken = False

    def _end_sleep(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)
