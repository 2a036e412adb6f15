"""OpenTelemetry spans and metrics."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from itwin_export_async import (
    ExportClient,
    RateLimit,
    RetryPolicy,
    Session,
    TransportError,
)
from itwin_export_async._http import telemetry
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request
from tests.support.fakes import Answers, answer


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


async def test_run_is_one_span_with_events(
    client: ExportClient, emulator: Emulator, spans: InMemorySpanExporter
) -> None:
    run = await client.start_run((await client.create_connection(emulator.add_imodel())).id)
    emulator.inject("get_run", *[ConnectionResetError()] * 7)
    await run.wait()
    (span,) = (span for span in spans.get_finished_spans() if span.name == "itwin run")
    assert span.attributes is not None
    assert span.attributes["itwin.run_id"] == run.run_id
    names = [event.name for event in span.events]
    assert names.count("poll") + names.count("retry") == emulator.count("get_run") - 1
    assert names.count("poll failed") == 1
    assert dict(span.events[-1].attributes or {})["itwin.outcome"] == "Success"


@pytest.mark.usefixtures("integration")
def test_library_works_without_opentelemetry() -> None:
    hide = "import sys; sys.modules['opentelemetry'] = None; "
    check = "from itwin_export_async._http.telemetry import trace; sys.exit(trace is not None)"
    assert subprocess.run([sys.executable, "-c", hide + check], check=False).returncode == 0


async def test_nothing_is_traced_without_opentelemetry(
    client: ExportClient, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "trace", None)
    monkeypatch.setattr(telemetry, "metrics", None)
    with telemetry.span("itwin start"):
        assert telemetry.session_metrics() is None
    run = await client.start_run((await client.create_connection(emulator.add_imodel())).id)
    emulator.inject("get_run", ConnectionResetError())
    assert (await run.wait()).is_final


def test_span_has_its_attributes_and_status(spans: InMemorySpanExporter) -> None:
    with telemetry.span("itwin start", imodel_id="m1"):
        pass
    with pytest.raises(TransportError):
        with telemetry.span("itwin download", file_id="f1"):
            raise TransportError(message="reset")
    good, bad = spans.get_finished_spans()
    assert (good.name, dict(good.attributes or {})) == ("itwin start", {"itwin.imodel_id": "m1"})
    assert good.status.status_code is trace.StatusCode.UNSET
    assert bad.status.status_code is trace.StatusCode.ERROR
    assert "reset" in (bad.status.description or "")


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    yield reader
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Attributes and value of each point, by metric; the value of a histogram is its count."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: [
            (dict(p.attributes or {}), getattr(p, "value", getattr(p, "count", None)))
            for p in metric.data.data_points
        ]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def test_requests_are_metrics(meters: InMemoryMetricReader) -> None:
    transport = Answers(
        answer(200), answer(429, Retry_After="9"), TransportError(message="reset"), answer(404)
    )
    limit = RateLimit(per_minute=100)
    async with Session("t", transport=transport, rate_limit=limit) as session:
        await session.send(Request(method="GET", url="/export/connections/c1/runs/r1?x=y"))
        await session.send(Request(method="DELETE", url="/export/connections/c2"))
    found = points(meters)
    get = {"operation": "GET /export/connections/{id}/runs/{id}", "status": "200"}
    delete = {"operation": "DELETE /export/connections/{id}"}
    statuses = [get, *(delete | {"status": status} for status in ("429", "none", "404"))]
    assert found["itwin.requests"] == [(attributes, 1) for attributes in statuses]
    assert found["itwin.request.duration"] == [(attributes, 1) for attributes in statuses]
    assert found["itwin.retries"] == [(delete, 2)]
    assert found["itwin.rate_limit.wait"] == [({}, 1)]
    assert found["itwin.rate_limit.remaining"] == [({}, 96)]


async def test_session_without_a_limit_has_no_metric_of_remaining_calls(
    meters: InMemoryMetricReader,
) -> None:
    retry = RetryPolicy(attempts=1)
    session = Session("t", transport=Answers(answer(204)), rate_limit=RateLimit(), retry=retry)
    async with session:
        await session.send(Request(method="GET", url="/x"))
    assert set(points(meters)) == {"itwin.requests", "itwin.request.duration"}
