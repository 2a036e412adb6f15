"""Locations of runs, and responses to a start."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import (
    AuthenticationFailed,
    ExportError,
    InvalidRequest,
    ProtocolError,
    ServerError,
)
from itwin_export_async._protocol.runs import (
    Accepted,
    AlreadyActive,
    LostRace,
    Service,
    get_run_request,
    parse_start_response,
)
from itwin_export_async._protocol.urls import RunAddress, run_address
from tests.support.samples import BASE, answer

R1 = RunAddress(connection_id="c1", run_id="r1")


def named(href: str) -> RunAddress | None:
    return run_address(answer(), href)


@pytest.mark.parametrize(
    "href",
    [
        f"{BASE}/export/connections/c1/runs/r1",
        f"{BASE}:443/export/connections/c1/runs/r1",
        "https://API.Bentley.com/export/connections/c1/runs/r1",
        "/export/connections/c1/runs/r1",
        "/export/connections/c1/runs/r1/",
        "/export/connections/c1/runs/r1?api-version=1&$top=3",
        "/export/connections/c1/runs/r1#top",
        "/Export/Connections/c1/Runs/r1",
        "/export/v1/connections/c1/runs/r1",
        "//api.bentley.com/export/connections/c1/runs/r1",
        "/synchronization/imodels/storageConnections/c1/runs/r1",
        "runs/r1",
        "../c1/runs/r1",
        "/export/connections/c1/%72uns/r1",
    ],
)
def test_location_names_its_run(href: str) -> None:
    assert named(href) == R1


def test_location_may_name_another_connection() -> None:
    found = named("/export/connections/other/runs/r%209")
    assert found == RunAddress(connection_id="other", run_id="r 9")


@pytest.mark.parametrize(
    "href",
    [
        "https://evil.example.com/export/connections/c1/runs/r1",
        "https://api.bentley.com.evil.example.com/export/connections/c1/runs/r1",
        "https://api.bentley.com@evil.example.com/export/connections/c1/runs/r1",
        "https://api.bentley.com:8443/export/connections/c1/runs/r1",
        "http://api.bentley.com/export/connections/c1/runs/r1",
        "//evil.example.com/export/connections/c1/runs/r1",
        "https://api.bentley.com:port/export/connections/c1/runs/r1",
    ],
)
def test_location_names_its_run_whatever_its_host(href: str) -> None:
    assert named(f"{href}?sig=planted") == R1


@pytest.mark.parametrize(
    "href",
    [
        "",
        "/",
        "somewhere",
        "/export/connections/c1",
        "/export/connections/c1/runs",
        "/export/connections/c1/runs/",
        "/export/connections/c1/runs{r1}/",
        "/export/connections/c1/runs{id}",
        "/export/connections/c1/runs/r1/jobs",
        "/export/other/c1/runs/r1",
        "https://[bad/export/connections/c1/runs/r1",
        "javascript:alert(1)",
        f"{BASE}/export/connections/../runs/r1",
        "/export/connections/c1/runs/%2e%2e",
        "/export/connections/c1/runs/%00",
        "/export/connections/c1/runs/%20",
    ],
)
def test_location_that_names_no_run_is_none(href: str) -> None:
    assert named(href) is None


@given(st.text(), st.text())
def test_run_of_a_location_can_be_requested(connection: str, run: str) -> None:
    for href in (run, f"{BASE}/export/connections/{connection}/runs/{run}"):
        found = named(href)
        if found is not None:
            assert get_run_request(Service.EXPORT, found.connection_id, found.run_id)


@given(st.text(), st.text())
def test_location_gives_any_id_back(connection: str, run: str) -> None:
    try:
        href = get_run_request(Service.EXPORT, connection, run).url
    except ValueError:
        return
    assert named(href) == RunAddress(connection_id=connection, run_id=run)


def test_start_is_accepted_with_and_without_its_run() -> None:
    location = "/export/connections/c1/runs/r1"
    assert parse_start_response(answer(b"", 202, location=location)) == Accepted(run=R1)
    assert parse_start_response(answer(b"", 202)) == Accepted(run=None)
    assert parse_start_response(answer(b"", 202, Location="?")) == Accepted(run=None)


def test_active_run_is_named_with_its_own_connection() -> None:
    response = answer(b"", 303, LOCATION=f"{BASE}/export/connections/c2/runs/r2")
    assert parse_start_response(response) == AlreadyActive(
        run=RunAddress(connection_id="c2", run_id="r2")
    )


def test_conflict_at_a_start_is_no_error() -> None:
    assert parse_start_response(answer({}, 409)) == LostRace()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (200, ProtocolError),
        (201, ProtocolError),
        (302, ProtocolError),
        (401, AuthenticationFailed),
        (422, InvalidRequest),
        (503, ServerError),
    ],
)
def test_start_raises_any_other_response(status: int, error: type[ExportError]) -> None:
    with pytest.raises(error):
        parse_start_response(answer(b"", status))


@pytest.mark.parametrize(("status", "kind"), [(202, Accepted), (303, AlreadyActive)])
def test_start_takes_only_the_ids_of_a_location(
    status: int, kind: type[Accepted] | type[AlreadyActive]
) -> None:
    response = answer(b"", status, Location="https://evil.example.com/connections/c1/runs/r1")
    assert parse_start_response(response) == kind(run=R1)
