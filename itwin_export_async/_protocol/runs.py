"""Runs, of exports and of synchronizations alike: the twins differ only in their paths."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from attrs import evolve, frozen

from itwin_export_async._models import Connection, ExportOptions, Run
from itwin_export_async._protocol.codec import decode, encode
from itwin_export_async._protocol.error_responses import refusal
from itwin_export_async._protocol.headers import service_time
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import Page, page_of, page_query
from itwin_export_async._protocol.urls import RunAddress, quote_segment, run_address

C = TypeVar("C", bound=Connection)
_SIGNATURE = re.compile(  # in JSON text, which may have `&`, `+`, `/` and `=` escaped
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
FULL_REPRESENTATION: dict[
    Service, dict[str, str]
] = {  # what makes a list tell more than ids and names
    Service.EXPORT: {},
    Service.SYNCHRONIZATION: {"Prefer": "return=representation"},
}


def connection_path(service: Service, connection_id: str) -> str:
    """The path of one connection."""
    return f"{CONNECTIONS[service]}/{quote_segment('connection_id', connection_id)}"


def create_run_request(connection_id: str, options: ExportOptions) -> Request:
    """Start an export.

    Repeatable: while the first run is active the service answers a second request with that very
    run (303), so that a lost answer is found again by asking again.
    """
    return Request(
        method="POST",
        url=f"{connection_path(Service.EXPORT, connection_id)}/runs",
        headers={"Content-Type": "application/json"},
        body=encode(options),
        retryable=True,
    )


def create_synchronization_run_request(connection_id: str) -> Request:
    """Start a synchronization. The word is singular and there is no body; repeatable as above."""
    path = connection_path(Service.SYNCHRONIZATION, connection_id)
    return Request(method="POST", url=f"{path}/run", retryable=True)


@frozen(kw_only=True)
class Accepted:
    """202: a run was started. `run` is None where the answer does not name it."""

    run: RunAddress | None


@frozen(kw_only=True)
class AlreadyActive:
    """303: the iModel has an active run, maybe of another connection; no new one was made."""

    run: RunAddress | None


@frozen(kw_only=True)
class LostRace:
    """409: another request for the same iModel is being taken at this moment."""


def parse_created_run(response: Response, *, base_url: str) -> Accepted | AlreadyActive | LostRace:
    """What became of the request to start a run."""
    match response.status:
        case 202:
            return Accepted(run=_located(response))
        case 303:  # an active run exists already: that one is the answer
            return AlreadyActive(run=_located(response))
        case 409:
            return LostRace()
        case _:
            raise refusal(response)


def _located(response: Response) -> RunAddress | None:
    location = response.headers.get("Location")
    return run_address(response, location) if location else None


def service_time_at(response: Response, seconds: float, *, now: datetime) -> datetime:
    """When, by the service's own clock, something happened `seconds` before this answer.

    `now` is our own clock, for answers that do not tell the time.
    """
    return (service_time(response.headers) or now) - timedelta(seconds=seconds)


def started_after(run: Run, moment: datetime) -> bool:
    """Whether the run is no older than `moment`, give or take the clocks' tolerance.

    One whose start is not told yet has not even begun.
    """
    if run.start_date_time is None:
        return not run.is_completed
    return run.start_date_time >= moment - CLOCK_TOLERANCE


def newest(runs: Iterable[Run]) -> Run | None:
    """The run that began last; one whose start is not told yet is the newest of all."""
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
    match response.status:
        case 200:
            return decode(response, "connection", cls)
        case _:
            raise refusal(response)


def parse_last_run(response: Response, *, base_url: str) -> RunAddress | None:
    """The run that a connection's `lastRun` link names, None when it names none."""
    link = parse_connection(response, Connection).last_run_url
    return run_address(response, link) if link else None


def get_run_request(service: Service, connection_id: str, run_id: str) -> Request:
    """Look at one run."""
    path = connection_path(service, connection_id)
    return Request(method="GET", url=f"{path}/runs/{quote_segment('run_id', run_id)}")


def parse_run(response: Response, connection_id: str, *, known: Run | None = None) -> Run:
    """The run as it is now: `known`, what was seen last, where nothing has changed."""
    match response.status:
        case 200:
            return _of(decode(_unsigned(response), "run", Run, known=known), connection_id)
        case _:
            raise refusal(response)


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
    page = page_of(_unsigned(response), "runs", Run)
    return evolve(page, items=tuple(_of(run, connection_id) for run in page.items))


def _unsigned(response: Response) -> Response:
    """The answer without signatures, which a task's error may quote from a signed address."""
    if b"=" not in response.body or b"sig=" not in response.body.lower():
        return response
    return evolve(response, body=_SIGNATURE.sub(rb"\1***", response.body))


def _of(run: Run, connection_id: str) -> Run:
    if not run.connection_id:
        object.__setattr__(run, "connection_id", connection_id)  # nobody has seen it yet
    return run
