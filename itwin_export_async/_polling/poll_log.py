"""What the log says about polls, and about outages: one record for an outage of many runs."""

import asyncio
import logging
from datetime import UTC, datetime

from itwin_export_async._errors import ExportError, RunFailed
from itwin_export_async._models import ExecutionResult, Run
from itwin_export_async._polling.poll_task import PollTask, RunKey
from itwin_export_async._polling.state import PollState, is_regression

log = logging.getLogger("itwin_export_async.runs")


class OutageLog:
    """The runs of one client that cannot be polled.

    `since`: when polls began to fail, None while they succeed.
    """

    def __init__(self, max_outage: float) -> None:
        self._max_outage = max_outage
        self.since: datetime | None = None
        self._began = 0.0  # the same in the loop's time
        self._is_logged = False
        self._failing: set[PollTask] = set()

    def begin(self, poll: PollTask, error: ExportError, *, is_news: bool) -> None:
        """Polls of the run fail. An outage of many runs is one log record."""
        self._failing.add(poll)
        if self.since is None:
            self.since, self._began = datetime.now(UTC), asyncio.get_running_loop().time()
        if is_news and not self._is_logged:
            self._is_logged = True
            log.warning(
                "outage: %s cannot be polled, retrying for up to %.0f s: %s",
                poll.key.label,
                self._max_outage,
                error,
                extra=poll.key.log_fields,
            )

    def end(self, poll: PollTask, *, has_recovered: bool = False) -> None:
        """Polls of the run do not fail any more: they have recovered, or ended."""
        if poll not in self._failing:
            return
        self._failing.remove(poll)
        if self._failing:
            return
        self.since = None
        was_logged, self._is_logged = self._is_logged, False
        if has_recovered and was_logged:
            log.info(
                "outage ended: %s can be polled again after %.0f s",
                poll.key.label,
                asyncio.get_running_loop().time() - self._began,
                extra=poll.key.log_fields,
            )


def log_poll(key: RunKey, run: Run, before: PollState, state: PollState) -> None:
    """Log a poll that succeeded. `before`, `state`: what was known before it, and after."""
    extra = key.log_fields
    if state.is_done and run.outcome in (ExecutionResult.SUCCESS, ExecutionResult.SKIPPED):
        took = "" if run.duration is None else f" after {run.duration:.0f} s"
        log.info("%s finished: %s%s", key.label, run.outcome.value, took, extra=extra)
    elif state.is_done:
        error = RunFailed(
            message=f"failed: {run.outcome.value}",
            connection_id=key.connection_id,
            run_id=key.run_id,
            run=run,
        )
        text = str(error).removeprefix(f"run {key.run_id} of connection {key.connection_id} ")
        log.warning("%s %s", key.label, "; ".join(map(str.strip, text.splitlines())), extra=extra)
    elif before.run is not None and is_regression(before.run.state, run.state):
        log.warning(
            "%s went back from %s to %s", key.label, before.run.state, run.state, extra=extra
        )
    else:
        log.debug("%s: %s", key.label, run.state.value, extra=extra)
