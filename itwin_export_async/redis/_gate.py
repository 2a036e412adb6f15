"""The gate of one client among several: it asks Redis for its places, or goes on alone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from math import inf

from redis.exceptions import RedisError

from itwin_export_async._http.limiter import RequestLimiter
from itwin_export_async._protocol.sharing import Part
from itwin_export_async._protocol.telling import Reply, parse_reply

log = logging.getLogger(__name__)

_FAILURES = (RedisError, OSError, TimeoutError)


class RedisGate(RequestLimiter):
    """Lets requests through as soon as all clients together leave room for them.

    `ask` takes a message to Redis and gives its reply; `hang_up` ends the connection.
    """

    def __init__(
        self,
        part: Part,
        max_concurrent: int,
        *,
        ask: Callable[[str], Awaitable[str]],
        hang_up: Callable[[], Awaitable[None]],
        place: str,
    ) -> None:
        super().__init__(part, max_concurrent)
        self._part, self._ask, self._hang_up, self._place = part, ask, hang_up, place
        self._is_down = self._is_closing = False
        self._broken_off: BaseException | None = None  # what ended the talk before its time
        self._wake = asyncio.Event()
        self._talk = asyncio.create_task(self._keep_talking())
        self._talk.add_done_callback(self._end_talk)

    def pause(self, seconds: float) -> None:
        self._part.tell_pause(self._loop.time() + seconds)
        super().pause(seconds)
        self._hurry()

    def release(self, *, is_probe: bool, counted: bool, succeeded: bool) -> None:
        if is_probe:
            self._part.tell_probe(clears=succeeded)
        super().release(is_probe=is_probe, counted=counted, succeeded=succeeded)
        self._hurry()

    async def close(self) -> None:
        """Take leave of the others, as far as Redis is there."""
        self._is_closing = True
        self._reject_all()
        self._wake.set()
        try:
            await self._talk
            if not self._is_down:
                with suppress(*_FAILURES):
                    await self._exchange(self._part.message(self._loop.time(), is_last=True))
        finally:
            self._talk.cancel()
            with suppress(*_FAILURES):
                await self._hang_up()

    def _has_capacity(self) -> bool:
        return self._broken_off is None and super()._has_capacity()

    def _admit_waiters(self) -> None:
        super()._admit_waiters()
        if self._is_closing or self._broken_off is not None:
            self._reject_all()
        elif self._asks_at() <= self._loop.time():
            self._wake.set()

    def _closed_error(self) -> RuntimeError:
        if self._broken_off is None:
            return super()._closed_error()
        error = RuntimeError("the rate limit's talk with Redis has broken off")
        error.__cause__ = self._broken_off
        return error

    def _end_talk(self, talk: asyncio.Task[None]) -> None:
        """Let nobody wait for answers that will not come."""
        self._broken_off = None if talk.cancelled() else talk.exception()
        if self._broken_off is not None:
            self._reject_all()

    def _hurry(self) -> None:
        """Tell the others now what they wait for, and not with the next beat."""
        if self._is_closing or (self._part.is_urgent and not self._part.is_alone):
            self._wake.set()

    async def _keep_talking(self) -> None:
        while not self._is_closing:  # redis may swallow a cancellation, as `wait_for` of 3.11 does
            now = self._loop.time()
            message = self._part.message(now, wanted=self._wanted(), is_probing=self._probing)
            try:
                reply = await self._exchange(message)
            except _FAILURES as error:
                self._part.missed()
                self._note(error)
            else:
                self._heed(reply)
            self._wake.clear()
            self._admit_waiters()
            self._part.give_back()
            self._hurry()
            await self._rest(now + self._part.pace.beat)

    async def _rest(self, until: float) -> None:
        """Until something is to be told or asked, the next beat at the latest."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(until, self._asks_at())):
                await self._wake.wait()

    async def _exchange(self, message: str) -> Reply:
        async with asyncio.timeout(self._part.pace.patience):
            return parse_reply(await self._ask(message))

    def _heed(self, reply: Reply) -> None:
        now = self._loop.time()
        self._part.heard(reply, now)
        if not reply.is_known:
            if self._paused_until > now:
                self._part.tell_pause(self._paused_until)
            return
        self._note(None)
        if not self._part.has_pause_to_tell:
            self._recovered = reply.is_clear
            if reply.pause:
                self._paused_until = max(self._paused_until, now + reply.pause)
                self._reject_impatient()

    def _wanted(self) -> int:
        """How many may go if there are places for them."""
        if self._probing or self._loop.time() < self._paused_until:
            return 0
        waiting = (turn for turn in self._queue if not turn.done())
        return sum(1 for _ in islice(waiting, self._free_slots))

    def _asks_at(self) -> float:
        """When to ask for places: the time on the loop's clock, infinite for not at all."""
        if not self._queue or not self._free_slots or self._probing or self._part.is_alone:
            return inf
        return max(self._part.ask_at, self._paused_until)

    def _note(self, error: Exception | None) -> None:
        """Tell the log when Redis goes and when it is back."""
        if error is not None and not self._is_down:
            log.warning(
                "the rate limit's Redis at %s is gone (%s): going on with a share of the limit",
                self._place,
                type(error).__name__,  # its words may repeat the password
            )
        elif error is None and self._is_down:
            log.info("the rate limit's Redis at %s is back", self._place)
        self._is_down = error is not None
