"""Following runs: one poll loop for each run of a client, however many wait for it.

The loop writes what it sees as a chain of links; every watcher walks the chain at its own pace, so
that none misses a change and none disturbs another. The loop ends when its last watcher leaves.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from attrs import define, evolve, field, frozen

from itwin_export_async._errors import ExportError, ResponseError, TokenError
from itwin_export_async._history import PAYS_AFTER, History
from itwin_export_async._models import Run
from itwin_export_async._protocol.following import UNDECIDED_WAIT, Course, goes_backwards
from itwin_export_async._protocol.http import Response
from itwin_export_async._protocol.retry import RetryPolicy, service_time
from itwin_export_async._protocol.runs import Service, get_run, read_run
from itwin_export_async._protocol.schedule import PollSchedule, PollView
from itwin_export_async._session import Session
from itwin_export_async._tracing import event, traced

log = logging.getLogger(__name__)

FIRST_LOOK = 1.0  # seconds after its start in which a new run is seen for the first time
POLLS_SHARE = 0.8  # of the calls that the rate limit leaves; the rest is for what moves work on


@frozen(kw_only=True)
class RunKey:
    """Which run."""

    service: Service
    connection_id: str
    run_id: str


@frozen(kw_only=True)
class Sighting:
    """A look at a run that worked. `is_over`: there is nothing more to see."""

    run: Run
    is_over: bool


@frozen(kw_only=True)
class Pause:
    """The service asked to wait until `until`, in the loop's time, and refused with `error`."""

    until: float
    error: ResponseError | TokenError


@frozen(kw_only=True)
class Ending:
    """The run cannot be followed any further. `outage` is set, in seconds, when looks have failed
    for longer than allowed; otherwise waiting cannot cure `error`."""

    error: BaseException
    outage: float | None = None


News = Sighting | Pause | Ending


@define(eq=False)
class _Link:
    """One piece of news, and the way to the next."""

    news: News | None = None
    next: "_Link | None" = None
    _waiting: "list[asyncio.Future[None]]" = field(factory=list)

    def append(self, news: News) -> "_Link":
        """The next link; who waits for it goes on."""
        self.next = _Link(news)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        return self.next

    async def follow(self) -> "_Link":
        """The next link, as soon as there is one."""
        if self.next is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                self._waiting.remove(waiter)
        assert self.next is not None
        return self.next

    @property
    def is_last(self) -> bool:
        """Whether nothing can follow."""
        return isinstance(self.news, Ending) or (
            isinstance(self.news, Sighting) and self.news.is_over
        )


async def look(
    session: Session, key: RunKey, *, retry: RetryPolicy | None = None
) -> tuple[Run, float | None]:
    """The run as it is now, and its age in seconds by the service's clock (None if untold)."""
    request = get_run(key.service, key.connection_id, key.run_id)
    response = await session.send(request, retry=retry, is_poll=retry is not None)
    run = read_run(response, key.connection_id)
    return run, _age(run, response)


def _age(run: Run, response: Response) -> float | None:
    if run.start_date_time is None:
        return None
    now = service_time(response.headers) or datetime.now(UTC)
    return max(0.0, (now - run.start_date_time).total_seconds())


class Following:
    """The runs that one client follows."""

    def __init__(self, session: Session, schedule: PollSchedule, outage_allowance: float) -> None:
        self._session = session
        self._schedule = schedule
        self._allowance = outage_allowance
        self._retry = evolve(session.retry, max_retry_after=0.0)  # watchers see an asked wait
        self._history = History(session)
        self._demand = 0.0  # looks a second that all followed runs together want
        self._followers: dict[RunKey, _Follower] = {}
        self._loops: set[asyncio.Task[None]] = set()

    def watch(self, key: RunKey, *, fresh: bool) -> "Watch":
        """A walk along what is seen of the run; it has to be closed.

        `fresh`: the run was started just now, so there is no hurry to look and a 404 may pass.
        """
        follower = self._followers.get(key)
        if follower is None or follower.has_failed:
            follower = self._followers[key] = self._begin(key, fresh)
        follower.watchers += 1
        return Watch(follower.present, partial(self._leave, key, follower))

    def look_back(self, run: Run) -> "Watch":
        """The walk along a run that is known to have ended: it takes no look any more."""
        return Watch(_Link(Sighting(run=run, is_over=True)), lambda: None)

    def _leave(self, key: RunKey, follower: "_Follower") -> None:
        follower.watchers -= 1
        if follower.watchers:
            return
        follower.loop.cancel()
        if self._followers.get(key) is follower:
            del self._followers[key]

    def _begin(self, key: RunKey, fresh: bool) -> "_Follower":
        follower = _Follower()
        work = self._follow(key, follower, fresh)
        follower.loop = asyncio.create_task(
            traced(work, key.service.value, key.connection_id, key.run_id)
        )
        self._loops.add(follower.loop)
        follower.loop.add_done_callback(partial(self._retire, follower))
        return follower

    def _retire(self, follower: "_Follower", loop: "asyncio.Task[None]") -> None:
        self._loops.discard(loop)
        self._demand -= follower.demand
        follower.loop_ended(loop)

    async def close(self) -> None:
        """End all loops; who still waits is told that the client was closed."""
        for loop in tuple(self._loops):
            loop.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        self._followers.clear()

    async def _follow(self, key: RunKey, follower: "_Follower", fresh: bool) -> None:
        clock = asyncio.get_running_loop().time
        start = clock()
        course = Course(began=start, followed=start, changed=start, fresh=fresh)
        wait = min(self._next_wait(key, follower, course, start), FIRST_LOOK) if fresh else 0.0
        while True:
            await asyncio.sleep(wait)
            asked = 0.0
            try:
                run, age = await look(self._session, key, retry=self._retry)
            except ExportError as error:
                now = clock()
                if not course.may_pass(error, now=now):
                    return follower.tell(Ending(error=error))
                log.info("looking at run %s failed, trying on: %s", key.run_id, error)
                event("look failed", error=str(error))
                if isinstance(error, ResponseError | TokenError) and error.retry_after:
                    asked, course = error.retry_after, course.put_off()
                    follower.tell(Pause(until=now + asked, error=error))
                else:
                    course = course.missed(now=now)
                if course.outage(now) > self._allowance:
                    return follower.tell(Ending(error=error, outage=course.outage(now)))
            else:
                now = clock()
                before, course = course, course.seen(run, age=age, now=now)
                _report(run, before, course)
                event("look", state=run.state.value, outcome=run.outcome.value)
                if course.is_over or course.brought_news:
                    follower.tell(Sighting(run=run, is_over=course.is_over))
                if course.is_over:
                    self._history.add(key.service, run)
                    return None
                if now - course.began > PAYS_AFTER:
                    await self._history.ask(key.service, key.connection_id)
                    now = clock()
            wait = max(asked, self._next_wait(key, follower, course, now))

    def _next_wait(self, key: RunKey, follower: "_Follower", course: Course, now: float) -> float:
        """Seconds until the next look. What all want together may stretch it."""
        if course.undecided:
            return UNDECIDED_WAIT
        view = PollView(
            age=now - course.began,
            looks=course.looks,
            state=course.run.state if course.run else None,
            since_change=now - course.changed,
            history=self._history.durations(key.service, key.connection_id),
        )
        wait = self._schedule.next_wait(view)
        wanted = 1.0 / max(wait, 0.001)
        self._demand += wanted - follower.demand
        follower.demand = wanted
        pressure = self._demand / (POLLS_SHARE * self._session.call_rate)
        if pressure <= 1.0:
            return wait
        return self._schedule.next_wait(evolve(view, pressure=pressure))


def _report(run: Run, before: Course, course: Course) -> None:
    if course.is_over:
        log.info("run %s ended: %s", run.id, run.outcome.value)
    elif before.run is not None and goes_backwards(before.run.state, run.state):
        log.warning("run %s went back from %s to %s", run.id, before.run.state, run.state)
    else:
        log.debug("run %s: %s", run.id, run.state.value)


class Watch:
    """One watcher's walk along what is seen of a run, the present state first."""

    def __init__(self, link: _Link, close: Callable[[], None]) -> None:
        self._link = link
        self._at_start = True
        self.close = close

    async def next(self) -> News | None:
        """The next piece of news as soon as there is one, None when nothing more can come."""
        at_start, self._at_start = self._at_start, False
        if not at_start or self._link.news is None:
            if self._link.is_last:
                return None
            self._link = await self._link.follow()
        return self._link.news


@define(eq=False)
class _Follower:
    """One followed run: its loop, and the link that a new watcher starts from."""

    watchers: int = 0
    demand: float = 0.0  # looks a second that it wants
    loop: "asyncio.Task[None]" = field(init=False)
    present: _Link = field(factory=_Link)
    _tail: _Link = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tail = self.present

    def tell(self, news: News) -> None:
        """Add to the chain. A late watcher starts with the latest state, not with a pause."""
        self._tail = self._tail.append(news)
        if not isinstance(news, Pause):
            self.present = self._tail

    @property
    def has_failed(self) -> bool:
        """Whether it came to an end that a new look may not come to."""
        return isinstance(self.present.news, Ending)

    def loop_ended(self, loop: "asyncio.Task[None]") -> None:
        """Whoever still waits must not wait for ever."""
        if loop.cancelled():
            self.tell(Ending(error=RuntimeError("the client was closed")))
        elif (error := loop.exception()) is not None:
            self.tell(Ending(error=error))
