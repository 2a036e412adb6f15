"""The limiter of one client among several: Redis grants its calls, or it continues offline."""

import asyncio
import logging
from contextlib import suppress
from itertools import islice
from math import inf
from typing import Protocol

from itwin_export_async._http.limiter import RequestLimiter
from itwin_export_async.redis._messages import Reply, parse_reply
from itwin_export_async.redis._quota import QuotaShare
from itwin_export_async.redis._store import FAILURES, reason_of

log = logging.getLogger("itwin_export_async.redis")


class Store(Protocol):
    """Where the state of the limit is; raises one of `FAILURES` if it is not to be reached."""

    async def exchange(self, message: str) -> object:
        """The script's reply to the message."""

    async def evicting_policy(self) -> str | None:
        """The policy by which Redis may evict the keys of the limit, None if it may not."""

    async def close(self) -> None: ...


class RedisLimiter(RequestLimiter):
    """Admits requests as soon as all clients together leave room for them.

    `redis_url`: the address of Redis for the log, without a password.
    """

    def __init__(
        self, share: QuotaShare, at_once: int, *, store: Store, name: str, redis_url: str
    ) -> None:
        super().__init__(share, at_once)
        self._share, self._store = share, store
        self._label = f"rate limit {name!r} in Redis at {redis_url}"
        self._is_down = self._is_closing = self._knows_policy = False
        self._crowded_since: float | None = None
        self._warned: set[str] = set()
        self._sync_error: BaseException | None = None  # the bug that ended the sync task
        self._wake = asyncio.Event()
        self._sync_task = asyncio.create_task(self._sync_loop())
        self._sync_task.add_done_callback(self._on_sync_done)

    def pause(self, seconds: float) -> None:
        self._share.report_pause(self._loop.time() + seconds)
        super().pause(seconds)
        self._sync_soon()

    def release(self, *, is_probe: bool, counted: bool, succeeded: bool) -> None:
        if is_probe:
            self._share.report_probe(succeeded=succeeded and not self.pause_left)
        super().release(is_probe=is_probe, counted=counted, succeeded=succeeded)
        self._sync_soon()

    async def close(self) -> None:
        """Reject all waiters, and unregister if Redis is reachable."""
        self._is_closing = True
        self._reject_all()
        self._wake.set()
        try:
            await self._sync_task
            if not self._is_down:
                with suppress(*FAILURES):
                    await self._exchange(self._share.build_message(self._loop.time(), is_last=True))
        finally:
            self._sync_task.cancel()
            with suppress(*FAILURES):
                await self._store.close()

    def _has_capacity(self) -> bool:
        return self._sync_error is None and super()._has_capacity()

    def _admit_waiters(self) -> None:
        super()._admit_waiters()
        if self._is_closing or self._sync_error is not None:
            self._reject_all()
        elif self._asks_at() <= self._loop.time():
            self._wake.set()

    def _closed_error(self) -> RuntimeError:
        if self._sync_error is None:
            return super()._closed_error()
        error = RuntimeError("the rate limit's exchange with Redis has ended in an error")
        error.__cause__ = self._sync_error
        return error

    def _on_sync_done(self, task: asyncio.Task[None]) -> None:
        """Reject all waiters: no grants will come."""
        self._sync_error = None if task.cancelled() else task.exception()
        if self._sync_error is not None:
            self._reject_all()

    def _sync_soon(self) -> None:
        """Report now what other processes wait for, instead of with the next heartbeat."""
        if self._is_closing or (self._share.has_urgent_report and not self._share.is_offline):
            self._wake.set()

    async def _sync_loop(self) -> None:
        while not self._is_closing:  # redis may swallow a cancellation, as `wait_for` of 3.11 does
            now = self._loop.time()
            message = self._share.build_message(
                now, wanted=self._wanted(), is_probing=self._probing
            )
            try:
                self._on_reply(await self._exchange(message))
            except FAILURES as error:
                self._share.on_timeout()
                self._on_failure(error)
            self._wake.clear()
            self._admit_waiters()
            self._share.release_unused()
            self._sync_soon()
            if not self._is_down and not self._knows_policy:
                await self._check_policy()
            await self._rest(now + self._share.timing.heartbeat)

    async def _rest(self, until: float) -> None:
        """Sleep until something is to be reported or wanted, or until the next heartbeat."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(until, self._asks_at())):
                await self._wake.wait()

    async def _exchange(self, message: str) -> Reply:
        async with asyncio.timeout(self._share.timing.reply_timeout):
            return parse_reply(await self._store.exchange(message))

    def _on_reply(self, reply: Reply) -> None:
        now = self._loop.time()
        self._share.on_reply(reply, now)
        if not reply.known:
            if self._paused_until > now:
                self._share.report_pause(self._paused_until)
            return
        if self._is_down:
            log.info("%s is back", self._label)
            self._is_down = False
        self._check_peers(reply, now)
        if not self._share.has_unreported_pause:
            self._recovered = not reply.needs_probe
            if reply.pause:
                self._paused_until = max(self._paused_until, now + reply.pause)
                self._reject_impatient()

    def _on_failure(self, error: Exception) -> None:
        if self._is_down:
            return
        self._is_down = True
        shares = [f"{calls} calls in {seconds:.0f} s" for seconds, calls in self._share.shares]
        log.warning(
            "%s cannot be used: %s; continuing with a share of %s",
            self._label,
            reason_of(error),
            " and ".join(shares) or "no limit",
        )

    def _check_peers(self, reply: Reply, now: float) -> None:
        """Warn of what breaks the limit. A process that died is live until its time is up."""
        share = self._share
        if reply.live_peers <= share.processes:
            self._crowded_since = None
        elif self._crowded_since is None:
            self._crowded_since = now
        elif now - self._crowded_since > 2 * share.timing.peer_timeout:
            self._warn_once(
                "%s has %d clients, more than processes=%d: together they exceed the limit"
                " when Redis is gone",
                *(reply.live_peers, share.processes),
            )
        if reply.other_limits:
            self._warn_once(
                "%s is used by %d other clients with another limit or another number of"
                " processes: give all the same, or another name",
                reply.other_limits,
            )

    async def _check_policy(self) -> None:
        self._knows_policy = True
        with suppress(*FAILURES):  # the user may not be permitted to ask
            async with asyncio.timeout(self._share.timing.reply_timeout):
                policy = await self._store.evicting_policy()
            if policy is not None:
                self._warn_once(
                    "%s may lose its keys: Redis evicts by maxmemory-policy %s, not noeviction",
                    policy,
                )

    def _warn_once(self, words: str, *values: object) -> None:
        if words not in self._warned:
            self._warned.add(words)
            log.warning(words, self._label, *values)

    def _wanted(self) -> int:
        """How many requests could start now if calls were granted."""
        if self._probing or self._loop.time() < self._paused_until:
            return 0
        waiting = (waiter for waiter in self._queue if not waiter.done())
        return sum(1 for _ in islice(waiting, self._free_slots))

    def _asks_at(self) -> float:
        """When to ask for calls, on the loop's clock; infinite for not at all."""
        if not self._queue or not self._free_slots or self._probing or self._share.is_offline:
            return inf
        return max(self._share.ask_at, self._paused_until)
