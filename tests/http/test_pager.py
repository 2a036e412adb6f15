"""Lists as async iterators."""

import json
from typing import Any

import pytest

from itwin_export_async import AsyncPager, ExportClient, ProtocolError, Run
from itwin_export_async._http.pager import MAX_ITEMS
from itwin_export_async._protocol.paging import Page
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer
from tests.support.samples import run


def listing(*pages: str, has_next: bool = True) -> list[Response]:
    """Responses with pages of runs, whose ids are single letters."""
    found = []
    for ids in pages:
        body: dict[str, Any] = {"runs": [{"id": id, "state": "Idle"} for id in ids]}
        body["_links"] = {"next": {"href": "https://h/next"} if has_next else None}
        found.append(answer(200, json.dumps(body)))
    return found


def offsets(transport: Answers) -> list[str]:
    return [request.url.partition("?")[2] for request in transport.requests]


async def test_pager_yields_items_pages_or_all_and_starts_again_each_time() -> None:
    transport = Answers(lambda request: listing("ab" if "skip" not in request.url else "")[0])
    async with ExportClient("t", transport=transport) as client:
        pager = client.list_runs("c1")
        for _ in range(2):
            assert [item.id async for item in pager] == ["a", "b"]
            assert [item.id for item in await pager] == ["a", "b"]
            assert [len(page) async for page in pager.pages()] == [2]
    assert offsets(transport) == ["", "$skip=2"] * 6


async def test_pager_yields_no_item_twice_though_pages_overlap() -> None:
    transport = Answers(*listing("abc", "cbd", "de", "ed"))
    async with ExportClient("t", transport=transport) as client:
        assert [item.id for item in await client.list_runs("c1")] == ["a", "b", "c", "d", "e"]
    assert offsets(transport) == ["", "$skip=3", "$skip=6", "$skip=8"]


async def test_pager_gives_its_next_items() -> None:
    transport = Answers(*listing("ab", has_next=False))
    async with ExportClient("t", transport=transport) as client:
        pager = client.list_runs("c1")
        assert [(await anext(pager)).id, (await anext(pager)).id] == ["a", "b"]
        with pytest.raises(StopAsyncIteration):
            await anext(pager)
    assert len(transport.requests) == 1


async def test_endless_list_is_a_protocol_error() -> None:
    size, number = 200_000, 0
    known = run(id="known")

    def build_request(page_size: int | None, offset: int) -> Request:
        return Request(method="GET", url=f"/endless?$skip={offset}")

    def parse_page(response: Response) -> Page[Run]:
        nonlocal number
        number += size
        return Page(items=(run(id=str(number)), *[known] * (size - 1)), has_next=True)

    async with ExportClient("t", transport=Answers(answer(200))) as client:
        pager = AsyncPager(client.session, None, build_request, parse_page)
        with pytest.raises(ProtocolError, match="more than 1,000,000 items"):
            await pager
    assert MAX_ITEMS < number <= MAX_ITEMS + size


async def test_pager_refuses_an_invalid_argument_at_once_and_shows_its_url() -> None:
    async with ExportClient("t", transport=Answers(answer(200))) as client:
        with pytest.raises(ValueError, match="page_size"):
            client.list_runs("c1", page_size=0)
        with pytest.raises(ValueError, match="connection_id"):
            client.list_runs("")
        shown = repr(client.list_runs("c1", page_size=7))
    assert shown == "<AsyncPager of /export/connections/c1/runs>"
