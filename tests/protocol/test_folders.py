"""Folders: what is asked, and what the answers say."""

import pytest

from itwin_export_async._errors import ExportError, InvalidRequest, NotFound, ProtocolError
from itwin_export_async._protocol.folders import (
    list_folder_request,
    list_root_folder_request,
    parse_items,
    parse_root_folder,
)
from tests.support.samples import answer, example


def root(href: object, *items: object) -> str:
    links = {"folder": href} if href is None else {"folder": {"href": href}}
    return parse_root_folder(answer({"items": list(items), "_links": links}))


def test_a_folder_is_listed_page_by_page() -> None:
    first, later = (
        list_folder_request("f/1", page_size=size, offset=offset)
        for size, offset in ((None, 0), (50, 100))
    )
    assert (first.method, first.url) == ("GET", "/storage/folders/f%2F1/list")
    assert later.url == "/storage/folders/f%2F1/list?$skip=100&$top=50"
    assert (dict(first.headers), first.body, first.retryable) == ({}, None, True)


def test_a_root_folder_is_listed_by_its_itwin() -> None:
    first = list_root_folder_request("i/1&x", page_size=None, offset=0)
    assert (first.method, first.url) == ("GET", "/storage/?iTwinId=i%2F1%26x")
    later = list_root_folder_request("i1", page_size=1, offset=3)
    assert later.url == "/storage/?iTwinId=i1&$skip=3&$top=1"
    assert (dict(first.headers), first.body) == ({}, None)


@pytest.mark.parametrize("id", ["", " ", "..", "f1\r\n", None, 7])
def test_what_is_no_id_is_not_asked_for(id: str) -> None:
    with pytest.raises((TypeError, ValueError), match="folder_id"):
        list_folder_request(id, page_size=None, offset=0)
    with pytest.raises((TypeError, ValueError), match="itwin_id"):
        list_root_folder_request(id, page_size=None, offset=0)


@pytest.mark.parametrize(
    ("href", "id"),
    [
        ("https://api.bentley.com/storage/folders/f1", "f1"),
        ("https://api.bentley.com/storage/folders/f1/", "f1"),
        ("https://api.bentley.com/storage/v1/Folders/f1?x=folders/f2#y", "f1"),
        ("/storage/folders/f%2F1", "f/1"),
        ("https://elsewhere.example.com/folders/f1", "f1"),  # nothing is asked there
    ],
)
def test_the_root_folder_is_the_one_that_the_link_names(href: str, id: str) -> None:
    assert root(href) == id


@pytest.mark.parametrize(
    "href",
    [None, "", 7, "https://api.bentley.com/storage", "https://api.bentley.com/storage/folders",
     "https://api.bentley.com/storage/folders/", "https://api.bentley.com/storage/folders/..",
     "https://api.bentley.com/storage/folders/%2E%2E", "https://api.bentley.com/folders/%20",
     "https://api.bentley.com/folders/f%0A1", "https://api.bentley.com/storage/files/f1",
     "https://[api/storage/folders/f1", "https://api.bentley.com/storage/folders/f1/list"],
)  # fmt: skip
def test_a_root_folder_that_no_link_names_is_no_answer(href: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        root(href)
    assert caught.value.path == "_links.folder.href"


def test_a_listing_without_links_names_no_root_folder() -> None:
    bodies: tuple[object, ...] = (
        {"items": []},
        {"items": [], "_links": None},
        {"items": [], "_links": []},
    )
    for body in bodies:
        with pytest.raises(ProtocolError):
            parse_root_folder(answer(body))


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("storage.get_folder.404.json", 404, NotFound),
        ("storage.list_folder.422.json", 422, InvalidRequest),
        ("platform.error.404.operation_not_found.json", 404, NotFound),
        ("storage.list_folder.200.json", 204, ProtocolError),
    ],
)
def test_a_refusal_is_an_error(name: str, status: int, kind: type[ExportError]) -> None:
    for read in (parse_items, parse_root_folder):
        with pytest.raises(kind) as caught:
            read(answer(example(name), status))
        gateway = isinstance(caught.value, NotFound) and caught.value.is_gateway
        assert gateway == name.startswith("platform")


def test_what_the_service_leaves_out_of_an_item_is_not_made_up() -> None:
    (item,) = parse_items(answer({"items": [{"id": "f1", "type": "folder", "size": None}]})).items
    assert (item.id, item.display_name, item.is_folder, item.size) == ("f1", "", True, None)
    assert (item.path, item.created_date_time, item.parent_folder_id) == (None, None, None)
    with pytest.raises(ProtocolError) as caught:
        parse_items(answer({"items": [{"id": "f1"}, {"type": "file"}]}))
    assert caught.value.path == "items[1].id"
