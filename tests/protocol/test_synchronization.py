"""Synchronization runs: requests out, values in."""

import json
from collections.abc import Callable

import pytest

from itwin_export_async._errors import NotFound, PermissionDenied, ProtocolError
from itwin_export_async._protocol.messages import Request
from itwin_export_async._protocol.runs import (
    Accepted,
    AlreadyActive,
    LostRace,
    Service,
    create_synchronization_run_request,
    get_run_request,
    list_runs_request,
    parse_last_run,
    parse_run,
    parse_runs,
    parse_start_response,
)
from itwin_export_async._protocol.urls import RunAddress
from tests.support.samples import BASE, answer, example

ROOT = "/synchronization/imodels/storageconnections"
SYNC = Service.SYNCHRONIZATION


def test_start_of_a_run_uses_the_singular_path_and_no_body() -> None:
    request = create_synchronization_run_request("c/1")
    assert (request.method, request.url) == ("POST", f"{ROOT}/c%2F1/run")
    assert (request.body, dict(request.headers)) == (None, {})
    assert request.retryable  # while the first run is active it is the answer to the second


@pytest.mark.parametrize("id", ["", " ", ".", "..", "c1\n", None, 7])
def test_invalid_id_is_refused(id: str) -> None:
    questions: tuple[Callable[[], Request], ...] = (
        lambda: create_synchronization_run_request(id),
        lambda: list_runs_request(SYNC, id, page_size=None, offset=0),
        lambda: get_run_request(SYNC, id, "r1"),
    )
    for ask in questions:
        with pytest.raises((TypeError, ValueError), match="connection_id"):
            ask()
    with pytest.raises((TypeError, ValueError), match="run_id"):
        get_run_request(SYNC, "c1", id)


@pytest.mark.parametrize(("status", "kind"), [(202, Accepted), (303, AlreadyActive)])
@pytest.mark.parametrize(
    "location",
    [f"{BASE}{ROOT}/c1/runs/r1", f"{ROOT}/c1/Runs/r1/", f"{BASE}{ROOT.upper()}/c1/runs/r1?x"],
)  # fmt: skip
def test_location_names_the_run(
    status: int, kind: type[Accepted] | type[AlreadyActive], location: str
) -> None:
    started = parse_start_response(answer(b"", status, LOCATION=location))
    assert started == kind(run=RunAddress(connection_id="c1", run_id="r1"))


@pytest.mark.parametrize("location", ["", f"{BASE}{ROOT}/c1/runsr1/", f"{ROOT}/c1/run"])
def test_location_that_names_no_run_is_none(location: str) -> None:
    started = parse_start_response(answer(b"", 202, Location=location))
    assert started == Accepted(run=None)


def test_location_names_its_run_whatever_its_host() -> None:
    foreign = f"https://elsewhere.example.com{ROOT}/c1/runs/r1"
    started = parse_start_response(answer(b"", 303, Location=foreign))
    assert started == AlreadyActive(run=RunAddress(connection_id="c1", run_id="r1"))


def test_concurrent_starts_get_a_conflict() -> None:
    body = example("sync.run_storage_connection.older.409.json")
    assert parse_start_response(answer(body, 409)) == LostRace()


@pytest.mark.parametrize(
    ("name", "status"),
    [("sync.get_storage_connection.404.json", 404),
     ("platform.error.404.operation_not_found.json", 404)],
)  # fmt: skip
def test_run_of_no_connection_is_not_found(name: str, status: int) -> None:
    with pytest.raises(NotFound) as caught:
        parse_start_response(answer(example(name), status))
    assert caught.value.is_gateway == name.startswith("platform")


@pytest.mark.parametrize("status", [200, 204, 302])
def test_unexpected_answer_to_a_start_is_an_error(status: int) -> None:
    with pytest.raises(ProtocolError):
        parse_start_response(answer(b"", status))


def test_full_representation_is_requested_by_lists_only() -> None:
    request = list_runs_request(SYNC, "c1", page_size=100, offset=100)
    assert request.url == f"{ROOT}/c1/runs?$skip=100&$top=100"
    assert request.headers == {"Prefer": "return=representation"}
    assert list_runs_request(Service.EXPORT, "c1", page_size=None, offset=0).headers == {}
    assert get_run_request(SYNC, "c1", "r/1").headers == {}
    assert get_run_request(SYNC, "c1", "r/1").url == f"{ROOT}/c1/runs/r%2F1"


def test_connection_names_its_last_run() -> None:
    body = example("sync.get_storage_connection.200.json")
    last = parse_last_run(answer(body))
    assert last == RunAddress(
        connection_id="MWplZe9Uf0iR1IDMqyOMLqBN0_wHEVBGg_CzJmXdmE4",
        run_id="de626d0d-1647-48d7-8c11-f1f74f2d4523",
    )
    body["connection"]["_links"]["lastRun"]["href"] = f"{BASE}{ROOT}/c1/runsde626d0d/"
    assert parse_last_run(answer(body)) is None


def test_error_response_to_a_read_is_raised() -> None:
    with pytest.raises(NotFound) as caught:
        parse_run(answer(example("sync.get_run.older.404.json"), 404), "c1")
    assert caught.value.code == "ConnectionRunNotFound"
    with pytest.raises(PermissionDenied):
        parse_runs(answer(example("platform.error.403.json"), 403), "c1")


@pytest.mark.parametrize(
    "quoted",
    ["https://b/x?sig=planted", "https://b/x?sv=1&sig=planted&se=2", "x?sv=1\\u0026sig=planted",
     "x?sv=1\\u0026sig=a%2Bplanted", "x?sig=a\\/planted", "x?sig=a\\u002Bplanted\\u003D",
     "x?sv=1&amp;sig=planted", "x?SIG=planted", "x?sv=1\\u0026Sig=planted"],
)  # fmt: skip
def test_signature_that_a_failed_task_quotes_is_not_kept(quoted: str) -> None:
    """However the service escapes it: .NET writes `&` as an escape, and `+` too."""
    task = {"id": "t1", "state": "Completed", "error": {"message": "QUOTED", "phase": "kept"}}
    job = {"id": "j1", "state": "Completed", "tasks": [task]}
    run = json.dumps({"id": "r1", "state": "Completed", "jobs": [job]}).replace("QUOTED", quoted)
    seen = parse_run(answer(f'{{"run": {run}}}'.encode()), "c1")
    (listed,) = parse_runs(answer(f'{{"runs": [{run}]}}'.encode()), "c1").items
    for one in (seen, listed):
        assert "planted" not in f"{one!r} {one.raw!r}"
        (error,) = (task.error for task in one.tasks)
        assert error is not None
        assert "sig=***" in error.message.lower()
        assert error.phase == "kept"
