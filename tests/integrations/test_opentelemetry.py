"""Spans and metrics of whole exports, read back by the SDK of OpenTelemetry."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from itwin_export_async import (
    ClientCredentials,
    ExportClient,
    ExportRequest,
    PermissionDenied,
    RateLimit,
    RunFailed,
    ServerError,
)
from itwin_export_async.emulator import Chaos, Emulator
from tests.support.fakes import Answers, answer


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


@pytest.fixture
def meters(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr(metrics, "get_meter", provider.get_meter)
    yield reader
    provider.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def facts(span: ReadableSpan) -> dict[str, Any]:
    return {k.removeprefix("itwin."): v for k, v in (span.attributes or {}).items()}


def points(reader: InMemoryMetricReader, name: str) -> list[Any]:
    data = reader.get_metrics_data()
    assert data is not None
    return [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


async def test_start_wait_and_download_are_spans_of_the_callers_trace(
    client: ExportClient, emulator: Emulator, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    with trace.get_tracer("test").start_as_current_span("request") as request:
        outcome = await client.export_imodel(imodel_id, tmp_path)
    assert outcome.run is not None
    start, wait, download = (
        named(spans, f"itwin {step}")[0] for step in ("start", "wait", "download")
    )
    ids = {"connection_id": outcome.connection_id, "run_id": outcome.run.id}
    assert facts(start) == ids | {
        "service": "export",
        "imodel_id": imodel_id,
        "origin": "started",
    }
    assert facts(wait) == ids | {"imodel_id": imodel_id, "outcome": "Success"}
    assert facts(download) == ids | {"files": 1}
    trace_id = request.get_span_context().trace_id
    for span in (start, wait, download):
        assert span.context is not None
        assert span.context.trace_id == trace_id
        assert span.status.status_code is trace.StatusCode.UNSET
    (polls,) = named(spans, "itwin run")  # many waits share it
    assert polls.context is not None
    assert polls.context.trace_id != trace_id


@pytest.mark.parametrize("check", [True, False])
async def test_a_failed_run_is_an_error_of_its_wait(
    client: ExportClient, emulator: Emulator, spans: InMemorySpanExporter, check: bool
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    connection = await client.create_connection(imodel_id)
    run = await client.start_run(connection.id)
    if check:
        with pytest.raises(RunFailed):
            await run.wait()
    else:
        await run.wait(check=False)
    (wait,) = named(spans, "itwin wait")
    assert wait.status.status_code is trace.StatusCode.ERROR
    assert "ended with Error" in (wait.status.description or "")
    assert facts(wait)["outcome"] == "Error"


async def test_a_run_without_dates_is_counted(
    meters: InMemoryMetricReader,
) -> None:
    run = {"id": "r1", "state": "Completed", "result": "Success"}
    transport = Answers(answer(200, json.dumps({"run": run})))
    async with ExportClient("t", transport=transport) as client:
        await client.attach("c1", "r1").wait()
    (point,) = points(meters, "itwin.runs")
    assert point.value == 1
    assert not points(meters, "itwin.run.duration")


async def test_a_file_that_is_opened_and_not_read_is_no_download(
    meters: InMemoryMetricReader, emulator: Emulator
) -> None:
    async with ExportClient(emulator.token(), transport=emulator) as client:
        run = await client.start_run((await client.create_connection(emulator.add_imodel())).id)
        await run.wait()
        (output,) = await run.outputs()
        async with output.open():
            pass
        assert not points(meters, "itwin.downloaded")
        async with output.open() as file:
            data = await file.read()
    (point,) = points(meters, "itwin.downloaded")
    assert point.value == len(data)


async def test_a_run_may_fail_without_opentelemetry(
    client: ExportClient, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itwin_export_async._http.telemetry.trace", None)
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    run = await client.start_run((await client.create_connection(imodel_id)).id)
    with pytest.raises(RunFailed):
        await run.wait()


async def test_a_failed_start_and_a_failed_download_are_errors(
    client: ExportClient, emulator: Emulator, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    emulator.inject("create_run", *[answer(503)] * 5)
    with pytest.raises(ServerError):
        await client.start_run(connection.id)
    run = await client.start_run(connection.id)
    await run.wait()
    emulator.inject("download_file", *[answer(403)] * 5)
    with pytest.raises(PermissionDenied):
        await run.download(tmp_path)
    start, _ = named(spans, "itwin start")
    (download,) = named(spans, "itwin download")
    for span in (start, download):
        assert span.status.status_code is trace.StatusCode.ERROR


async def test_the_metrics_of_a_chaotic_hour_agree_with_the_log_of_the_service(
    meters: InMemoryMetricReader, tmp_path: Path
) -> None:
    emulator = Emulator(seed=1, epoch=datetime.now(UTC), run_seconds=(60, 3600))
    emulator.chaos = Chaos(seed=1, delays=0, truncations=0)  # there the two see different ends
    requests = [
        ExportRequest(imodel_id=emulator.add_imodel(f"{n}"), destination=tmp_path / f"{n}.ifc")
        for n in range(16)
    ]
    for request in requests[::4]:
        emulator.plan_next_run(request.imodel_id, "Error", duration=100)
    random.seed(1)  # the client's own chance
    auth = ClientCredentials(emulator.client_id, emulator.client_secret)
    limit = RateLimit(per_minute=60)
    async with ExportClient(auth, transport=emulator, rate_limit=limit) as client:
        outcomes = [outcome async for outcome in client.export_many(requests)]
        stats = client.session.stats
    api = [r for r in emulator.requests if r.operation not in ("issue_token", "get_blob")]
    sent = Counter((r.method, "none" if r.status is None else str(r.status)) for r in api)
    counted: Counter[tuple[str, str]] = Counter()
    for point in points(meters, "itwin.requests"):
        method = point.attributes["operation"].partition(" ")[0]
        counted[method, point.attributes["status"]] += point.value
    assert counted == sent
    assert counted.total() == stats.calls
    assert {"429", "503", "none"} <= {status for _, status in counted}
    durations = points(meters, "itwin.request.duration")
    assert sum(point.count for point in durations) == stats.calls
    retries = points(meters, "itwin.retries")
    assert sum(point.value for point in retries) <= stats.retries  # those of tokens and blobs too
    assert sum(point.sum for point in points(meters, "itwin.rate_limit.wait")) > 0

    failed = [outcome for outcome in outcomes if not outcome.ok]
    runs = {p.attributes["outcome"]: p.value for p in points(meters, "itwin.runs")}
    assert runs == {"Success": len(outcomes) - len(failed), "Error": len(failed)}
    seconds = sum(outcome.run.duration or 0 for outcome in outcomes if outcome.run)
    found = sum(point.sum for point in points(meters, "itwin.run.duration"))
    assert found == pytest.approx(seconds)
    size = sum(path.stat().st_size for outcome in outcomes for path in outcome.paths)
    (downloaded,) = points(meters, "itwin.downloaded")
    assert downloaded.value == size
