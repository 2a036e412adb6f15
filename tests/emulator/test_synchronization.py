"""The Synchronization API of the emulator against the service's documented answers."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from itwin_export_async.emulator import Emulator
from tests.emulator.shapes import read, shape

Example = Callable[[str], Any]
Caller = Any

PATH = "/synchronization/imodels/storageconnections"
UNKNOWN = str(uuid.UUID(int=1))
WHOLE = {"Prefer": "return=representation"}


def source(emulator: Emulator, name: str = "samplefile", connector: str = "MSTN") -> dict[str, str]:
    """A source file that is in Storage, as requests describe it."""
    return {"storageFileId": emulator.add_file(name, b""), "connectorType": connector}


def connect(
    call: Caller, emulator: Emulator, imodel_id: str | None = None, **members: object
) -> str:
    """The path of a new storage connection, of a new iModel if none is given."""
    body = {
        "iModelId": imodel_id or emulator.add_imodel(),
        "sourceFiles": [source(emulator)],
    }
    answer = call("POST", PATH, body | members)
    assert answer.status == 201
    return f"{PATH}/{read(answer)['connection']['id']}"


def without_last_run(payload: Any) -> Any:
    del payload["connection"]["_links"]["lastRun"]
    return payload


def links_of(payload: Any) -> dict[str, str]:
    return {name: link["href"] for name, link in payload["_links"].items()}


def test_a_new_connection_has_the_documented_members(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    body = example("sync.create_storage_connection.request")
    body["iModelId"] = emulator.add_imodel()
    answer = call("POST", PATH, body)
    assert answer.status == 201
    golden = without_last_run(example("sync.create_storage_connection.201"))
    assert shape(read(answer)) == shape(golden)
    connection = read(answer)["connection"]
    assert (connection["displayName"], connection["authenticationType"]) == ("30", "User")
    assert connection["_links"]["iModel"]["href"].endswith(f"/imodels/{body['iModelId']}")
    found = call("GET", f"{PATH}/{connection['id']}")
    assert found.status == 200
    assert read(found) == read(answer)
    assert emulator.count("create_storage_connection") == 1


def test_the_last_run_is_linked_once_there_is_one(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    path = connect(call, emulator, displayName="30")
    location = call("POST", f"{path}/run").headers["Location"]
    answer = call("GET", path)
    assert answer.status == 200
    assert shape(read(answer)) == shape(example("sync.get_storage_connection.200"))
    assert read(answer)["connection"]["_links"]["lastRun"]["href"] == location


def test_letter_case_of_the_path_does_not_matter(call: Caller, emulator: Emulator) -> None:
    path = connect(call, emulator)
    assert call("GET", path.replace("storagec", "storageC")).status == 200
    assert call("GET", f"{path}/sourceFiles").status == 200


@pytest.mark.parametrize("body", [b"", None])
def test_connection_needs_a_body(call: Caller, body: bytes | None) -> None:
    answer = call("POST", PATH, body)
    assert answer.status == 422
    assert read(answer)["error"]["code"] == "MissingRequestBody"


GOOD_FILE = {"storageFileId": UNKNOWN, "connectorType": "DWG"}
GOOD = {"iModelId": UNKNOWN, "sourceFiles": [GOOD_FILE]}


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (b"{", [0]),
        (b"[]", [0]),
        ({"iModelId": UNKNOWN}, [1]),
        ({"iModelId": UNKNOWN, "sourceFiles": []}, [2]),
        (GOOD | {"sourceFiles": [{"storageFileId": UNKNOWN}]}, [3]),
        (GOOD | {"sourceFiles": [{"connectorType": "DWG"}]}, [4]),
        ({"sourceFiles": [GOOD_FILE]}, [5]),
        (GOOD | {"sourceFiles": [GOOD_FILE | {"connectorType": "PAPER"}]}, [6]),
        (GOOD | {"iModelId": "bridge"}, [7]),
        (GOOD | {"iModelId": 7}, [7]),
        (GOOD | {"sourceFiles": [GOOD_FILE | {"storageFileId": "nonsense"}]}, [8]),
        (GOOD | {"sourceFiles": [GOOD_FILE | {"storageFileId": 8}]}, [8]),
        ({"sourceFiles": []}, [2, 5]),
        ({"iModelId": "x", "sourceFiles": [{}, {"storageFileId": "y"}]}, [3, 4, 3, 8, 7]),
    ],
)
def test_a_connection_is_refused_with_the_documented_reasons(
    call: Caller, example: Example, body: object, lines: list[int]
) -> None:
    answer = call("POST", PATH, body)
    assert answer.status == 422
    error, golden = read(answer)["error"], example("sync.create_storage_connection.422")["error"]
    assert (error["code"], error["message"]) == (golden["code"], golden["message"])
    assert error["details"] == [golden["details"][line] for line in lines]


@pytest.mark.parametrize(
    ("members", "target"),
    [
        ({"displayName": 7}, "displayName"),
        ({"authenticationType": "Robot"}, "authenticationType"),
        ({"sourceFiles": "a.dgn"}, "sourceFiles"),
        ({"sourceFiles": ["a.dgn"]}, "sourceFiles"),
    ],
)
def test_values_of_a_connection_are_checked(
    call: Caller, emulator: Emulator, members: dict[str, object], target: str
) -> None:
    body = {"iModelId": emulator.add_imodel(), "sourceFiles": [source(emulator)]}
    answer = call("POST", PATH, body | members)
    assert answer.status == 422
    (line,) = read(answer)["error"]["details"]
    assert (line["code"], line["target"]) == ("InvalidValue", target)


def test_connection_needs_access_to_its_imodel(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    unknown = call("POST", PATH, GOOD)
    assert unknown.status == 404
    assert read(unknown)["error"]["code"] == "iModelNotFound"
    theirs = emulator.add_imodel(authorized=False)
    created = call("POST", PATH, GOOD | {"iModelId": theirs})
    listed = call("GET", f"{PATH}?imodelId={theirs}")
    assert created.status == listed.status == 403
    assert read(created) == read(listed) == example("platform.error.403")


def test_file_is_mapped_to_an_imodel_once(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    imodel_id, file = emulator.add_imodel(), source(emulator)
    twice = {"iModelId": imodel_id, "sourceFiles": [file, file]}
    once = twice | {"sourceFiles": [file]}
    golden = example("sync.create_storage_connection.409")
    refused = call("POST", PATH, twice)
    assert refused.status == 409
    assert read(refused) == golden
    created = call("POST", PATH, once)
    assert created.status == 201
    again = call("POST", PATH, once | {"sourceFiles": [source(emulator), file]})
    assert again.status == 409
    assert read(again) == golden
    assert call("POST", PATH, once | {"iModelId": emulator.add_imodel()}).status == 201
    assert call("DELETE", f"{PATH}/{read(created)['connection']['id']}").status == 204
    assert call("POST", PATH, once).status == 201


def test_an_unknown_connection_is_not_found(call: Caller, example: Example) -> None:
    for method, path, body in (
        ("GET", f"{PATH}/{UNKNOWN}", None),
        ("PUT", f"{PATH}/{UNKNOWN}", {}),
        ("DELETE", f"{PATH}/{UNKNOWN}", None),
        ("POST", f"{PATH}/{UNKNOWN}/run", None),
        ("GET", f"{PATH}/{UNKNOWN}/runs", None),
        ("GET", f"{PATH}/{UNKNOWN}/runs/{UNKNOWN}", None),
        ("POST", f"{PATH}/{UNKNOWN}/sourcefiles", GOOD_FILE),
        ("GET", f"{PATH}/{UNKNOWN}/sourcefiles", None),
        ("GET", f"{PATH}/{UNKNOWN}/sourcefiles/{UNKNOWN}", None),
        ("GET", f"{PATH}/nonsense", None),
    ):
        answer = call(method, path, body)
        assert answer.status == 404
        assert read(answer) == example("sync.get_storage_connection.404")


def test_malformed_id_is_a_422_for_writes(call: Caller) -> None:
    for method, path in (
        ("PUT", f"{PATH}/nonsense"),
        ("DELETE", f"{PATH}/nonsense"),
        ("POST", f"{PATH}/nonsense/run"),
    ):
        answer = call(method, path, {} if method == "PUT" else None)
        assert answer.status == 422
        (line,) = read(answer)["error"]["details"]
        assert (line["code"], line["target"]) == ("InvalidValue", "connectionId")


def test_an_update_changes_what_it_names(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    path = connect(call, emulator, displayName="29", authenticationType="Service")
    call("POST", f"{path}/run")
    body = example("sync.update_storage_connection.request")
    answer = call("PUT", path, body)
    assert answer.status == 200
    assert shape(read(answer)) == shape(example("sync.update_storage_connection.200"))
    connection = read(answer)["connection"]
    assert (connection["displayName"], connection["authenticationType"]) == ("30", "User")
    assert "/imodels/v1/" in connection["_links"]["iModel"]["href"]
    assert "/itwins/v1/" in connection["_links"]["iTwin"]["href"]
    call("PUT", path, {"displayName": "31"})
    connection = read(call("GET", path))["connection"]
    assert (connection["displayName"], connection["authenticationType"]) == ("31", "User")
    wrong = call("PUT", path, {"authenticationType": "Robot"})
    assert wrong.status == 422
    assert read(wrong)["error"]["details"][0]["target"] == "authenticationType"
    assert read(call("PUT", path))["error"]["code"] == "MissingRequestBody"


def test_a_deleted_connection_is_gone_with_its_runs(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    imodel_id = emulator.add_imodel()
    path, other = connect(call, emulator, imodel_id), connect(call, emulator, imodel_id)
    location = call("POST", f"{path}/run").headers["Location"]
    assert call("POST", f"{other}/run").status == 303
    deleted = call("DELETE", path)
    assert (deleted.status, deleted.body) == (204, b"")
    for gone in path, location:
        answer = call("GET", gone)
        assert answer.status == 404
        assert read(answer) == example("sync.get_storage_connection.404")
    assert call("POST", f"{other}/run").status == 202


def test_list_is_minimal_by_default(call: Caller, emulator: Emulator, example: Example) -> None:
    imodel_id = emulator.add_imodel()
    paths = [connect(call, emulator, imodel_id, displayName=str(n)) for n in range(12)]
    connect(call, emulator)
    answer = call("GET", f"{PATH}?imodelId={imodel_id}&$skip=10&$top=10")
    assert answer.status == 200
    first, second = read(answer)["connections"]
    assert shape(first) == shape(
        example("sync.get_storage_connections.minimal.200")["connections"][0]
    )
    assert [f"{PATH}/{item['id']}" for item in (first, second)] == paths[10:]
    golden = links_of(example("sync.get_storage_connections.minimal.200"))
    own = golden["self"].partition("iModelId=")[2].partition("&")[0]
    assert links_of(read(answer)) == {
        name: href.replace(own, imodel_id) for name, href in golden.items()
    }


def test_list_shows_full_items_on_request(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    path = connect(call, emulator, displayName="30")
    answer = call("GET", PATH, headers=WHOLE)
    (item,) = read(answer)["connections"]
    assert {"connection": item} == read(call("GET", path))
    minimal = call("GET", PATH, headers={"prefer": "return=minimal"})
    assert read(minimal)["connections"] == [{"id": item["id"], "displayName": "30"}]


def test_list_without_an_imodel_has_all_that_the_caller_may_read(
    call: Caller, emulator: Emulator
) -> None:
    connect(call, emulator)
    connect(call, emulator)
    emulator.synchronization_page_size = 1
    answer = call("GET", PATH)
    assert len(read(answer)["connections"]) == 1
    assert links_of(read(answer)) == {
        "self": f"https://api.bentley.com{PATH}?$skip=0&$top=1",
        "prev": f"https://api.bentley.com{PATH}?$skip=0&$top=1",
        "next": f"https://api.bentley.com{PATH}?$skip=1&$top=1",
    }
    assert len(read(call("GET", f"{PATH}?$top=5"))["connections"]) == 2
    assert call("GET", f"{PATH}?imodelId={UNKNOWN}").status == 404
    limits = call("GET", f"{PATH}?$top=0")
    assert limits.status == 422
    assert read(limits)["error"]["code"] == "InvalidStorageConnectionRequest"


def test_an_added_source_file_has_the_documented_members(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    path = connect(call, emulator)
    body = example("sync.add_source_file.request")
    body["storageFileId"] = emulator.add_file("samplefile", b"")
    answer = call("POST", f"{path}/sourcefiles", body)
    assert answer.status == 201
    assert shape(read(answer)) == shape(example("sync.add_source_file.201"))
    added = read(answer)["sourceFile"]
    assert added["storageFileId"] == body["storageFileId"]
    assert (added["connectorType"], added["lastKnownFileName"]) == ("MSTN", "samplefile")
    found = call("GET", f"{path}/sourcefiles/{added['id']}")
    assert found.status == 200
    assert read(found) == read(answer)


def test_name_of_an_unknown_file_is_absent(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    path = connect(call, emulator)
    answer = call("POST", f"{path}/sourcefiles", example("sync.add_source_file.request"))
    assert answer.status == 201
    golden = example("sync.add_source_file.201")
    del golden["sourceFile"]["lastKnownFileName"]
    assert shape(read(answer)) == shape(golden)
    plain = call("POST", f"{path}/sourcefiles", GOOD_FILE)
    assert read(plain)["sourceFile"]["_links"]["file"]["href"].endswith(f"/files/{UNKNOWN}")


def test_an_updated_source_file_is_the_documented_one(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    path = connect(call, emulator)
    (item,) = read(call("GET", f"{path}/sourcefiles", headers=WHOLE))["sourceFiles"]
    body = example("sync.update_source_file.request") | source(emulator)
    answer = call("PUT", f"{path}/sourcefiles/{item['id']}", body)
    assert answer.status == 200
    assert shape(read(answer)) == shape(example("sync.update_source_file.200"))
    assert read(answer)["sourceFile"]["storageFileId"] == body["storageFileId"]
    again = call("PUT", f"{path}/sourcefiles/{item['id']}", body)
    assert again.status == 200


def test_source_files_are_listed_without_their_connectors_by_default(
    call: Caller, emulator: Emulator
) -> None:
    files = [source(emulator, f"{n}.dgn") for n in range(3)]
    path = connect(call, emulator, sourceFiles=files)
    whole = read(call("GET", f"{path}/sourcefiles", headers=WHOLE))["sourceFiles"]
    assert [item["lastKnownFileName"] for item in whole] == ["0.dgn", "1.dgn", "2.dgn"]
    least = read(call("GET", f"{path}/sourcefiles?$skip=1&$top=5"))
    expected = [{name: item[name] for name in item if name != "connectorType"} for item in whole]
    assert least["sourceFiles"] == expected[1:]
    assert links_of(least)["next"].endswith("/sourcefiles?$skip=6&$top=5")


def test_a_deleted_source_file_is_gone(call: Caller, emulator: Emulator) -> None:
    path = connect(call, emulator)
    (item,) = read(call("GET", f"{path}/sourcefiles"))["sourceFiles"]
    deleted = call("DELETE", f"{path}/sourcefiles/{item['id']}")
    assert (deleted.status, deleted.body) == (204, b"")
    assert read(call("GET", f"{path}/sourcefiles"))["sourceFiles"] == []
    for method in "GET", "DELETE":
        answer = call(method, f"{path}/sourcefiles/{item['id']}")
        assert answer.status == 404
        assert read(answer)["error"] == {
            "code": "StorageConnectionSourceFileNotFound",
            "message": "Requested StorageConnectionSourceFile is not available.",
        }


def test_a_file_that_is_mapped_cannot_be_mapped_again(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    imodel_id, first, second = emulator.add_imodel(), source(emulator), source(emulator)
    path = connect(call, emulator, imodel_id, sourceFiles=[first, second])
    other = connect(call, emulator, imodel_id)
    ids = [item["id"] for item in read(call("GET", f"{path}/sourcefiles"))["sourceFiles"]]
    for answer in (
        call("POST", f"{path}/sourcefiles", first),
        call("POST", f"{other}/sourcefiles", first),
        call("PUT", f"{path}/sourcefiles/{ids[0]}", second),
    ):
        assert answer.status == 409
        assert read(answer) == example("sync.create_storage_connection.409")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"{", 0),
        ({"storageFileId": UNKNOWN}, 3),
        ({"connectorType": "DWG"}, 4),
        (GOOD_FILE | {"connectorType": "PAPER"}, 6),
        (GOOD_FILE | {"storageFileId": "nonsense"}, 8),
    ],
)
def test_a_source_file_is_refused_with_the_documented_reasons(
    call: Caller, emulator: Emulator, example: Example, body: object, line: int
) -> None:
    answer = call("POST", f"{connect(call, emulator)}/sourcefiles", body)
    assert answer.status == 422
    error = read(answer)["error"]
    assert error["code"] == "InvalidStorageConnectionSourceFileRequest"
    golden = example("sync.create_storage_connection.422")["error"]["details"]
    assert error["details"] == [golden[line]]


def test_the_consent_page_of_synchronization(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    emulator.user_authorized = False
    path = "/synchronization/imodels/connections/authorizationInformation"
    answer = call("GET", path)
    assert answer.status == 200
    assert read(answer) == example("sync.authorization_information.200")
    emulator.user_authorized = True
    information = read(call("GET", f"{path}?redirectUrl=https%3A%2F%2Fmy.com"))[
        "authorizationInformation"
    ]
    assert information["isUserAuthorized"] is True
    assert information["_links"]["authorizationUrl"]["href"].endswith(
        "?redirect_url=https://my.com"
    )
    wrong = call("GET", f"{path}?redirectUrl=back")
    assert wrong.status == 422
    assert read(wrong) == example("sync.authorization_information.422")
