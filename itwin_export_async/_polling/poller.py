"""RunPoller runs: one poll loop for each run of a client, however many wait for it.

The loop writes what it sees as a chain of places; every watcher walks the chain at its own pace, so
that none misses a change and none disturbs another. The loop ends when its last watcher leaves.
"""

import asyncio
import logging
from datetime import UTC, datetime

from attrs import Factory, define, evolve, field, frozen

from itwin_export_async._errors import ExportError, RateLimited, ResponseError, TokenError
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._http.session import Session
from itwin_export_async._http.telemetry import add_event, in_span
from itwin_export_async._models import Run
from itwin_export_async._polling.history import History, Past
from itwin_export_async._polling.schedule import PollContext, PollSchedule, next_wait
from itwin_export_async._polling.state import (
    UNDETERMINED_INTERVAL,
    Course,
    Ending,
    News,
    Pause,
    Sighting,
    is_regression,
)
from itwin_export_async._protocol.headers import retry_after, service_time
from itwin_export_async._protocol.runs import Service, get_run_request, parse_run

log = logging.getLogger(__name__)

FIRST_POLL_DELAY = 1.0  # seconds after its start in which a new run is seen for the first time
SPREAD = 0.2  # of a stretched wait to either side, so that looks which came together part again
POLL_SHARE = 0.8  # of the calls that the rate limit leaves; the rest is for what moves work on


@frozen(kw_only=True)
class RunKey:
    """Which run."""

    service: Service
    connection_id: str
    run_id: str


@define(eq=False)
class _Place:
    """A place in the chain: empty until its piece of news comes, and then followed by the next."""

    news: News | None = None
    next: "_Place | None" = None


@frozen
class Look:
    """What a look at a run brought: the run as it is now, and what the service said beside it.

    `age`: the run's, in seconds by the service's clock, None if untold. `asked`: the seconds after
    which the service wants to be asked again, 0 where it does not say.
    """

    run: Run
    age: float | None
    asked: float


async def look(
    session: Session, key: RunKey, *, retry: RetryPolicy | None = None, known: Run | None = None
) -> Look:
    """Look now. `known`: what was seen last; it comes back where nothing has changed."""
    request = get_run_request(key.service, key.connection_id, key.run_id)
    response = await session.send(request, retry=retry, is_poll=retry is not None)
    run = parse_run(response, key.connection_id, known=known)
    now, age = datetime.now(UTC), None
    if run.start_date_time is not None:
        told = service_time(response.headers) or now
        age = max(0.0, (told - run.start_date_time).total_seconds())
    return Look(run, age, retry_after(response.headers, now=now) or 0.0)


class RunPoller:
    """The runs that one client follows."""

    def __init__(self, session: Session, schedule: PollSchedule, max_outage: float) -> None:
        self._session = session
        self._schedule = schedule
        self._allowance = max_outage
        self._retry = evolve(session.retry, max_retry_after=0.0)  # watchers see an asked wait
        self._history = History(session)
        self.is_closed = False
        self._demand = 0.0  # looks a second that all followed runs together want
        self._followers: dict[RunKey, _Follower] = {}
        self._loops: dict[asyncio.Task[None], _Follower] = {}

    def watch(self, key: RunKey, *, fresh: bool, new: bool) -> "Watch":
        """A walk along what is seen of the run; it has to be closed.

        `fresh`: the service named the run just now, so that a 404 may pass. `new`: and it began
        just now, so that there is no hurry to look.
        """
        if self.is_closed:
            raise RuntimeError("the client was closed")
        follower = self._followers.get(key)
        if follower is None or follower.has_failed:
            follower = self._followers[key] = self._begin(key, fresh=fresh, new=new)
        return follower.watch()

    def look_back(self, run: Run) -> "Watch":
        """The walk along a run that is known to have ended: it takes no look any more."""
        return Watch(_Place(Sighting(run=run, is_over=True)))

    def drop(self, follower: "_Follower") -> None:
        """Look no more: the last watcher has left."""
        follower.loop.cancel()
        if self._followers.get(follower.key) is follower:
            del self._followers[follower.key]

    def _begin(self, key: RunKey, *, fresh: bool, new: bool) -> "_Follower":
        now = _clock()
        course = Course(began=now, followed=now, changed=now, fresh=fresh)
        past = self._history.past(key.service, key.connection_id)
        follower = _Follower(key=key, course=course, past=past, following=self)
        work = in_span(
            self._follow(follower, new), key.service.value, key.connection_id, key.run_id
        )
        follower.loop = asyncio.create_task(work, name=key.run_id)
        follower.loop.add_done_callback(self._retire)
        self._loops[follower.loop] = follower
        return follower

    def _retire(self, loop: "asyncio.Task[None]") -> None:
        """The loop has ended. Whoever still waits must not wait for ever."""
        follower = self._loops.pop(loop)
        self._demand -= follower.demand
        if loop.cancelled():
            follower.tell(Ending(error=RuntimeError("the client was closed")))
        elif (error := loop.exception()) is not None:
            follower.tell(Ending(error=error))

    async def close(self) -> None:
        """End all loops; who still waits is told that the client was closed."""
        self.is_closed = True
        for loop in tuple(self._loops):
            loop.cancel()
        if self._loops:
            await asyncio.wait(self._loops)
        self._followers.clear()

    async def _follow(self, follower: "_Follower", new: bool) -> None:
        """Look again and again, until there is nothing more to see."""
        wait: float | None = min(self._next_wait(follower), FIRST_POLL_DELAY) if new else 0.0
        while wait is not None:
            await asyncio.sleep(wait)  # for most of a run's time: what a look needs is gone by then
            wait = await self._look(follower)

    async def _look(self, follower: "_Follower") -> float | None:
        """Look once: seconds until the next look, None when there is nothing more to see."""
        try:
            seen = await look(
                self._session, follower.key, retry=self._retry, known=follower.course.run
            )
        except ExportError as error:
            return self._missed(follower, error)
        before, run = follower.course, seen.run
        known = before.run if run == before.run else run  # the same again is not kept twice
        course = follower.course = before.seen(known, age=seen.age, now=_clock())
        _report(run, before, course)
        add_event("look", state=run.state.value, outcome=run.outcome.value)
        if course.is_over or course.brought_news:
            follower.tell(Sighting(run=run, is_over=course.is_over))
        if course.is_over:
            self._history.past(follower.key.service, follower.key.connection_id).add(run)
            return None
        await self._history.ask(follower.past, age=_clock() - course.began)
        return max(seen.asked, self._next_wait(follower))

    def _missed(self, follower: "_Follower", error: ExportError) -> float | None:
        """After a look that failed: seconds until the next, None when that would be of no use."""
        now, course, asked = _clock(), follower.course, 0.0
        if not course.may_pass(error, now=now):
            follower.tell(Ending(error=error))
            return None
        log.info("looking at run %s failed, trying on: %s", follower.key.run_id, error)
        add_event("look failed", error=str(error))
        if isinstance(error, ResponseError | TokenError) and error.retry_after:
            asked = error.retry_after
            follower.tell(Pause(until=now + asked, error=error))
        course = course.put_off() if isinstance(error, RateLimited) else course.missed(now=now)
        if course.outage(now) > self._allowance:
            follower.tell(Ending(error=error, outage=course.outage(now)))
            return None
        follower.course = course
        return max(asked, self._next_wait(follower))

    def _next_wait(self, follower: "_Follower") -> float:
        """Seconds until the next look. What all want together may stretch it."""
        now, course = _clock(), follower.course
        if course.undecided:
            return UNDETERMINED_INTERVAL
        view = PollContext(
            age=now - course.began,
            polls=course.looks,
            state=course.run.state if course.run else None,
            since_change=now - course.changed,
            history=follower.past.durations,
        )
        wait = next_wait(self._schedule, view)
        wanted = 1.0 / max(wait, 0.001)
        self._demand += wanted - follower.demand
        follower.demand = wanted
        left = POLL_SHARE * self._session.call_rate
        if self._demand <= left:
            return wait
        stretched = next_wait(self._schedule, evolve(view, pressure=self._demand / left))
        in_turn = len(self._loops) / left  # by then each run can have had a look
        stretched = min(stretched, in_turn)
        return max(wait, (1 - SPREAD) * stretched + self._retry.jitter(2 * SPREAD * stretched))


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _report(run: Run, before: Course, course: Course) -> None:
    if course.is_over:
        log.info("run %s ended: %s", run.id, run.outcome.value)
    elif before.run is not None and is_regression(before.run.state, run.state):
        log.warning("run %s went back from %s to %s", run.id, before.run.state, run.state)
    else:
        log.debug("run %s: %s", run.id, run.state.value)


@define(eq=False)
class Watch:
    """One watcher's walk along what is seen of a run, the present state first."""

    _place: _Place | None
    _follower: "_Follower | None" = None
    _waiter: "asyncio.Future[None] | None" = None

    async def next(self) -> News | None:
        """The next piece of news as soon as there is one, None when nothing more can come."""
        if self._place is None:
            return None
        while self._place.news is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        news = self._place.news
        self._place = None if news.is_over else self._place.next
        return news

    def wake(self) -> None:
        """There is news; whoever waits for it goes on."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """End it: no news is wanted any more."""
        if self._follower is not None:
            self._follower.leave(self)


@define(eq=False, kw_only=True)
class _Follower:
    """One followed run: what is known of it, its loop, and who watches it."""

    key: RunKey
    course: Course
    past: Past
    loop: "asyncio.Task[None]" = field(init=False)
    demand: float = 0.0  # looks a second that it wants
    _following: RunPoller
    _watches: list[Watch] = field(factory=list)
    _present: _Place = field(factory=_Place)  # where a new watcher starts
    _end: _Place = field(default=Factory(lambda self: self._present, takes_self=True))

    def watch(self) -> Watch:
        self._watches.append(Watch(self._present, self))
        return self._watches[-1]

    def leave(self, watch: Watch) -> None:
        """The last watcher ends the looking."""
        self._watches.remove(watch)
        if not self._watches:
            self._following.drop(self)

    def tell(self, news: News) -> None:
        """Add to the chain. A late watcher starts with the latest state and what came last."""
        place = self._end
        place.news, place.next = news, _Place()
        self._end = place.next
        known = self._present.news
        skips = isinstance(news, Pause) and isinstance(known, Sighting)  # the pauses between
        self._present = _Place(known, place) if skips else place
        for watch in self._watches:
            watch.wake()

    @property
    def has_failed(self) -> bool:
        """Whether it came to an end that a new look may not come to."""
        return isinstance(self._present.news, Ending)
