"""iModels, changesets, named versions and permissions, as the documents describe them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator import Emulator, run_virtual
from tests.emulator.shapes import read

Caller = Any
V2 = {"Accept": "application/vnd.bentley.itwin-platform.v2+json"}
FULL = V2 | {"Prefer": "return=representation"}


@pytest.fixture
def get(call: Caller) -> Callable[..., Any]:
    """Read a path with the Accept header of v2; `full` requests the full form of items."""

    def get(path: str, *, full: bool = False) -> Any:
        answer = call("GET", path, headers=FULL if full else V2)
        assert answer.status == 200, answer.body
        return read(answer)

    return get


def error_of(answer: Response, status: int) -> tuple[str, list[tuple[str, str]]]:
    """The code of an error, and code and target of its details."""
    assert answer.status == status
    error = json.loads(answer.body)["error"]
    return error["code"], [(d["code"], d["target"]) for d in error.get("details", ())]


def test_imodels_have_a_minimal_and_a_full_form(emulator: Emulator, get: Any) -> None:
    imodel_id = emulator.add_imodel("Bridge", description="over the river")
    itwin_id = emulator.itwin_id(imodel_id)
    assert get(f"/imodels/?iTwinId={itwin_id}")["iModels"] == [
        {"id": imodel_id, "displayName": "Bridge"}
    ]
    (full,) = get(f"/imodels?iTwinId={itwin_id}", full=True)["iModels"]
    assert full == get(f"/imodels/{imodel_id}")["iModel"]
    assert full.keys() == {
        *("id", "displayName", "name", "description", "state", "createdDateTime", "iTwinId"),
        *("lastChangesetPushDateTime", "extent", "containersEnabled", "dataCenterLocation"),
        "_links",
    }
    assert (full["name"], full["description"]) == ("Bridge", "over the river")
    assert (full["state"], full["lastChangesetPushDateTime"]) == ("initialized", None)
    assert full["_links"]["changesets"]["href"].endswith(f"/imodels/{imodel_id}/changesets")


def test_imodels_need_version_2_in_accept(call: Caller, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    assert call("GET", f"/imodels/{imodel_id}").status == 404
    (violation,) = emulator.violations
    assert violation.kind == "wrong Accept"
    assert violation.message.endswith("does not match get_imodel")


@pytest.mark.parametrize("parameter", ["$continuationToken=", "$skip=0", ""])
def test_lists_of_imodels_have_pages(
    emulator: Emulator, get: Any, example: Any, parameter: str
) -> None:
    first = emulator.add_imodel("0")
    itwin_id = emulator.itwin_id(first)
    ids = [first, *(emulator.add_imodel(str(n), itwin_id=itwin_id) for n in range(1, 7))]
    emulator.add_imodel("elsewhere")
    url, found, pages = f"/imodels/?iTwinId={itwin_id}&$top=3&{parameter}", [], 0
    while url:
        page = get(url)
        found += [imodel["id"] for imodel in page["iModels"]]
        pages += 1
        assert page["_links"].keys() == {"self", "prev", "next"}
        assert (page["_links"]["prev"] is None) is (pages == 1)
        url = page["_links"]["next"] and page["_links"]["next"]["href"]
        if url:
            query = parse_qs(urlsplit(url).query, keep_blank_values=True)
            assert query["iTwinId"] == [itwin_id]
            assert query.keys() == {
                "iTwinId",
                "$top",
                "$skip" if "skip" in parameter else "$continuationToken",
            }
    assert (found, pages) == (ids, 3)


def test_lists_of_imodels_can_be_filtered_and_sorted(emulator: Emulator, get: Any) -> None:
    itwin_id = emulator.itwin_id(emulator.add_imodel("Bridge"))
    for name in ("Tunnel", "Old bridge"):
        emulator.add_imodel(name, itwin_id=itwin_id)
    emulator.add_imodel("New", itwin_id=itwin_id, state="notInitialized")

    def names(query: str) -> list[str]:
        page = get(f"/imodels/?iTwinId={itwin_id}&{query}")
        return [imodel["displayName"] for imodel in page["iModels"]]

    assert names("name=Bridge") == ["Bridge"]
    assert names("$search=bridge") == ["Bridge", "Old bridge"]
    assert names("state=notInitialized") == ["New"]
    assert names("$orderBy=name desc") == ["Tunnel", "Old bridge", "New", "Bridge"]
    assert names("$orderBy=createdDateTime") == ["Bridge", "Tunnel", "Old bridge", "New"]
    link = get(f"/imodels/?iTwinId={itwin_id}&$search=o b&$top=1")["_links"]["self"]["href"]
    assert "$search=o%20b&" in link


@pytest.mark.parametrize(
    ("query", "details"),
    [
        ("", [("MissingRequiredParameter", "iTwinId")]),
        ("iTwinId=x", [("InvalidValue", "iTwinId")]),
        (
            "iTwinId={}&$skip=0&$continuationToken=",
            [("MutuallyExclusiveParametersProvided", "$skip")],
        ),
        ("iTwinId={}&name=a&$search=b", [("MutuallyExclusiveParametersProvided", "name")]),
        ("iTwinId={}&state=broken", [("InvalidValue", "state")]),
        ("iTwinId={}&$orderBy=size", [("InvalidValue", "$orderBy")]),
        ("iTwinId={}&$orderBy=name up", [("InvalidValue", "$orderBy")]),
        ("iTwinId={}&$top=1001", [("InvalidValue", "$top")]),
        ("iTwinId={}&$top=x", [("InvalidValue", "$top")]),
        ("iTwinId={}&$continuationToken=!", [("InvalidValue", "$continuationToken")]),
        ("iTwinId={}&$continuationToken=c3RhcnQ9eA", [("InvalidValue", "$continuationToken")]),
        ("iTwinId={}&$continuationToken=ZW5kPTE", [("InvalidValue", "$continuationToken")]),
    ],
)
def test_lists_of_imodels_check_their_parameters(
    call: Caller, emulator: Emulator, query: str, details: list[tuple[str, str]]
) -> None:
    itwin_id = emulator.itwin_id(emulator.add_imodel())
    answer = call("GET", f"/imodels/?{query.format(itwin_id)}", headers=V2)
    assert error_of(answer, 422) == ("InvalidiModelsRequest", details)


def test_prefer_has_two_values(call: Caller, emulator: Emulator) -> None:
    path = f"/imodels?iTwinId={emulator.itwin_id(emulator.add_imodel())}"
    answer = call("GET", path, headers=V2 | {"Prefer": "all"})
    assert error_of(answer, 422) == (
        "InvalidiModelsRequest",
        [("InvalidHeaderValue", "Prefer")],
    )


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/imodels/{}", "iModelNotFound"),
        ("/imodels/{}/namedversions", "iModelNotFound"),
        ("/imodels/{}/changesets", "iModelNotFound"),
        ("/imodels/{}/permissions", "iModelNotFound"),
        ("/imodels?iTwinId={}", "iTwinNotFound"),
        ("/accesscontrol/itwins/{}/permissions", "iTwinNotFound"),
    ],
)
def test_what_is_unknown_is_not_found(call: Caller, path: str, code: str) -> None:
    unknown = "7dbd531d-6967-47b2-8945-a722a437ad7a"
    assert error_of(call("GET", path.format(unknown), headers=V2), 404) == (code, [])


def test_changesets_are_pushed_one_after_another(
    emulator: Emulator, get: Any, call: Caller
) -> None:
    imodel_id = emulator.add_imodel()
    ids = [emulator.push_changeset(imodel_id, description=f"push {n}") for n in range(3)]
    path = f"/imodels/{imodel_id}/changesets"
    found = get(path)["changesets"]
    assert [changeset["id"] for changeset in found] == ids
    assert [changeset["index"] for changeset in found] == [1, 2, 3]
    assert [changeset["parentId"] for changeset in found] == ["", *ids[:2]]
    assert found[0].keys() == {
        *("id", "displayName", "description", "index", "parentId", "creatorId", "pushDateTime"),
        *("state", "containingChanges", "fileSize", "briefcaseId", "groupId", "_links"),
    }
    assert sorted({changeset["pushDateTime"] for changeset in found}) == [
        changeset["pushDateTime"] for changeset in found
    ]
    (last,) = get(f"{path}?$orderBy=index desc&$top=1")["changesets"]
    assert last == found[-1]
    between = get(f"{path}?afterIndex=1&lastIndex=2")["changesets"]
    assert between == [found[1]]
    (full, *_) = get(path, full=True)["changesets"]
    assert full.keys() - found[0].keys() == {"application", "synchronizationInfo"}
    assert full["synchronizationInfo"] is None
    assert get(f"{path}/{ids[1]}")["changeset"] == get(f"{path}/2")["changeset"]
    assert error_of(call("GET", f"{path}/9", headers=V2), 404) == ("ChangesetNotFound", [])
    pushed = get(f"/imodels/{imodel_id}")["iModel"]["lastChangesetPushDateTime"]
    assert pushed == found[-1]["pushDateTime"]


def test_the_date_of_the_last_push_can_be_null_or_missing(emulator: Emulator, get: Any) -> None:
    for mode in ("reported", "null", "missing"):
        imodel_id = emulator.add_imodel(last_changeset_push=mode)
        emulator.push_changeset(imodel_id)
        (item,) = get(f"/imodels?iTwinId={emulator.itwin_id(imodel_id)}", full=True)["iModels"]
        assert ("lastChangesetPushDateTime" in item) is (mode != "missing")
        assert bool(item.get("lastChangesetPushDateTime")) is (mode == "reported")


def test_named_versions_are_listed_hidden_ones_too(
    emulator: Emulator, get: Any, call: Caller
) -> None:
    imodel_id = emulator.add_imodel()
    ids = [emulator.push_changeset(imodel_id) for _ in range(3)]
    third = emulator.add_named_version(imodel_id, "third", ids[2], state="hidden")
    first = emulator.add_named_version(imodel_id, "first", ids[0], description="reviewed")
    baseline = emulator.add_named_version(imodel_id, "empty")
    path = f"/imodels/{imodel_id}/namedversions"
    found = get(path)["namedVersions"]
    assert [version["id"] for version in found] == [third, first, baseline]
    assert found[1:] == [
        {"id": first, "displayName": "first", "changesetId": ids[0], "changesetIndex": 1},
        {"id": baseline, "displayName": "empty", "changesetId": None, "changesetIndex": 0},
    ]
    (latest,) = get(f"{path}?$orderBy=changesetIndex desc&$top=1&state=visible")["namedVersions"]
    assert latest["id"] == first
    assert [v["id"] for v in get(f"{path}?name=third")["namedVersions"]] == [third]
    (_, full, _) = get(path, full=True)["namedVersions"]
    assert full == get(f"{path}/{first}")["namedVersion"]
    assert full.keys() - found[1].keys() == {
        *("name", "description", "createdDateTime", "state", "application", "_links"),
    }
    assert (full["description"], full["state"]) == ("reviewed", "visible")
    assert full["_links"]["changeset"]["href"].endswith(ids[0])
    assert get(f"{path}/{baseline}")["namedVersion"]["_links"]["changeset"] is None
    linked = get(f"/imodels/{imodel_id}/changesets/1")["changeset"]["_links"]["namedVersion"]
    assert linked["href"].endswith(first)
    answer = call("GET", f"{path}/{imodel_id}", headers=V2)
    assert error_of(answer, 404) == ("NamedVersionNotFound", [])
    assert error_of(call("GET", f"{path}?state=secret", headers=V2), 422)[1] == [
        ("InvalidValue", "state")
    ]


def test_named_versions_have_rules(emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    changeset_id = emulator.push_changeset(imodel_id)
    emulator.add_named_version(imodel_id, "one", changeset_id)
    with pytest.raises(ValueError, match="has the named version 'one'"):
        emulator.add_named_version(imodel_id, "one")
    with pytest.raises(ValueError, match="use another name and changeset"):
        emulator.add_named_version(imodel_id, "two", changeset_id)
    with pytest.raises(ValueError, match="has no changeset 'x'"):
        emulator.add_named_version(imodel_id, "two", "x")


def test_permissions_decide_what_is_visible(emulator: Emulator, get: Any, call: Caller) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    itwin_id = emulator.itwin_id(imodel_id)
    hidden_id = emulator.add_imodel("Bunker", itwin_id=itwin_id, authorized=False)
    assert "storage_write" in get(f"/accesscontrol/itwins/{itwin_id}/permissions")["permissions"]
    assert get(f"/imodels/{imodel_id}/permissions")["permissions"] == [
        *("imodels_manage", "imodels_read", "imodels_webview", "imodels_write"),
    ]
    assert [m["id"] for m in get(f"/imodels?iTwinId={itwin_id}")["iModels"]] == [imodel_id]
    assert call("GET", f"/imodels/{hidden_id}", headers=V2).status == 403
    emulator.set_permissions(itwin_id, ())
    assert get(f"/imodels?iTwinId={itwin_id}")["iModels"] == []
    assert get(f"/accesscontrol/itwins/{itwin_id}/permissions")["permissions"] == []
    emulator.set_permissions(imodel_id, ["imodels_webview"])
    assert [m["id"] for m in get(f"/imodels?iTwinId={itwin_id}")["iModels"]] == [imodel_id]
    assert call("GET", f"/imodels/{imodel_id}/changesets", headers=V2).status == 403
    assert call("POST", "/export/connections", {"iModelId": imodel_id}).status == 403
    emulator.set_permissions(itwin_id, None)
    emulator.set_permissions(imodel_id, None)
    assert call("POST", "/export/connections", {"iModelId": imodel_id}).status == 201


def test_permissions_are_checked_where_they_are_set(emulator: Emulator) -> None:
    with pytest.raises(ValueError, match="unknown permission imodels_raed: use any of imodels_man"):
        emulator.set_permissions(emulator.add_imodel(), ["imodels_raed"])
    with pytest.raises(ValueError, match="there is no iModel and no iTwin 'x'"):
        emulator.set_permissions("x", ())


@pytest.mark.parametrize("is_initialized", [True, False])
def test_exports_fail_without_a_folder_to_write_or_a_model_to_read(
    call: Caller, emulator: Emulator, is_initialized: bool
) -> None:
    imodel_id = emulator.add_imodel(state="initialized" if is_initialized else "notInitialized")
    if is_initialized:
        emulator.set_permissions(emulator.itwin_id(imodel_id), ["imodels_read", "storage_read"])
        emulator.set_permissions(imodel_id, None)
    emulator.run_seconds = 0
    run = read(call("GET", call.start(call.connect(imodel_id))))["run"]
    assert (run["state"], run["result"]) == ("Completed", "Error")
    (task,) = run["jobs"][0]["tasks"]
    assert "exportOutputFileId" not in task
    key = "OutputNotWritable" if is_initialized else "FailedToExport"
    assert task["error"]["descriptionKey"] == key


def test_a_synchronization_pushes_a_changeset_if_its_files_changed(caller_of: Any) -> None:
    emulator = Emulator(seed=1, run_seconds=100)
    call = caller_of(emulator)
    imodel_id = emulator.add_imodel()
    file_id = emulator.add_file("a.dgn", b"x", itwin_id=emulator.itwin_id(imodel_id))
    connections = "/synchronization/imodels/storageconnections"
    body = {
        "iModelId": imodel_id,
        "sourceFiles": [{"storageFileId": file_id, "connectorType": "MSTN"}],
    }
    connection = read(call("POST", connections, body))["connection"]

    def changesets() -> Any:
        path = f"/imodels/{imodel_id}/changesets"
        return read(call("GET", path, headers=FULL))["changesets"]

    async def main() -> None:
        pushed = []
        for result in ("Success", "Success", "Error"):
            emulator.plan_next_run(imodel_id, result, service="synchronization")
            location = call("POST", f"{connections}/{connection['id']}/run").headers["Location"]
            emulator.push_changeset(imodel_id)
            await asyncio.sleep(101)
            (task,) = read(call("GET", location))["run"]["jobs"][0]["tasks"]
            pushed.append(task["id"])
        found = changesets()
        assert [changeset["index"] for changeset in found] == [1, 2, 3, 4]
        assert [c["synchronizationInfo"] and c["synchronizationInfo"]["taskId"] for c in found] == [
            None,
            pushed[0],
            None,
            None,
        ]
        assert found[1]["synchronizationInfo"]["changedFiles"] == [file_id]
        assert found[1]["parentId"] == found[0]["id"]

    run_virtual(main())
