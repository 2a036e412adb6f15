"""OpenTelemetry, where it is installed (extra `otel`); otherwise nothing, at no cost.

RunPoller a run is one span, its looks and troubles are events of it. A request that is repeated is
an event of whatever span is current.
"""

from collections.abc import Coroutine
from typing import Any

try:
    from opentelemetry import trace
except ImportError:  # the extra is not installed
    trace = None  # type: ignore[assignment]


def in_span(
    work: Coroutine[Any, Any, None], service: str, connection_id: str, run_id: str
) -> Coroutine[Any, Any, None]:
    """The work of following a run, inside a span of its own where spans are kept."""
    if trace is None:
        return work
    attributes = {
        "itwin.service": service,
        "itwin.connection_id": connection_id,
        "itwin.run_id": run_id,
    }
    tracer = trace.get_tracer("itwin_export_async")
    span = tracer.start_span("itwin run", attributes=attributes)
    if not span.get_span_context().is_valid:  # nobody keeps spans
        return work
    return _in_span(work, span)


async def _in_span(work: Coroutine[Any, Any, None], span: "trace.Span") -> None:
    with trace.use_span(span, end_on_exit=True):
        await work


def event(name: str, **attributes: str | float) -> None:
    """Something that happened, told to the current span."""
    if trace is not None:
        trace.get_current_span().add_event(
            name, {f"itwin.{key}": value for key, value in attributes.items()}
        )
