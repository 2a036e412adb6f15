"""Runs of exports and of synchronizations, which differ only in their paths.

A start is answered with 202 (started), 303 (a run of the iModel is active, `Location` names it) or
409 (another start for the iModel is being processed).

https://developer.bentley.com/apis/export/operations/
https://developer.bentley.com/apis/synchronization/operations/
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from attrs import evolve, frozen

from itwin_export_async._models import Connection, ExportOptions, Run
from itwin_export_async._protocol.codec import decode, encode
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.headers import JSON_BODY, service_time
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import Page, page_of, page_query
from itwin_export_async._protocol.urls import RunAddress, quote_segment, run_address
from itwin_export_async._redaction import holds_secret, safe_repr, signatures

C = TypeVar("C", bound=Connection)
_SIGNATURE = re.compile(  # in JSON text, which may have `&`, `+`, `/` and `=` escaped; linear
    rb"(?<![a-z_])(sig=)(?:[^&\s\"'\\<>]|\\/|\\u00(?:2b|2f|3d))+", re.IGNORECASE
)
CLOCK_TOLERANCE = timedelta(seconds=5)


class Service(StrEnum):
    """Which of the two services a run belongs to."""

    EXPORT = "export"
    SYNCHRONIZATION = "synchronization"


CONNECTIONS = {
    Service.EXPORT: "/export/connections",
    Service.SYNCHRONIZATION: "/synchronization/imodels/storageconnections",
}
FULL_REPRESENTATION: dict[Service, dict[str, str]] = {  # without it a list holds ids and names only
    Service.EXPORT: {},
    Service.SYNCHRONIZATION: {"Prefer": "return=representation"},
}


def connection_path(service: Service, connection_id: str) -> str:
    """The path of one connection."""
    return f"{CONNECTIONS[service]}/{quote_segment('connection_id', connection_id)}"


def create_run_request(connection_id: str, options: ExportOptions) -> Request:
    """Start an export.

    Repeatable: while the first run is active the service answers a second request with that run
    (303), so that a retry finds the run of a lost response.
    """
    _check_ids(options)
    return Request(
        method="POST",
        url=f"{connection_path(Service.EXPORT, connection_id)}/runs",
        headers=JSON_BODY,
        body=encode(options),
        retryable=True,
        secrets=signatures(
            options.input.mappingfile_blob_url,
            options.output.output_sas_url,
            options.output.logs_sas_url,
        ),
    )


def _check_ids(options: ExportOptions) -> None:
    """Raise a `ValueError` where a URL stands for an id: it would be sent, stored and shown."""
    ids = {
        "changeset_id": options.input.changeset_id,
        "mapping_file_id": options.input.mapping_file_id,
        "saved_view_id": options.input.saved_view_id,
        "folder_id": options.output.folder_id,
    }
    for name, value in ids.items():
        if value is not None and holds_secret(value):
            raise ValueError(f"{name} {safe_repr(value)} is a URL, not an id")


def create_synchronization_run_request(connection_id: str) -> Request:
    """Start a synchronization: the path is singular, without a body; repeatable as an export."""
    path = connection_path(Service.SYNCHRONIZATION, connection_id)
    return Request(method="POST", url=f"{path}/run", retryable=True)


@frozen(kw_only=True)
class Accepted:
    """202: a run was started. `run` is None where the response does not name it."""

    run: RunAddress | None


@frozen(kw_only=True)
class AlreadyActive:
    """303: the iModel has an active run, maybe of another connection; none was started."""

    run: RunAddress | None


@frozen(kw_only=True)
class LostRace:
    """409: another request for the same iModel is being processed at this moment."""


def parse_start_response(response: Response) -> Accepted | AlreadyActive | LostRace:
    """The service's decision about a start."""
    match response.status:
        case 202:
            return Accepted(run=_from_location(response))
        case 303:
            return AlreadyActive(run=_from_location(response))
        case 409:
            return LostRace()
        case _:
            raise error_from_response(response)


def _from_location(response: Response) -> RunAddress | None:
    location = response.headers.get("Location")
    return run_address(response, location) if location else None


def service_time_at(response: Response, seconds: float, *, now: datetime) -> datetime:
    """The time by the service's own clock, `seconds` before this response.

    `now` is our own clock, for responses without a `Date`.
    """
    return (service_time(response.headers) or now) - timedelta(seconds=seconds)


def started_after(run: Run, moment: datetime) -> bool:
    """Whether the run started at `moment` or later, within the tolerance of the clocks.

    A run without a start time has not started yet.
    """
    if run.start_date_time is None:
        return not run.is_completed
    return run.start_date_time >= moment - CLOCK_TOLERANCE


def newest(runs: Iterable[Run]) -> Run | None:
    """The run that started last; a run without a start time is newer than all others."""
    far = datetime.max
    ordered = sorted(
        runs,
        key=lambda r: r.start_date_time.replace(tzinfo=None) if r.start_date_time else far,
    )
    return ordered[-1] if ordered else None


def get_connection_request(service: Service, connection_id: str) -> Request:
    """Read a connection of either service."""
    return Request(method="GET", url=connection_path(service, connection_id))


def parse_connection(response: Response, cls: type[C]) -> C:
    """The connection."""
    if response.status != 200:
        raise error_from_response(response)
    return decode(response, "connection", cls)


def parse_last_run(response: Response) -> RunAddress | None:
    """The run of a connection's `lastRun` link, None without one."""
    link = parse_connection(response, Connection).last_run_url
    return run_address(response, link) if link else None


def get_run_request(service: Service, connection_id: str, run_id: str) -> Request:
    """Read one run."""
    path = connection_path(service, connection_id)
    return Request(method="GET", url=f"{path}/runs/{quote_segment('run_id', run_id)}")


def parse_run(response: Response, connection_id: str, *, known: Run | None = None) -> Run:
    """The run as it is now: `known`, the latest snapshot, where nothing has changed."""
    if response.status != 200:
        raise error_from_response(response)
    return _with_connection_id(
        decode(_redact_signatures(response), "run", Run, known=known), connection_id
    )


def list_runs_request(
    service: Service, connection_id: str, *, page_size: int | None, offset: int
) -> Request:
    """One page of a connection's runs."""
    path = connection_path(service, connection_id)
    return Request(
        method="GET",
        url=f"{path}/runs{page_query({}, page_size, offset)}",
        headers=FULL_REPRESENTATION[service],
    )


def parse_runs(response: Response, connection_id: str) -> Page[Run]:
    """One page of a connection's runs, in no order."""
    page = page_of(_redact_signatures(response), "runs", Run)
    return evolve(page, items=tuple(_with_connection_id(run, connection_id) for run in page.items))


def _redact_signatures(response: Response) -> Response:
    """The response without signatures, which a task's error may quote from a signed URL."""
    if b"=" not in response.body or b"sig=" not in response.body.lower():
        return response
    return evolve(response, body=_SIGNATURE.sub(rb"\1***", response.body))


def _with_connection_id(run: Run, connection_id: str) -> Run:
    if not run.connection_id:
        object.__setattr__(run, "connection_id", connection_id)  # not shared yet
    return run
