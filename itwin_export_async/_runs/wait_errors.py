"""The errors that end a wait. `facts` are the ids of the run and its resume token."""

from typing import Any

from itwin_export_async._errors import RunFailed, RunPartlyFailed, RunTimeout, RunUnreachable
from itwin_export_async._errors.http import copy_error
from itwin_export_async._models import ExecutionResult, Run
from itwin_export_async._polling.state import PollFailed

_RESUMABLE = "it may still be running, client.resume(error.resume_token) waits for it again"


def run_failed(run: Run, **facts: Any) -> RunFailed:
    """The error of a run that did not succeed."""
    outcome, reported, note = run.outcome, run.result or run.outcome, ""
    if reported != outcome:
        note = f" (the service reported {reported.value}, but its tasks failed)"
    kind = RunPartlyFailed if outcome == ExecutionResult.PARTIAL_SUCCESS else RunFailed
    return kind(message=f"ended with {outcome.value}{note}", run=run, **facts)


def poll_failed(event: PollFailed, last: Run | None, **facts: Any) -> BaseException:
    """The error of one waiter: each gets a copy of the error that all share."""
    if event.outage is None:
        return copy_error(event.error)
    message = f"could not be polled for {event.outage:.0f} s: {event.error}; {_RESUMABLE}"
    unreachable = RunUnreachable(message=message, run=last, **facts)
    unreachable.__cause__ = event.error
    return unreachable


def timed_out(last: Run | None, when: str, seconds: float, **facts: Any) -> RunTimeout:
    """The error of a wait that ends at its deadline."""
    state = "was not read yet" if last is None else f"is still {last.state.value}"
    return RunTimeout(message=f"{state} {when} {seconds:g} s; {_RESUMABLE}", run=last, **facts)
