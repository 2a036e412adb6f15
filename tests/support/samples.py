"""Responses, the documented examples, and Hypothesis strategies."""

import json
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import strategies as st

from itwin_export_async._models import (
    ExecutionResult,
    ExecutionState,
    ExportOptions,
    ExportType,
    IfcVersion,
    InputOptions,
    Job,
    OutputLocation,
    OutputOptions,
    Run,
    Task,
)
from itwin_export_async._protocol.messages import Response

EXAMPLES = Path(__file__).parent.parent / "examples"
BASE = "https://api.bentley.com"
NOW = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)


def example(name: str) -> Any:
    """A documented payload, as parsed JSON."""
    return json.loads((EXAMPLES / name).read_bytes())


def answer(body: Any = None, status: int = 200, **headers: str) -> Response:
    """A response with this JSON (bytes unchanged) and headers such as `Retry_After="3"`."""
    return Response(
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        method="GET",
        url=f"{BASE}/export/connections/c1/runs",
    )


def task(
    id: str = "t1", result: str | None = "Success", state: str = "Completed", **more: Any
) -> Task:
    """A task that succeeded, unless the arguments differ."""
    return Task(id=id, state=ExecutionState(state), result=_result(result), **more)


def job(*tasks: Task, id: str = "j1", result: str | None = "Success") -> Job:
    """A job of these tasks."""
    return Job(id=id, state=ExecutionState.COMPLETED, result=_result(result), tasks=tasks)


def run(
    *jobs: Job,
    id: str = "r1",
    result: str | None = "Success",
    state: str = "Completed",
    **more: Any,
) -> Run:
    """A run of these jobs that succeeded, unless the arguments differ."""
    return Run(
        id=id,
        connection_id="c1",
        state=ExecutionState(state),
        result=_result(result),
        jobs=jobs,
        **more,
    )


def _result(value: str | None) -> ExecutionResult | None:
    return None if value is None else ExecutionResult(value)


states = st.sampled_from([*ExecutionState, ExecutionState("Paused")])
results = st.none() | st.sampled_from([*ExecutionResult, ExecutionResult("Exploded")])
times = st.none() | st.integers(0, 10**6).map(lambda s: NOW + timedelta(seconds=s))

_tasks = st.builds(
    Task,
    id=st.sampled_from("abcdefgh"),
    state=states,
    result=results,
    export_output_file_id=st.none() | st.sampled_from(["f1", "f2", ""]),
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """A run of up to three jobs with up to four tasks each, every id its own."""
    jobs = tuple(
        Job(
            id=f"j{number}",
            state=draw(states),
            result=draw(results),
            tasks=tuple(
                Task(
                    id=f"{number}{t.id}",
                    state=t.state,
                    result=t.result,
                    export_output_file_id=t.export_output_file_id,
                )
                for t in draw(st.lists(_tasks, max_size=4, unique_by=lambda t: t.id))
            ),
        )
        for number in draw(st.lists(st.integers(1, 4), max_size=3, unique=True))
    )
    return Run(
        id="r1",
        connection_id="c1",
        state=draw(states),
        result=draw(results),
        start_date_time=draw(times),
        end_date_time=draw(times),
        jobs=jobs,
    )


_decided = [result for result in ExecutionResult if result is not ExecutionResult.UNDETERMINED]
finals = st.builds(
    lambda seen, result: evolve(seen, state=ExecutionState.COMPLETED, result=result),
    runs(),
    st.sampled_from([*_decided, ExecutionResult("Exploded")]),
)

_ids = st.none() | st.text(string.ascii_letters + string.digits + "-_", min_size=1)
_urls = st.just("https://blobs.example.com/out?sig=s3cret")


@st.composite
def export_options(draw: st.DrawFn) -> ExportOptions:
    """Any options that may be built at all."""
    kind = draw(st.sampled_from([*ExportType, ExportType("DGN")]))
    version = draw(st.none() | st.sampled_from([*IfcVersion, IfcVersion("IFC5")]))
    source = InputOptions(
        changeset_id=draw(_ids),
        mapping_file_id=draw(_ids),
        mappingfile_blob_url=draw(st.none() | _urls),
        saved_view_id=draw(_ids),
        model_ids=draw(st.none() | st.lists(st.text("0x1ab", min_size=1), min_size=1)),
    )
    place = draw(st.none() | st.sampled_from(OutputLocation))
    blobs = _urls if place is OutputLocation.USER_BLOB_STORAGE else st.none() | _urls
    target = OutputOptions(
        location=place,
        output_sas_url=draw(blobs),
        logs_sas_url=draw(blobs),
        folder_id=draw(_ids),
        replace_older_file=draw(st.none() | st.booleans()),
        save_logs=draw(st.none() | st.booleans()),
    )
    return ExportOptions(
        export_type=kind,
        ifc_version=version if kind is ExportType.IFC else None,
        input=source,
        output=target,
    )


def json_values(leaves: st.SearchStrategy[Any] | None = None) -> st.SearchStrategy[Any]:
    """Any JSON value, with the service's own member names among the keys."""
    keys = st.sampled_from(MEMBERS) | st.text(max_size=5)
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
    words = st.sampled_from(["Completed", "Success", "false", "", "2020-01-01T00:00:00Z"])
    return st.recursive(
        plain | words if leaves is None else leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=8),
        max_leaves=20,
    )


MEMBERS = (
    "id", "connectionId", "state", "result", "startDateTime", "endDateTime", "jobs", "tasks",
    "error", "errorCode", "bridgeExitCode", "canUserFix", "retryAttempts", "exportOutputFileId",
    "_links", "href", "lastRun", "lastRunUrl", "authorizationUrl", "isUserAuthorized", "iModelId",
    "authenticationType", "storageFileId", "connectorType", "displayName", "size", "raw",
)  # fmt: skip
