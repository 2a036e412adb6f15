"""Outages before and after a run: all exports of a batch wait one out together.

Two consecutive failures without a response, of whichever exports, are an outage: the failure of one
iModel alone does not pause the others. Then nothing new begins, and one step is tried every few
seconds, until one succeeds. A step gives up when it has failed, or was held, for `max_outage`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
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

PROBE_INTERVAL = 5.0  # seconds between two tries during an outage
MIN_FAILURES = 2  # consecutive ones that are an outage


@frozen(kw_only=True)
class OutageState:
    """What the latest steps have shown. Times are the loop's.

    `failures`: consecutive steps without a response. `since`: when the first of them failed.
    `probe_at`: when the next step may be tried during an outage.
    """

    failures: int = 0
    since: float = 0.0
    probe_at: float = 0.0

    @property
    def is_outage(self) -> bool:
        """Whether steps are held."""
        return self.failures >= MIN_FAILURES

    def with_failure(self, now: float, pause: float) -> "OutageState":
        """After a step without a response; the next one is tried after `pause` seconds."""
        return OutageState(
            failures=self.failures + 1,
            since=self.since if self.failures else now,
            probe_at=now + pause,
        )

    def with_probe(self, now: float) -> "OutageState":
        """When a step is tried: the next one has to wait."""
        return evolve(self, probe_at=now + PROBE_INTERVAL)

    def seconds(self, now: float) -> float:
        """How long nothing has succeeded, 0 if the latest step has."""
        return now - self.since if self.failures else 0.0


def is_outage(error: ExportError) -> bool:
    """Whether the error says that the service, or the way to it, is out of order."""
    if isinstance(error, Conflict | RunError | StartTimeout):
        return False  # each has waited for as long as it may
    if isinstance(error, DownloadError) and error.reason == "not_available":
        return False  # the file has been waited for
    return error.is_transient


@define(eq=False)
class OutageRetrier:
    """Retries the steps of many exports, one at a time while an outage lasts.

    `max_outage`: seconds for which steps are retried before their error is raised.
    """

    max_outage: float
    _state: OutageState = field(factory=OutageState)
    _over: asyncio.Event = field(factory=asyncio.Event)  # set when an outage ends

    async def run(self, step: Callable[[], Awaitable[T]]) -> T:
        """The result of the step, repeated through an outage of at most `max_outage` seconds."""
        now = asyncio.get_running_loop().time
        began_at, failing_since = now(), None
        while True:
            await self._admit(began_at)
            try:
                result = await step()
            except ExportError as error:
                if not is_outage(error):
                    self._on_response(now())
                    raise
                failing_since = now() if failing_since is None else failing_since
                pause = max(PROBE_INTERVAL, getattr(error, "retry_after", None) or 0.0)
                self._on_failure(error, now(), pause)
                held = min(self._state.seconds(now()), now() - began_at)
                if max(held, now() - failing_since) >= self.max_outage:
                    raise
                await asyncio.sleep(pause)
            else:
                self._on_response(now())
                return result

    async def _admit(self, began_at: float) -> None:
        """Return at once without an outage; else for the next try, or for the last one."""
        now = asyncio.get_running_loop().time
        while self._state.is_outage:
            last_try = max(self._state.since, began_at) + self.max_outage
            wait = min(self._state.probe_at, last_try) - now()
            if wait <= 0:
                self._state = self._state.with_probe(now())
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._over.wait()

    def _on_failure(self, error: ExportError, now: float, pause: float) -> None:
        was_outage = self._state.is_outage
        self._state = self._state.with_failure(now, pause)
        if self._state.is_outage and not was_outage:
            self._over.clear()
            log.warning("outage: exports pause until the service answers: %s", error)

    def _on_response(self, now: float) -> None:
        state, self._state = self._state, OutageState()
        if state.is_outage:
            log.info("outage over after %.0f s: exports continue", state.seconds(now))
            self._over.set()
