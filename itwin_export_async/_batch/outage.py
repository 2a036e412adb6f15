"""Outages before and after a run: all exports of a batch wait one out together.

A step that fails without an answer begins an outage. Then nothing new begins, and one step at a
time is tried every few seconds, until one succeeds or the outage has lasted for `max_outage`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from attrs import define, evolve, field, frozen

from itwin_export_async._errors import (
    Conflict,
    DownloadError,
    ExportError,
    RunError,
    StartTimeout,
)

log = logging.getLogger("itwin_export_async.batch")

T = TypeVar("T")

PROBE_INTERVAL = 5.0  # seconds between two attempts during an outage


@frozen(kw_only=True)
class OutageState:
    """`since`: when the first attempt failed, in the loop's time, None without an outage.

    `probe_at`: when the next attempt may be made.
    """

    since: float | None = None
    probe_at: float = 0.0

    def with_failure(self, now: float, retry_after: float | None) -> "OutageState":
        """After an attempt without an answer."""
        since = now if self.since is None else self.since
        return OutageState(since=since, probe_at=now + max(PROBE_INTERVAL, retry_after or 0.0))

    def with_probe(self, now: float) -> "OutageState":
        """When an attempt is made: the next one has to wait."""
        return evolve(self, probe_at=now + PROBE_INTERVAL)

    def seconds(self, now: float) -> float:
        """How long the outage has lasted, 0 without one."""
        return 0.0 if self.since is None else now - self.since


def is_outage(error: ExportError) -> bool:
    """Whether the error says that the service, or the way to it, is out of order."""
    if isinstance(error, Conflict | RunError | StartTimeout):
        return False  # each has waited for as long as it may
    if isinstance(error, DownloadError) and error.reason == "not_available":
        return False  # the file has been waited for
    return error.is_transient


@define(eq=False)
class OutageGate:
    """Admits the steps of many exports, one at a time while an outage lasts.

    `max_outage`: seconds for which steps are retried before their error is raised.
    """

    max_outage: float
    _state: OutageState = OutageState()
    _recovered: asyncio.Event = field(factory=asyncio.Event)

    async def run(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of the step, repeated through an outage of at most `max_outage` seconds."""
        now = asyncio.get_running_loop().time
        began_at = now()
        while True:
            await self._admit()
            try:
                result = await step()
            except ExportError as error:
                if not is_outage(error):
                    self._end(now())
                    raise
                self._begin_or_continue(error, now())
                if min(self._state.seconds(now()), now() - began_at) > self.max_outage:
                    raise
            else:
                self._end(now())
                return result

    async def _admit(self) -> None:
        """Return at once without an outage; else when it is over, or for the next attempt."""
        now = asyncio.get_running_loop().time
        while self._state.since is not None:
            wait = self._state.probe_at - now()
            if wait <= 0:
                self._state = self._state.with_probe(now())
                return
            try:
                async with asyncio.timeout(wait):
                    await self._recovered.wait()
            except TimeoutError:
                continue

    def _begin_or_continue(self, error: ExportError, now: float) -> None:
        if self._state.since is None:
            self._recovered.clear()
            log.warning("outage: exports pause until the service answers: %s", error)
        self._state = self._state.with_failure(now, getattr(error, "retry_after", None))

    def _end(self, now: float) -> None:
        if self._state.since is not None:
            log.info("outage over after %.0f s: exports continue", now - self._state.since)
            self._state = OutageState()
            self._recovered.set()
