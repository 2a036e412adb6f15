"""The oddities of answers, each shown by its raw JSON."""

import asyncio
import json
from typing import Any

import pytest

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import QUIRKS, Emulator, run_virtual
from tests.emulator.conftest import EPOCH

Caller = Any

RUN = {"exportType": "IFC"}


def read_json(answer: Response) -> Any:
    return json.loads(answer.body)


@pytest.fixture
def started(call: Caller, emulator: Emulator) -> tuple[str, str]:
    """The path of a connection, and the address of its run."""
    connection_id = call.connect(emulator.add_imodel("Bridge"), displayName="nightly")
    return f"/export/connections/{connection_id}", call.start(connection_id)


def poll(
    call: Caller, emulator: Emulator, address: str, *quirks: str, at: tuple[float, ...]
) -> list[Any]:
    """The run at these moments, in seconds."""

    async def main() -> list[Any]:
        call("GET", address)  # from here on the loop's time counts
        began, seen = asyncio.get_running_loop().time(), []
        for seconds in at:
            await asyncio.sleep(began + seconds - asyncio.get_running_loop().time())
            emulator.quirks = quirks
            seen.append(read_json(call("GET", address))["run"])
        return seen

    return run_virtual(main())


def test_quirks_are_off_by_default(emulator: Emulator) -> None:
    assert emulator.quirks == frozenset()
    emulator.quirks = "all"
    assert emulator.quirks == QUIRKS.keys()
    assert Emulator(quirks="cancelled").quirks == {"cancelled"}
    assert Emulator(quirks=["cancelled", "year_one"]).quirks == {"cancelled", "year_one"}
    with pytest.raises(ValueError, match="unknown quirk nonsense: use all or any of cancelled, "):
        Emulator(quirks={"nonsense", "cancelled"})


def test_quirks_of_results_and_states(call: Caller, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Canceled")
    address = call.start(call.connect(imodel_id))
    quirks = ("cancelled", "unknown_states", "unknown_results")
    started_run, finalizing, ended = poll(call, emulator, address, *quirks, at=(1, 395, 421))
    assert started_run["result"] == "Pending"
    assert (finalizing["state"], finalizing["result"]) == ("Publishing", "Pending")
    assert (ended["state"], ended["result"]) == ("Completed", "Cancelled")
    assert ended["jobs"][0]["result"] == ended["jobs"][0]["tasks"][0]["result"] == "Cancelled"
    (lower,) = poll(call, emulator, address, "letter_case", at=(0,))
    assert (lower["state"], lower["result"]) == ("completed", "canceled")


def test_quirks_of_members(call: Caller, emulator: Emulator, started: tuple[str, str]) -> None:
    path, address = started
    (short,) = poll(call, emulator, address, "missing_members", at=(1,))
    assert short.keys() == {"id", "state", "startDateTime"}
    assert "iTwinId" not in read_json(call("GET", path))["connection"]
    (more,) = poll(call, emulator, address, "unknown_members", at=(421,))
    assert more["introducedLater"] == {"of": ["a", "newer", None, 1]}
    assert "introducedLater" in more["jobs"][0]["tasks"][0]
    assert "introducedLater" in read_json(call("GET", path))


def test_quirk_null_lists(call: Caller, emulator: Emulator, started: tuple[str, str]) -> None:
    path, address = started
    started_run, waiting = poll(call, emulator, address, "null_lists", at=(0, 35))
    assert started_run["jobs"] is None
    assert waiting["jobs"][0]["tasks"] is None
    empty = read_json(call("GET", f"{path}/runs?$skip=5"))
    assert empty["runs"] is None
    root = emulator.root_folder(emulator.itwin_id(next(iter(emulator.imodels))))
    assert read_json(call("GET", f"/storage/folders/{root}/folders"))["folders"] is None


def test_quirks_of_links(call: Caller, emulator: Emulator, started: tuple[str, str]) -> None:
    path, _ = started
    itwin_id = emulator.itwin_id(next(iter(emulator.imodels)))
    top, upload = f"/storage/?iTwinId={itwin_id}", {"displayName": "a.json"}
    files = f"/storage/folders/{emulator.root_folder(itwin_id)}/files"
    consent = "/export/authorizationinformation?redirectUrl=https:%2F%2Fexample.com"
    emulator.quirks = "null_links"
    assert read_json(call("GET", path))["connection"]["_links"] is None
    assert read_json(call("GET", f"{path}/runs"))["_links"] is None
    assert read_json(call("GET", consent))["authorizationInformation"]["_links"] is None
    emulator.quirks = "absent_links"
    assert "_links" not in read_json(call("GET", path))["connection"]
    emulator.user_authorized = False
    for quirk in ("null_links", "absent_links"):
        emulator.quirks = quirk
        needed = read_json(call("GET", consent))["authorizationInformation"]["_links"]
        assert needed["authorizationUrl"]["href"]
        assert read_json(call("GET", top))["_links"]["folder"]["href"]
        assert read_json(call("POST", files, upload))["_links"]["uploadUrl"]["href"]
    emulator.quirks = "project_link"
    links = read_json(call("GET", path))["connection"]["_links"]
    assert links.keys() == {"project", "iModel", "lastRun"}


@pytest.mark.parametrize(
    ("quirk", "stamp"),
    [
        ("dates_0", "2026-03-01T12:00:00Z"),
        ("dates_6", "2026-03-01T12:00:00.500000Z"),
        ("dates_7", "2026-03-01T12:00:00.5000000Z"),
        ("dates_offset", "2026-03-01T12:00:00.5+00:00"),
    ],
)
def test_quirks_of_dates(quirk: str, stamp: str) -> None:
    emulator = Emulator(epoch=EPOCH, quirks=quirk)

    async def main() -> None:  # whose clock stands still
        file_id = emulator.add_file("a.ifc", b"a")
        headers = {
            "Authorization": f"Bearer {emulator.token()}",
            "Accept": "application/vnd.bentley.itwin-platform.v1+json",
        }
        url = f"https://api.bentley.com/storage/files/{file_id}"
        answer = emulator.handle(Request(method="GET", url=url, headers=headers))
        written = read_json(answer)["file"]["createdDateTime"]
        assert written.replace("+00:00", "Z") == stamp.replace("+00:00", "Z")
        assert written.endswith("+00:00"), "as Storage has it"

    run_virtual(main())


def test_quirks_of_dates_take_turns(
    call: Caller, emulator: Emulator, started: tuple[str, str]
) -> None:
    quirks = ("dates_0", "dates_7", "dates_offset", "year_one")
    started_run, ended = poll(call, emulator, started[1], *quirks, at=(0, 421))
    assert started_run["endDateTime"] == "0001-01-01T00:00:00"
    assert len(started_run["startDateTime"]) == len("2026-03-01T12:00:00Z")
    job, task = ended["jobs"][0], ended["jobs"][0]["tasks"][0]
    assert len(task["startDateTime"]) == len("2026-03-01T12:00:00Z")
    assert len(task["endDateTime"]) == len("2026-03-01T12:00:00.1234567Z")
    assert job["startDateTime"].endswith("+00:00")
    emulator.quirks = "dates_6"
    (odd,) = poll(call, emulator, started[1], "dates_6", "year_one", at=(0,))
    assert len(odd["endDateTime"]) == len("2026-03-01T12:00:00.123456Z")


def test_quirks_keep_text_that_is_no_date(call: Caller, emulator: Emulator) -> None:
    body = b'{"run": {"startDateTime": "soon", "endDateTime": null}}'
    answer = Response(status=200, headers={"Content-Type": "application/json"}, body=body)
    emulator.quirks = "dates_6"
    emulator.inject("get_run", answer)
    run = read_json(call("GET", "/export/connections/x/runs/y"))["run"]
    assert run == {"startDateTime": "soon", "endDateTime": None}


def test_quirks_of_errors(call: Caller, emulator: Emulator) -> None:
    code, message = "ConnectionNotFound", "Requested Connection is not available."
    emulator.quirks = "flat_errors"
    assert read_json(call("GET", "/export/connections/x")) == {"code": code, "message": message}
    emulator.quirks = "status_errors"
    assert read_json(call("GET", "/export/connections/x")) == {
        "statusCode": 404,
        "message": message,
    }
    emulator.quirks = "null_errors"
    error = {"code": code, "message": None, "target": None, "details": None}
    assert read_json(call("GET", "/export/connections/x")) == {"error": error}
    emulator.quirks = "empty_errors"
    answer = call("GET", "/export/connections/x")
    assert (answer.status, answer.body) == (404, b"")
    assert "Content-Type" not in answer.headers
    emulator.quirks = "html_errors"
    answer = call("GET", "/export/connections/x")
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.body.startswith(b"<html>")


def test_quirks_of_errors_take_turns_and_keep_other_bodies(
    call: Caller, emulator: Emulator
) -> None:
    emulator.quirks = {"flat_errors", "status_errors", "null_errors"}
    kinds = [read_json(call("GET", "/export/connections/x")).keys() for _ in range(4)]
    assert [len(kind) for kind in kinds] == [2, 2, 1, 2]
    page, odd = Response(status=500, body=b"<html>"), Response(status=500, body=b"[1]")
    emulator.inject("get_connection", page, odd, page)
    assert [call("GET", "/export/connections/x").body for _ in range(3)] == [
        page.body,
        odd.body,
        page.body,
    ]
    wrong = call("POST", "https://ims.bentley.com/connect/token", b"x=1")
    assert read_json(wrong) == {"error": "invalid_request"}
    emulator.quirks = "cancelled"
    assert read_json(call("GET", "/export/connections/x"))["error"]["code"] == "ConnectionNotFound"


def test_quirks_of_locations(call: Caller, emulator: Emulator, started: tuple[str, str]) -> None:
    path, address = started
    emulator.quirks = "relative_location"
    answer = call("POST", f"{path}/runs", RUN)
    assert (answer.status, answer.headers["Location"]) == (303, address.removeprefix(call_base()))
    emulator.quirks = "lower_location"
    assert call("POST", f"{path}/runs", RUN).headers["location"] == address
    assert "location" in list(call("POST", f"{path}/runs", RUN).headers)
    emulator.quirks = "query_location"
    assert call("POST", f"{path}/runs", RUN).headers["Location"] == f"{address}/?api-version=1"
    emulator.quirks = "absent_location"
    assert "Location" not in call("POST", f"{path}/runs", RUN).headers
    emulator.quirks = "accepted_body"
    answer = call("POST", f"{path}/runs", RUN)
    assert answer.headers["Content-Type"] == "application/json"
    run_id = address.rpartition("/")[2]
    assert read_json(answer) == {"run": {"id": run_id, "state": "Queued"}}
    fresh = call("POST", f"/export/connections/{call.connect(emulator.add_imodel())}/runs", RUN)
    assert (fresh.status, read_json(fresh)["run"]["state"]) == (202, "Queued")


def call_base() -> str:
    return "https://api.bentley.com"


def test_quirks_keep_the_location_of_downloads(call: Caller, emulator: Emulator) -> None:
    emulator.quirks = "all"
    answer = call("GET", f"/storage/files/{emulator.add_file('a.ifc', b'a')}/download")
    assert answer.status == 302
    assert emulator.handle(Request(method="GET", url=answer.headers["Location"])).body == b"a"


def test_quirk_unwrapped_authorization(call: Caller, emulator: Emulator) -> None:
    emulator.quirks = "unwrapped_authorization"
    path = "/export/authorizationinformation?redirectUrl=https:%2F%2Fexample.com"
    assert read_json(call("GET", path)).keys() == {"isUserAuthorized", "_links"}


def test_quirk_old_rate_limit(call: Caller, emulator: Emulator, example: Any) -> None:
    headers = {"Retry-After": "7", "ITwinPlatform-RateLimited-Tier": "Standard"}
    refusal = Response(
        status=429, headers=headers, body=b'{"error": {"code": "RateLimitExceeded"}}'
    )
    bare = Response(status=429)
    emulator.quirks = {"old_rate_limit", "flat_errors"}
    emulator.inject("get_connection", refusal, refusal, bare, refusal)
    answer = call("GET", "/export/connections/x")
    assert read_json(answer) == example("platform.error.429.legacy_unnested")
    assert answer.headers["Retry-After"] == "7"
    assert answer.headers["iTwinPlatform-RateLimit-Retry-After-Seconds"] == "7"
    assert answer.headers["iTwinPlatform-Tier"] == "Standard"
    assert "ITwinPlatform-RateLimited-Tier" not in answer.headers
    emulator.quirks = {"retry_date"}
    headers = call("GET", "/export/connections/x").headers
    assert headers["Retry-After"].endswith(" GMT")
    assert headers["Retry-After"] != headers["Date"]
    assert "Retry-After" not in call("GET", "/export/connections/x").headers
    emulator.quirks = ()
    assert call("GET", "/export/connections/x").headers["Retry-After"] == "7"
