"""OpenTelemetry, where it is installed (extra `otel`); otherwise nothing, at no cost.

Following a run is one span, its looks and troubles are events of it. A request that is repeated is
an event of whatever span is current.
"""

from collections.abc import Coroutine
from typing import Any

try:
    from opentelemetry import trace
except ImportError:  # the extra is not installed
    trace = None  # type: ignore[assignment]


def traced(
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
    return _in_span(work, attributes)


async def _in_span(work: Coroutine[Any, Any, None], attributes: dict[str, str]) -> None:
    tracer = trace.get_tracer("itwin_export_async")
    with tracer.start_as_current_span("itwin run", attributes=attributes):
        await work


def event(name: str, **attributes: str | float) -> None:
    """Something that happened, told to the current span."""
    if trace is not None:
        trace.get_current_span().add_event(
            name, {f"itwin.{key}": value for key, value in attributes.items()}
        )
