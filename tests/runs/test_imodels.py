"""iModels, their versions, and the caller's rights in them."""

from typing import Any

import pytest

from itwin_export_async import ExportClient, NotFound, PermissionDenied, ProtocolError
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer


def add_imodels(emulator: Emulator, count: int, **more: Any) -> tuple[str, list[str]]:
    """An iTwin with so many iModels, and their ids."""
    first = emulator.add_imodel("iModel 0", **more)
    itwin_id = emulator.itwin_id(first)
    names = (f"iModel {n}" for n in range(1, count))
    return itwin_id, [first, *(emulator.add_imodel(n, itwin_id=itwin_id, **more) for n in names)]


async def test_list_has_every_page(client: ExportClient, emulator: Emulator) -> None:
    itwin_id, ids = add_imodels(emulator, 7)
    listed = await client.imodels.list(itwin_id)
    assert sorted(imodel.id for imodel in listed) == sorted(ids)
    pager = client.imodels.list(itwin_id, page_size=3)
    assert [len(page) async for page in pager.pages()] == [3, 3, 1]
    assert len(await pager) == 7  # it begins again
    assert all(imodel.is_initialized and imodel.reports_last_push for imodel in listed)
    emulator.assert_no_violations()


async def test_list_of_a_thousand_is_one_call(client: ExportClient, emulator: Emulator) -> None:
    itwin_id, _ = add_imodels(emulator, 1000)
    assert len(await client.imodels.list(itwin_id)) == 1000
    assert emulator.count("list_imodels") == 1


async def test_list_is_filtered_by_name_or_search(client: ExportClient, emulator: Emulator) -> None:
    itwin_id, ids = add_imodels(emulator, 12)
    assert [m.id for m in await client.imodels.list(itwin_id, name="iModel 1")] == [ids[1]]
    assert len(await client.imodels.list(itwin_id, search="iModel 1")) == 3
    with pytest.raises(ValueError, match="name and search exclude each other"):
        client.imodels.list(itwin_id, name="a", search="b")
    with pytest.raises(ValueError, match="name is empty"):
        client.imodels.list(itwin_id, name=" ")
    with pytest.raises(TypeError, match="search must be a string, not int"):
        client.imodels.list(itwin_id, search=7)  # type: ignore[arg-type]


async def test_imodels_that_the_caller_may_not_see_are_absent(
    client: ExportClient, emulator: Emulator
) -> None:
    itwin_id, ids = add_imodels(emulator, 3)
    emulator.set_permissions(ids[1], ())
    assert {imodel.id for imodel in await client.imodels.list(itwin_id)} == {ids[0], ids[2]}
    with pytest.raises(PermissionDenied):
        await client.imodels.get(ids[1])
    assert (await client.imodels.get(ids[0])).itwin_id == itwin_id
    with pytest.raises(NotFound, match="iModelNotFound"):
        await client.imodels.get(itwin_id)
    with pytest.raises(NotFound, match="iTwinNotFound"):
        await client.imodels.list(ids[0])


async def test_latest_named_version_is_visible_and_last_in_the_history(
    client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    assert await client.imodels.latest_named_version(imodel_id) is None
    first, second, third = (emulator.push_changeset(imodel_id) for _ in range(3))
    emulator.add_named_version(imodel_id, "middle", second)
    emulator.add_named_version(imodel_id, "old", first)  # created later
    emulator.add_named_version(imodel_id, "hidden", third, state="hidden")
    latest = await client.imodels.latest_named_version(imodel_id)
    assert latest is not None
    assert (latest.display_name, latest.changeset_id, latest.is_baseline) == (
        "middle",
        second,
        False,
    )
    versions = await client.imodels.list_named_versions(imodel_id)
    assert [version.display_name for version in versions] == ["hidden", "middle", "old"]


async def test_latest_changeset_is_the_newest(client: ExportClient, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    assert await client.imodels.latest_changeset(imodel_id) is None
    ids = [emulator.push_changeset(imodel_id) for _ in range(3)]
    latest = await client.imodels.latest_changeset(imodel_id)
    assert latest is not None
    assert (latest.id, latest.index) == (ids[-1], 3)


PAGE = '{"iModels": [%s], "_links": {"next": {"href": "%s"}}}'


@pytest.mark.parametrize(
    ("link", "token"),
    [
        ("https://elsewhere.example/x?$continuationToken=a%2Bb", "a%2Bb"),
        ("/imodels/?%24ContinuationToken=t&$top=1", "t"),
    ],
)
async def test_only_the_token_of_a_next_link_is_used(link: str, token: str) -> None:
    transport = Answers(
        answer(200, PAGE % ('{"id": "m1"}', link)), answer(200, PAGE % ('{"id": "m2"}', ""))
    )
    async with ExportClient("token", transport=transport) as client:
        assert [imodel.id for imodel in await client.imodels.list("i")] == ["m1", "m2"]
    start = "https://api.bentley.com/imodels/?iTwinId=i&%24top=1000"
    urls = [request.url.replace("$", "%24") for request in transport.requests]
    assert urls == [f"{start}&%24continuationToken=", f"{start}&%24continuationToken={token}"]
    assert all(
        request.headers["Accept"] == "application/vnd.bentley.itwin-platform.v2+json"
        for request in transport.requests
    )


@pytest.mark.parametrize("link", ["https://[x", "/imodels/", "?$continuationToken="])
async def test_next_link_without_a_token_ends_the_list(link: str) -> None:
    transport = Answers(answer(200, PAGE % ('{"id": "m1"}', link)))
    async with ExportClient("token", transport=transport) as client:
        assert len(await client.imodels.list("i")) == 1
    assert len(transport.requests) == 1


async def test_repeated_token_or_page_ends_the_list() -> None:
    page = answer(200, PAGE % ('{"id": "m1"}', "?$continuationToken=t"))
    other = answer(200, PAGE % ('{"id": "m2"}', "?$continuationToken=t"))
    for answers in ([page, page], [page, other, page]):
        transport = Answers(*answers)
        async with ExportClient("token", transport=transport) as client:
            listed = await client.imodels.list("i")
        assert len(listed) == len(answers) - 1 or len(listed) == 2
        assert len(transport.requests) <= 3


@pytest.mark.usefixtures("slow")
async def test_endless_list_is_an_error() -> None:
    pages = 0

    def serve(request: Request) -> Response:
        nonlocal pages
        pages += 1
        items = ",".join(f'{{"id": "{pages}-{n}"}}' for n in range(5000))
        return answer(200, PAGE % (items, f"?$continuationToken={pages}"))

    async with ExportClient("token", transport=Answers(serve)) as client:
        with pytest.raises(ProtocolError, match="the list has more than"):
            async for _ in client.imodels.list("i").pages():
                pass


async def test_refused_versions_and_permissions_are_raised(
    client: ExportClient, emulator: Emulator
) -> None:
    unknown = "00000000-0000-0000-0000-000000000000"
    for call in (
        client.imodels.latest_changeset,
        client.imodels.latest_named_version,
        client.imodels.get_permissions,
        client.imodels.get_itwin_permissions,
    ):
        with pytest.raises(NotFound):
            await call(unknown)


async def test_missing_permissions_are_none_and_odd_ones_an_error() -> None:
    transport = Answers(answer(200, "{}"), answer(200, '{"permissions": ["a", 7]}'))
    async with ExportClient("token", transport=transport) as client:
        assert await client.imodels.get_permissions("m") == set()
        with pytest.raises(ProtocolError, match=r"permissions\[1\]"):
            await client.imodels.get_permissions("m")


async def test_access_that_suffices_is_ok(client: ExportClient, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    report = await client.check_access(imodel_id)
    assert (report.ok, report.missing) == (True, ())
    assert report.itwin_id == emulator.itwin_id(imodel_id)
    assert emulator.count("create_run") == emulator.count("create_connection") == 0


async def test_access_names_what_is_missing(client: ExportClient, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.set_permissions(emulator.itwin_id(imodel_id), {"imodels_webview", "storage_read"})
    emulator.user_authorized = False
    report = await client.check_access(imodel_id)
    assert report.missing == ("imodels_read", "storage_write", "authorization")
    assert report.is_user_authorized is False


async def test_access_to_an_imodel_that_the_caller_may_not_see(
    client: ExportClient, emulator: Emulator
) -> None:
    report = await client.check_access(emulator.add_imodel(authorized=False))
    assert report.itwin_id is None
    assert "imodels_read" in report.missing
