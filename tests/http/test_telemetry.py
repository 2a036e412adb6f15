"""Spans, where OpenTelemetry is installed."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from itwin_export_async import ExportClient
from itwin_export_async._http import telemetry
from itwin_export_async.emulator import Emulator


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


async def test_a_run_is_one_span_with_its_looks_and_troubles(
    client: ExportClient, emulator: Emulator, spans: InMemorySpanExporter
) -> None:
    run = await client.start_run((await client.create_connection(emulator.add_imodel())).id)
    emulator.inject("get_run", *[ConnectionResetError()] * 7)
    await run.wait()
    (span,) = spans.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["itwin.run_id"] == run.run_id
    names = [event.name for event in span.events]
    assert names.count("look") + names.count("retry") == emulator.count("get_run") - 1
    assert names.count("look failed") == 1
    assert dict(span.events[-1].attributes or {})["itwin.outcome"] == "Success"


@pytest.mark.usefixtures("integration")
def test_the_library_does_without_opentelemetry() -> None:
    hide = "import sys; sys.modules['opentelemetry'] = None; "
    check = "from itwin_export_async._http.telemetry import trace; sys.exit(trace is not None)"
    assert subprocess.run([sys.executable, "-c", hide + check], check=False).returncode == 0


async def test_without_opentelemetry_nothing_is_traced(
    client: ExportClient, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "trace", None)
    run = await client.start_run((await client.create_connection(emulator.add_imodel())).id)
    emulator.inject("get_run", ConnectionResetError())
    assert (await run.wait()).is_final
