"""RunPoller: one poll task for each run of a client, shared by all its subscribers.

The poll task publishes events; each subscriber has a queue and consumes it at its own speed. When
the last subscriber leaves, the task ends, after the poll under way. Its state is kept for one
interval more, so a returning subscriber costs no extra poll.
"""

import asyncio
from contextvars import Context
from datetime import UTC, datetime

from attrs import evolve, frozen

from itwin_export_async._errors import (
    ExportError,
    ResponseError,
    TokenError,
)
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._http.session import Session
from itwin_export_async._http.telemetry import add_event, in_span
from itwin_export_async._models import Run
from itwin_export_async._polling.history import RunHistory
from itwin_export_async._polling.pacing import Pacer
from itwin_export_async._polling.poll_log import OutageLog, log, log_poll
from itwin_export_async._polling.poll_task import PollTask, RunKey, Subscription
from itwin_export_async._polling.schedule import PollSchedule
from itwin_export_async._polling.state import (
    PollFailed,
    PollMissed,
    PollState,
    Snapshot,
    Throttled,
)
from itwin_export_async._protocol.headers import retry_after, service_time
from itwin_export_async._protocol.runs import Service, get_run_request, parse_run


@frozen
class PollResult:
    """The result of one poll.

    `age`: seconds since the run started by the service's clock, None where it is not known.
    `retry_after`: seconds after which the service wants the next poll, 0 where it does not say.
    """

    run: Run
    age: float | None
    retry_after: float


async def poll_once(
    session: Session, key: RunKey, *, retry: RetryPolicy | None = None, known: Run | None = None
) -> PollResult:
    """Poll the run now. `known`: the latest snapshot; it is returned where nothing has changed."""
    request = get_run_request(key.service, key.connection_id, key.run_id)
    response = await session.send(request, retry=retry, is_poll=retry is not None)
    run = parse_run(response, key.connection_id, known=known)
    now, age = datetime.now(UTC), None
    if run.start_date_time is not None:
        today = service_time(response.headers) or now
        age = max(0.0, (today - run.start_date_time).total_seconds())
    return PollResult(run, age, retry_after(response.headers, now=now) or 0.0)


class RunPoller:
    """The poll tasks of one client."""

    def __init__(self, session: Session, schedule: PollSchedule, max_outage: float) -> None:
        self._session = session
        self._max_outage = max_outage
        self._retry = evolve(session.retry, max_retry_after=0.0)  # a Retry-After is published
        self._history = RunHistory(session)
        self._pacer = Pacer(session, schedule, self._retry.jitter)
        self._outage = OutageLog(max_outage)
        self.is_closed = False
        self._polls: dict[RunKey, PollTask] = {}
        self._tasks: dict[asyncio.Task[None], PollTask] = {}

    @property
    def runs_polled(self) -> int:
        """Runs that have a subscriber."""
        return self._pacer.runs_polled

    @property
    def outage_since(self) -> datetime | None:
        """When polls began to fail, None while they succeed."""
        return self._outage.since

    def subscribe(
        self,
        key: RunKey,
        *,
        just_created: bool = False,
        was_seen: bool = False,
        is_new: bool = False,
        every_poll: bool = False,
    ) -> Subscription:
        """Subscribe to the run's events. The caller closes the subscription.

        `just_created`: the service has just named the run, so a 404 may pass. `was_seen`: the run
        was read before. `is_new`: the run has just started, so the first poll is not urgent.
        `every_poll`: receive polls without a change, too.
        """
        if self.is_closed:
            raise RuntimeError("the client was closed")
        poll = self._polls.get(key)
        if poll is None or poll.has_failed:
            poll = self._create(key, just_created=just_created, was_seen=was_seen)
        else:
            is_new = False
        if not poll.subscribers:
            self._pacer.runs_polled += 1
        subscription = poll.subscribe(every_poll=every_poll)
        if poll.task is None and not poll.is_over:
            self._start(poll, is_new=is_new)
        return subscription

    def replay(self, run: Run) -> Subscription:
        """A subscription to a run known to be final: one event, no poll."""
        return Subscription([Snapshot(run=run, is_final=True, is_replay=True)], run)

    def poll_now(self, *, connection_id: str | None = None, run_id: str | None = None) -> None:
        """Poll these runs now if they have a subscriber. None means any.

        A `Retry-After` is respected.
        """
        for poll in self._polls.values():
            is_meant = connection_id in (None, poll.key.connection_id)
            if is_meant and run_id in (None, poll.key.run_id) and poll.subscribers:
                poll.wake()

    async def age(self, key: RunKey) -> float:
        """Seconds since the run started, by the poll task or else by one poll."""
        poll = self._polls.get(key)
        if poll is not None and poll.state.run is not None:
            return max(0.0, _clock() - poll.state.started_at)
        return (await poll_once(self._session, key)).age or 0.0

    async def durations(self, service: Service, connection_id: str) -> tuple[float, ...]:
        """The durations of earlier runs of the connection, in seconds; loaded if need be."""
        history = self._history.of(service, connection_id)
        if not history.is_loaded:
            await self._history.load(history)
        return history.durations

    async def close(self) -> None:
        """Cancel all poll tasks; the remaining subscribers receive a `RuntimeError`."""
        self.is_closed = True
        tasks = [*self._tasks, *self._history.loads]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for poll in tuple(self._polls.values()):
            self._forget(poll)

    def _on_last_left(self, poll: PollTask) -> None:
        """The last subscriber has left: no further poll, and no claim on the rate limit."""
        self._pacer.runs_polled -= 1
        self._pacer.demand(poll, 0.0)
        if poll.is_over:
            self._forget(poll)
        elif poll.task is not None and not poll.is_polling:
            poll.task.cancel()
            self._keep(poll)

    def _create(self, key: RunKey, *, just_created: bool, was_seen: bool) -> PollTask:
        now = _clock()
        poll = self._polls[key] = PollTask(
            key=key,
            state=PollState(
                started_at=now,
                polling_since=now,
                changed_at=now,
                just_created=just_created,
                was_seen=was_seen,
            ),
            history=self._history.of(key.service, key.connection_id),
            due_at=now,
            on_last_left=self._on_last_left,
        )
        return poll

    def _start(self, poll: PollTask, *, is_new: bool) -> None:
        poll.stop_forgetting()
        key = poll.key
        # a context of its own, so that it does not run inside the first subscriber's trace
        context = Context()
        work = context.run(
            in_span, self._run(poll, is_new), key.service.value, key.connection_id, key.run_id
        )
        poll.task = asyncio.create_task(work, name=key.run_id, context=context)
        poll.task.add_done_callback(self._on_task_done)
        self._tasks[poll.task] = poll

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        """The poll task has finished: fail the remaining subscribers, unless it was replaced."""
        poll = self._tasks.pop(task)
        if poll.task is not task:
            return
        self._pacer.demand(poll, 0.0)
        if task.cancelled():
            poll.publish(PollFailed(error=RuntimeError("the client was closed")))
        elif (error := task.exception()) is not None:
            poll.publish(PollFailed(error=error))
        self._outage.end(poll)
        if not poll.subscribers:
            self._forget(poll)

    def _keep(self, poll: PollTask) -> None:
        """Keep the state for one interval, without a task."""
        poll.task = None
        poll.forgetting = asyncio.get_running_loop().call_later(poll.interval, self._forget, poll)

    def _forget(self, poll: PollTask) -> None:
        poll.stop_forgetting()
        self._outage.end(poll)
        if self._polls.get(poll.key) is poll:
            del self._polls[poll.key]

    async def _run(self, poll: PollTask, is_new: bool) -> None:
        """Poll until the run is done, or has no subscriber."""
        if is_new:
            poll.set_interval(self._pacer.first_wait(poll, now=_clock()))
        while True:
            await poll.sleep()  # no per-poll objects are alive while it sleeps
            poll.is_polling = True
            wait = await self._poll(poll)
            poll.is_polling = False
            if wait is None:
                return
            poll.set_interval(wait)
            if not poll.subscribers:
                self._keep(poll)
                return

    async def _poll(self, poll: PollTask) -> float | None:
        """Poll once. Return the seconds until the next poll, None when there is none."""
        try:
            result = await poll_once(
                self._session, poll.key, retry=self._retry, known=poll.state.run
            )
        except ExportError as error:
            return self._on_failure(poll, error)
        before, run = poll.state, result.run
        known = before.run if run == before.run else run  # equal snapshots are kept once
        state = poll.state = before.with_snapshot(known, age=result.age, now=_clock())
        poll.missed = None
        self._outage.end(poll, has_recovered=True)
        log_poll(poll.key, run, before, state)
        add_event("poll", state=run.state.value, outcome=run.outcome.value)
        poll.publish(Snapshot(run=run, is_final=state.is_done, is_change=state.has_changes))
        if state.is_done:
            service = poll.key.service.value
            self._session.count_run(service, run.outcome.value, run.duration)
            self._history.of(poll.key.service, poll.key.connection_id).add(run)
            return None
        if poll.history.claim_load(age=_clock() - state.started_at):
            self._history.start_load(poll.history)
        return self._seconds_to_next_poll(poll, result.retry_after)

    def _on_failure(self, poll: PollTask, error: ExportError) -> float | None:
        """Return the seconds until the next poll, None when polling ends with this error."""
        now, before = _clock(), poll.state
        if not before.is_transient(error, now=now):
            poll.publish(PollFailed(error=error))
            return None
        key = poll.key
        log.debug("polling %s failed, will retry: %s", key.label, error, extra=key.log_fields)
        add_event("poll failed", error=str(error))
        pause = error.retry_after if isinstance(error, ResponseError | TokenError) else None
        if before.is_outage(error, now=now):
            state = poll.state = before.with_failure(now=now)
            # a single response that asks for a retry is no news: it was not even retried
            self._outage.begin(poll, error, is_news=not pause or before.failing_since is not None)
        else:
            state = poll.state = before.with_throttle()
            self._outage.end(poll, has_recovered=True)
        if (outage := state.outage_seconds(now)) > self._max_outage:
            poll.publish(PollFailed(error=error, outage=outage))
            return None
        starts_outage = before.failing_since is None and state.failing_since is not None
        if pause:
            poll.missed = Throttled(error=error, starts_outage=starts_outage, until=now + pause)
        else:
            poll.missed = PollMissed(error=error, starts_outage=starts_outage)
        poll.publish(poll.missed)
        return self._seconds_to_next_poll(poll, pause or 0.0)

    def _seconds_to_next_poll(self, poll: PollTask, retry_after: float) -> float:
        """Seconds until the next poll, no less than the service asks for."""
        now = _clock()
        poll.not_before = now + retry_after
        return max(retry_after, self._pacer.next_wait(poll, now=now))


def _clock() -> float:
    return asyncio.get_running_loop().time()
