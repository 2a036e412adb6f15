"""The trace of a sender goes along with its task, in labels, if OpenTelemetry is installed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

try:
    from opentelemetry import context, propagate
except ImportError:  # the extra `otel` is not installed
    context = propagate = None  # type: ignore[assignment]


def trace_labels() -> dict[str, str]:
    """The labels that carry the current trace; empty without one."""
    labels: dict[str, str] = {}
    if propagate is not None:
        propagate.inject(labels)
    return labels


@contextmanager
def continued_trace(labels: Mapping[str, Any]) -> Iterator[None]:
    """Continue the trace of the labels while the block lasts."""
    if propagate is None:
        yield
        return
    token = context.attach(propagate.extract(dict(labels)))
    try:
        yield
    finally:
        context.detach(token)
