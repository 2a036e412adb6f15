"""OpenTelemetry, where it is installed (extra `otel`); otherwise nothing, at no cost.

Following a run is one span, its looks and troubles are events of it. A request that is repeated is
an event of whatever span is current.
"""

from collections.abc import Iterator
from contextlib import contextmanager

try:
    from opentelemetry import trace
except ImportError:  # the extra is not installed
    trace = None  # type: ignore[assignment]


@contextmanager
def run_span(service: str, connection_id: str, run_id: str) -> Iterator[None]:
    """The span of a run that is followed, current while the block lasts."""
    if trace is None:
        yield
        return
    attributes = {
        "itwin.service": service,
        "itwin.connection_id": connection_id,
        "itwin.run_id": run_id,
    }
    tracer = trace.get_tracer("itwin_export_async")
    with tracer.start_as_current_span("itwin run", attributes=attributes):
        yield


def event(name: str, **attributes: str | float) -> None:
    """Something that happened, told to the current span."""
    if trace is not None:
        trace.get_current_span().add_event(
            name, {f"itwin.{key}": value for key, value in attributes.items()}
        )
