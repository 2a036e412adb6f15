"""Spans and metrics for OpenTelemetry (extra `otel`). Without it they do nothing, at no cost.

A start, a wait and a download are spans in the caller's trace, with the status ERROR if they fail.
The poll task of a run is one span of its own, and its polls are events of it: many waits share it.
A retry is an event of the span that is current. The metrics of a session are created when it is
opened, if a meter provider has been set by then.
"""

from collections.abc import Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

try:
    from opentelemetry import metrics, trace
except ImportError:  # the extra is not installed
    metrics = trace = None  # type: ignore[assignment]

_NAME = "itwin_export_async"


class SessionMetrics:
    """The instruments of one session."""

    def __init__(self, meter: "metrics.Meter") -> None:
        self._requests = meter.create_counter("itwin.requests", "{request}", "Requests sent")
        self._seconds = meter.create_histogram(
            "itwin.request.duration", "s", "Seconds from sending to response"
        )
        self._retries = meter.create_counter("itwin.retries", "{request}", "Requests sent again")
        self._waits = meter.create_histogram(
            "itwin.rate_limit.wait", "s", "Seconds that requests waited for the rate limit"
        )
        self._remaining = meter.create_gauge(
            "itwin.rate_limit.remaining", "{call}", "Calls that the rate limit allows now"
        )
        self._runs = meter.create_counter("itwin.runs", "{run}", "Runs followed to their end")
        self._run_seconds = meter.create_histogram(
            "itwin.run.duration", "s", "Seconds from the start to the end of a run"
        )
        self._downloaded = meter.create_counter(
            "itwin.downloaded", "By", "Bytes of files that were read from the blob store"
        )

    def record_request(
        self, operation: str, status: int | None, seconds: float, remaining: int | None
    ) -> None:
        """A request was sent. `status`: None without a response. `remaining`: calls allowed now."""
        attributes = {"operation": operation, "status": "none" if status is None else str(status)}
        self._requests.add(1, attributes)
        self._seconds.record(seconds, attributes)
        if remaining is not None:
            self._remaining.set(remaining)

    def record_retry(self, operation: str) -> None:
        """A request is sent again."""
        self._retries.add(1, {"operation": operation})

    def record_wait(self, seconds: float) -> None:
        """A request passed the limiter after so many seconds, 0 if it did not have to wait."""
        if seconds > 0:
            self._waits.record(seconds)

    def record_run(self, service: str, outcome: str, seconds: float | None) -> None:
        """A run has finished. `seconds`: its duration, None where it is not known."""
        attributes = {"service": service, "outcome": outcome}
        self._runs.add(1, attributes)
        if seconds is not None:
            self._run_seconds.record(seconds, attributes)

    def record_download(self, size: int) -> None:
        """So many bytes of a file were read."""
        if size > 0:
            self._downloaded.add(size)


def session_metrics() -> SessionMetrics | None:
    """The instruments for one session; None if nothing would read them."""
    if metrics is None:
        return None
    meter = metrics.get_meter(_NAME)
    if type(meter).__module__.startswith("opentelemetry.metrics"):  # the API's own, of no effect
        return None
    return SessionMetrics(meter)


class ActiveSpan:
    """The span of a block; without OpenTelemetry one of no effect."""

    def __init__(self, recorded: "trace.Span | None") -> None:
        self._recorded = recorded

    def set(self, **attributes: str | float) -> None:
        """Set attributes that are known only now."""
        if self._recorded is not None:
            self._recorded.set_attributes(_attributes(attributes))

    def fail(self, description: str) -> None:
        """Set the status ERROR."""
        if self._recorded is not None:
            self._recorded.set_status(trace.StatusCode.ERROR, description)


_NO_SPAN = nullcontext(ActiveSpan(None))


def span(
    name: str, **attributes: str | float | None
) -> AbstractContextManager[ActiveSpan, bool | None]:
    """A span around a block. An exception that leaves the block sets the status ERROR.

    An attribute that is None is left out.
    """
    tracer = None if trace is None else trace.get_tracer(_NAME)
    if tracer is None or type(tracer).__module__.startswith("opentelemetry.trace"):
        return _NO_SPAN  # the API's own tracer is of no effect
    known = {key: value for key, value in attributes.items() if value is not None}
    return _active_span(tracer, name, _attributes(known))


@contextmanager
def _active_span(
    tracer: "trace.Tracer", name: str, attributes: dict[str, Any]
) -> Iterator[ActiveSpan]:
    with tracer.start_as_current_span(name, attributes=attributes) as recorded:
        yield ActiveSpan(recorded)


def in_span(
    work: Coroutine[Any, Any, None], service: str, connection_id: str, run_id: str
) -> Coroutine[Any, Any, None]:
    """The work of polling a run, in a span of its own if spans are recorded."""
    if trace is None:
        return work
    attributes = {"service": service, "connection_id": connection_id, "run_id": run_id}
    run_span = trace.get_tracer(_NAME).start_span("itwin run", attributes=_attributes(attributes))
    if not run_span.get_span_context().is_valid:  # spans are not recorded
        return work
    return _in_span(work, run_span)


async def _in_span(work: Coroutine[Any, Any, None], run_span: "trace.Span") -> None:
    with trace.use_span(run_span, end_on_exit=True):
        await work


def add_event(name: str, **attributes: str | float) -> None:
    """Add an event to the current span."""
    if trace is not None:
        trace.get_current_span().add_event(name, _attributes(attributes))


def _attributes(values: dict[str, Any]) -> dict[str, Any]:
    return {f"itwin.{key}": value for key, value in values.items()}
