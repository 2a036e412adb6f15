"""Lists, page by page: the service's own links are not followed."""

from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import InvalidRequest, ProtocolError
from itwin_export_async._models import Run
from itwin_export_async._protocol.connections import list_connections_request
from itwin_export_async._protocol.paging import (
    Page,
    checked_page_size,
    ids_of,
    new_items,
    page_of,
    page_query,
)
from itwin_export_async._protocol.runs import Service
from tests.support.samples import answer, run


def page(*ids: str, has_next: bool = True) -> Page[Run]:
    return Page(items=tuple(run(id=id) for id in ids), has_next=has_next)


def test_page_query_holds_only_needed_parameters() -> None:
    assert page_query({}, None, 0) == ""
    assert page_query({}, None, 40) == "?$skip=40"
    assert page_query({}, 20, 0) == "?$top=20"


@given(st.text(), st.none() | st.integers(1, 1000), st.integers(0, 10**6))
def test_page_query_repeats_the_lists_parameters(value: str, size: int | None, offset: int) -> None:
    query = dict(parse_qsl(page_query({"imodelId": value}, size, offset)[1:], True))
    assert query.pop("imodelId") == value
    assert query.pop("$skip", "0") == str(offset)
    assert query.pop("$top", None) == (None if size is None else str(size))
    assert query == {}


def test_imodel_id_is_spelled_as_documented() -> None:
    url = list_connections_request(Service.EXPORT, "a&b=c", page_size=10, offset=20).url
    assert urlsplit(url).path == "/export/connections"
    assert dict(parse_qsl(urlsplit(url).query)) == {
        "imodelId": "a&b=c",
        "$skip": "20",
        "$top": "10",
    }


@pytest.mark.parametrize("size", [None, 1, 1000])
def test_valid_page_size_is_accepted(size: int | None) -> None:
    assert checked_page_size(size) == size


@pytest.mark.parametrize("size", [0, -1])
def test_page_size_below_one_is_named(size: int) -> None:
    with pytest.raises(ValueError, match="page_size"):
        checked_page_size(size)


@pytest.mark.parametrize("size", ["10", 1.5, True])
def test_page_size_of_the_wrong_type_is_named(size: object) -> None:
    with pytest.raises(TypeError, match="page_size"):
        checked_page_size(size)


@given(st.lists(st.lists(st.sampled_from("abcdef"))))
def test_overlapping_pages_yield_each_item_once(pages: list[list[str]]) -> None:
    seen, yielded = set[str](), list[str]()
    for ids in pages:
        items = new_items(page(*ids), seen)
        seen.update(ids_of(items))
        yielded += ids_of(items)
    assert yielded == list(dict.fromkeys(id for ids in pages for id in ids))


@pytest.mark.parametrize(
    ("links", "has_next"),
    [
        (None, False),
        ({}, False),
        ({"next": None}, False),
        ({"next": {"href": None}}, False),
        ({"next": {"href": ""}}, False),
        ({"next": {"href": "https://h/runs&$skip=50&$top=50"}}, True),
        ({"next": {"href": "https://h/{connectionId}/runs"}}, True),
    ],
)
def test_next_link_is_only_a_hint(links: object, has_next: bool) -> None:
    seen = page_of(answer({"runs": [{"id": "r1", "state": "Idle"}], "_links": links}), "runs", Run)
    assert seen.has_next is has_next
    assert ids_of(seen.items) == ("r1",)


def test_refused_or_broken_list_is_an_error() -> None:
    with pytest.raises(InvalidRequest):
        page_of(answer({}, 422), "runs", Run)
    with pytest.raises(ProtocolError) as caught:
        page_of(answer({"runs": {"id": "r1"}}), "runs", Run)
    assert caught.value.path == "runs"
