"""The folders of Storage in the emulator, and their lists, against the documented answers."""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from itwin_export_async.emulator import Emulator, run_virtual
from tests.emulator.shapes import read, shape

Example = Callable[[str], Any]
Caller = Any

ITWIN = str(uuid.UUID(int=77))


@pytest.fixture
def root(emulator: Emulator) -> str:
    """The root folder of an iTwin that has an iModel."""
    emulator.add_imodel("Bridge", itwin_id=ITWIN)
    return emulator.root_folder(ITWIN)


def make_folder(call: Caller, parent_id: str, name: str = "test") -> str:
    body = {"displayName": name, "description": "test folder"}
    answer = call("POST", f"/storage/folders/{parent_id}/folders", body)
    assert answer.status == 201
    folder_id = read(answer)["folder"]["id"]
    assert isinstance(folder_id, str)
    return folder_id


def links_of(payload: Any) -> dict[str, str]:
    return {name: link["href"] for name, link in payload["_links"].items()}


def test_a_new_folder_has_the_documented_members(call: Caller, root: str, example: Example) -> None:
    body = example("storage.create_folder.request")
    created = call("POST", f"/storage/folders/{root}/folders", body)
    assert created.status == 201
    assert shape(read(created)) == shape(example("storage.create_folder.201"))
    folder = read(created)["folder"]
    assert folder["displayName"] == folder["path"] == "test"
    assert folder["description"] == "test folder"
    assert folder["parentFolderId"] == root
    assert folder["_links"]["parentFolder"]["href"].endswith(f"/storage/folders/{root}")
    found = call("GET", f"/storage/folders/{folder['id']}")
    assert found.status == 200
    assert shape(read(found)) == shape(example("storage.get_folder.200"))
    assert read(found) == read(created)


def test_path_names_the_folders_above(call: Caller, emulator: Emulator, root: str) -> None:
    inner = make_folder(call, make_folder(call, root, "folderName"), "inner")
    assert read(call("GET", f"/storage/folders/{inner}"))["folder"]["path"] == "folderName/inner"
    top = emulator.add_file("a.ifc", b"", itwin_id=ITWIN)
    assert read(call("GET", f"/storage/files/{top}"))["file"]["path"] == "a.ifc"


def test_the_root_folder_has_no_parent(call: Caller, root: str) -> None:
    folder = read(call("GET", f"/storage/folders/{root}"))["folder"]
    assert folder["id"] == root
    assert folder["parentFolderId"] is folder["_links"]["parentFolder"] is None


@pytest.mark.parametrize("suffix", ["", "/list", "/files", "/folders", "/search?name=a"])
@pytest.mark.parametrize("unknown", ["nonsense", str(uuid.UUID(int=1)), "A" * 43])
def test_an_unknown_folder_is_not_found(
    call: Caller, emulator: Emulator, example: Example, unknown: str, suffix: str
) -> None:
    answer = call("GET", f"/storage/folders/{unknown}{suffix}")
    assert answer.status == 404
    assert read(answer) == example("storage.get_folder.404")


def test_a_folder_is_not_found_in_another_itwin(call: Caller, emulator: Emulator) -> None:
    one, other = (str(uuid.UUID(int=n << 120)) for n in (1, 2))
    for itwin_id in one, other:
        emulator.add_imodel(itwin_id=itwin_id)
    folder_id = make_folder(call, emulator.root_folder(one))
    elsewhere = emulator.root_folder(other)[:21] + folder_id[21:]
    assert call("GET", f"/storage/folders/{elsewhere}").status == 404


@pytest.mark.parametrize("operation", ["list_root_folder", "list_folder"])
def test_a_list_of_everything_is_the_documented_one(
    call: Caller, emulator: Emulator, root: str, example: Example, operation: str
) -> None:
    make_folder(call, root)
    emulator.add_file("test2.txt", b"x", itwin_id=ITWIN)
    if operation == "list_root_folder":
        path, golden = f"/storage/?projectId={ITWIN}", example("storage.get_top_level.200")
    else:
        path, golden = f"/storage/folders/{root}/list", example("storage.list_folder.200")
    answer = call("GET", path)
    assert answer.status == 200
    assert shape(read(answer)) == shape(golden)
    assert [item["type"] for item in read(answer)["items"]] == ["folder", "file"]


@pytest.mark.parametrize("kind", ["files", "folders"])
def test_a_list_of_one_kind_is_the_documented_one(
    call: Caller, emulator: Emulator, root: str, example: Example, kind: str
) -> None:
    for n in range(2):
        make_folder(call, root, f"test {n}")
        emulator.add_file(f"test{n}.txt", b"x", itwin_id=ITWIN)
    answer = call("GET", f"/storage/folders/{root}/{kind}?$skip=0&$top=2")
    assert answer.status == 200
    assert shape(read(answer)) == shape(example(f"storage.get_{kind}_in_folder.200"))
    assert links_of(read(answer)) == {
        "self": f"https://api.bentley.com/storage/folders/{root}/{kind}?$skip=0&$top=2",
        "prev": f"https://api.bentley.com/storage/folders/{root}/{kind}?$skip=0&$top=2",
        "next": f"https://api.bentley.com/storage/folders/{root}/{kind}?$skip=2&$top=2",
    }


def test_root_folder_is_named_by_a_link_only(
    call: Caller, emulator: Emulator, example: Example
) -> None:
    golden = example("storage.get_top_level.empty.200")
    itwin_id = dict(parse_qsl(urlsplit(golden["_links"]["self"]["href"]).query))["iTwinId"]
    emulator.add_imodel(itwin_id=itwin_id)
    answer = call("GET", f"/storage/?iTwinId={itwin_id}")
    assert answer.status == 200
    assert read(answer) == golden
    assert read(call("GET", f"/storage?iTwinId={itwin_id}")) == golden


def test_links_keep_the_parameter_that_was_used(call: Caller, root: str) -> None:
    links = links_of(read(call("GET", f"/storage?projectId={ITWIN}&$skip=4&$top=2")))
    base = f"https://api.bentley.com/storage?projectId={ITWIN}"
    assert links == {
        "self": f"{base}&$skip=4&$top=2",
        "prev": f"{base}&$skip=2&$top=2",
        "next": f"{base}&$skip=6&$top=2",
        "folder": f"https://api.bentley.com/storage/folders/{root}",
    }


def test_top_level_needs_a_known_itwin(call: Caller, example: Example) -> None:
    assert call("GET", "/storage").status == 422
    assert call("GET", "/storage?iTwinId=").status == 404
    unknown = call("GET", f"/storage/?iTwinId={uuid.UUID(int=1)}")
    assert unknown.status == 404
    assert read(unknown) == example("storage.get_folder.404")


def test_page_begins_at_skip(call: Caller, emulator: Emulator, root: str) -> None:
    ids = [emulator.add_file(f"{n}", b"", itwin_id=ITWIN) for n in range(5)]
    path = f"/storage/folders/{root}/list"
    shown = read(call("GET", f"{path}?$skip=1&$top=3"))["items"]
    assert [item["id"] for item in shown] == ids[1:4]
    emulator.storage_page_size = 2
    assert [item["id"] for item in read(call("GET", path))["items"]] == ids[:2]


@pytest.mark.parametrize("query", ["$top=1001", "$top=0", "$skip=-1", "$top=x", "$skip=x"])
def test_pages_have_limits(call: Caller, root: str, example: Example, query: str) -> None:
    answer = call("GET", f"/storage/folders/{root}/list?{query}")
    assert answer.status == 422
    golden = example("storage.list_folder.422")
    assert read(answer)["error"]["code"] == golden["error"]["code"]
    assert (read(answer) == golden) is (query == "$top=1001")


def test_search_finds_items_at_any_depth(
    call: Caller, emulator: Emulator, root: str, example: Example
) -> None:
    folder = make_folder(call, root, "search-string")
    inner = make_folder(call, folder, "other")
    announced = call("POST", f"/storage/folders/{inner}/files", {"displayName": "Search 3.txt"})
    upload, complete = (
        read(announced)["_links"][name]["href"] for name in ("uploadUrl", "completeUrl")
    )
    put = {"x-ms-blob-type": "BlockBlob", "Authorization": ""}
    assert call("PUT", upload, b"x", headers=put).status == 201
    assert call("POST", complete).status == 200
    answer = call("GET", f"/storage/folders/{root}/search?name=search*&$skip=0&$top=2")
    assert answer.status == 200
    assert shape(read(answer)) == shape(example("storage.search.200"))
    assert [item["path"] for item in read(answer)["items"]] == [
        "search-string",
        "search-string/other/Search 3.txt",
    ]
    assert links_of(read(answer))["next"].endswith("/search?name=search*&$skip=2&$top=2")
    assert call("GET", f"/storage/folders/{root}/search").status == 422


@pytest.mark.parametrize("kind", ["files", "folders"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        {},
        {"displayName": None},
        {"displayName": ""},
        {"displayName": "a" * 256},
        {"displayName": "a/b.txt"},
        {"displayName": "a\nb.txt"},
        {"displayName": "virus.EXE"},
        {"displayName": "a", "description": 7},
    ],
)
def test_forbidden_names_are_refused(
    call: Caller, root: str, example: Example, kind: str, body: object
) -> None:
    answer = call("POST", f"/storage/folders/{root}/{kind}", body)
    assert answer.status == 422
    golden = example("storage.create_file.422")
    assert shape(read(answer)) == shape(golden)
    assert (read(answer) == golden) is (kind == "files")


def test_deleted_folder_takes_its_content_along(
    call: Caller, emulator: Emulator, root: str
) -> None:
    folder = make_folder(call, root)
    inner = make_folder(call, folder)

    async def main() -> str:
        imodel_id = next(iter(emulator.imodels))
        location = call.start(call.connect(imodel_id), outputOptions={"folderId": inner})
        await asyncio.sleep(421)
        task = read(call("GET", location))["run"]["jobs"][0]["tasks"][0]
        assert isinstance(task["exportOutputFileId"], str)
        return task["exportOutputFileId"]

    file_id = run_virtual(main())
    assert call("GET", f"/storage/files/{file_id}").status == 200
    deleted = call("DELETE", f"/storage/folders/{folder}")
    assert (deleted.status, deleted.body) == (204, b"")
    for path in f"folders/{folder}", f"folders/{inner}", f"files/{file_id}":
        assert call("GET", f"/storage/{path}").status == 404
    assert call("DELETE", f"/storage/folders/{root}").status == 422


def test_export_writes_to_its_folder(call: Caller, emulator: Emulator, root: str) -> None:
    folder = make_folder(call, root)
    imodel_id = next(iter(emulator.imodels))

    async def main() -> None:
        call.start(call.connect(imodel_id), outputOptions={"folderId": folder})
        await asyncio.sleep(419)
        assert read(call("GET", f"/storage/folders/{folder}/files"))["files"] == []
        await asyncio.sleep(2)
        (stored,) = read(call("GET", f"/storage/folders/{folder}/files"))["files"]
        assert (stored["displayName"], stored["path"]) == ("Bridge.ifc", "test/Bridge.ifc")
        assert read(call("GET", f"/storage/folders/{root}/files"))["files"] == []

    run_virtual(main())


@pytest.mark.parametrize("replace", [True, False])
def test_export_replaces_the_older_file_on_request(
    call: Caller, emulator: Emulator, root: str, replace: bool
) -> None:
    imodel_id = next(iter(emulator.imodels))
    other = emulator.add_imodel("Other", itwin_id=ITWIN)
    kept = emulator.add_file("mine.ifc", b"", itwin_id=ITWIN)

    async def main() -> None:
        call.start(call.connect(other))
        connection_id = call.connect(imodel_id)
        options = {"replaceOlderFile": replace}
        call.start(connection_id, outputOptions=options)
        await asyncio.sleep(421)
        before = ids_in(call, root)
        assert len(before) == 3
        call.start(connection_id, outputOptions=options)
        await asyncio.sleep(419)
        assert ids_in(call, root) == before
        await asyncio.sleep(2)
        after = ids_in(call, root)
        assert kept in after
        assert len(before & after) == (2 if replace else 3)
        assert len(after) == (3 if replace else 4)

    run_virtual(main())


def ids_in(call: Caller, folder_id: str) -> set[str]:
    answer = call("GET", f"/storage/folders/{folder_id}/files")
    return {stored["id"] for stored in json.loads(answer.body)["files"]}
