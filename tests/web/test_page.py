"""The example page, in a real browser."""

import re
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from itwin_export_async import ExportClient
from itwin_export_async.web import example_page
from tests.support.browser import Browser, Page
from tests.support.processes import until
from tests.support.servers import web_server
from tests.support.service import Service
from tests.web.conftest import AFTER_RUN, RUN_SECONDS
from tests.web.sites import Site, aiohttp_site, fastapi_site

on_both = pytest.mark.parametrize("site", [fastapi_site, aiohttp_site])
MakeClient = Callable[[], ExportClient]
STATES = "[...document.querySelectorAll('#states li')].map(item => item.innerText)"


async def start(page: Page, imodel_id: str) -> None:
    """Fill in the form and send it."""
    await page.click("input")
    await page.type(imodel_id)
    await page.click("button")


async def shows(page: Page, text: str) -> None:
    await page.until(f"document.querySelector('#status').innerText.includes({text!r})")


def test_page_has_no_address_of_another_host() -> None:
    text = example_page()
    assert "://" not in text
    assert not re.search(r"(src|href)\s*=\s*[\"']?//", text)
    assert "innerHTML" not in text


@on_both
async def test_page_shows_the_states_and_offers_the_file(
    site: Site, service: Service, make_client: MakeClient, browser: Browser, tmp_path: Path
) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    async with (
        site(client=make_client, page=True) as url,
        browser.page(f"{url}/exports/page", downloads=tmp_path) as page,
    ):
        await page.value("window.isTheSame = true")
        await start(page, imodel_id)
        await page.until("document.querySelectorAll('#states li').length > 0")
        assert await page.value("document.querySelector('#file').hidden")
        service.advance(RUN_SECONDS / 2)
        await shows(page, "Executing")
        service.advance(AFTER_RUN / 2)
        await page.until("!document.querySelector('#file').hidden")
        await shows(page, "Success")
        assert (await page.value(STATES))[-1] == "Completed"
        assert len(await page.value(STATES)) > 2
        assert await page.value("document.querySelector('#failures').innerText") == ""
        await page.click("#file")
        file = tmp_path / "Bridge.ifc"
        await until(lambda: file.exists() and file.stat().st_size > 0)  # empty until it is whole
        assert file.read_bytes().startswith(b"ISO-10303-21;")
        assert await page.value("window.isTheSame")
    assert service.emulator.count("create_run") == 1


async def test_page_shows_why_an_export_failed(
    service: Service, make_client: MakeClient, browser: Browser
) -> None:
    imodel_id = service.emulator.add_imodel()
    service.emulator.plan_next_run(imodel_id, "Error", duration=0)
    async with (
        fastapi_site(client=make_client, page=True) as url,
        browser.page(f"{url}/exports/page") as page,
    ):
        await start(page, imodel_id)
        await page.until("document.querySelectorAll('#failures li').length > 0")
        await shows(page, "Error")
        assert len(await page.value("document.querySelector('#failures li').innerText")) > 10
        links = await page.value("[...document.querySelectorAll('#failures a')].map(a => a.href)")
        assert all(link.startswith("https://") for link in links)
        assert await page.value("document.querySelector('#file').hidden")


async def test_page_shows_the_progress_by_the_estimate(
    service: Service, make_client: MakeClient, browser: Browser
) -> None:
    imodel_id = service.emulator.add_imodel()
    async with (
        aiohttp_site(client=make_client, page=True) as url,
        browser.page(f"{url}/exports/page") as page,
    ):
        for _ in range(3):
            async with aiohttp.ClientSession() as visitor:
                body = {"imodel_id": imodel_id}
                async with visitor.post(f"{url}/exports", json=body) as response:
                    assert response.status == 202
            service.advance(AFTER_RUN)
        await start(page, imodel_id)
        await page.until("!document.querySelector('#progress').hidden")
        assert "s left" in await page.value("document.querySelector('#progress').title")
        assert 0 <= await page.value("document.querySelector('#progress').value") < 1
        service.advance(AFTER_RUN)
        await shows(page, "Success")
        assert await page.value("document.querySelector('#progress').hidden")


async def test_page_shows_a_refusal_and_starts_nothing(
    service: Service, make_client: MakeClient, browser: Browser
) -> None:
    async with (
        aiohttp_site(client=make_client, page=True) as url,
        browser.page(f"{url}/exports/page") as page,
    ):
        await start(page, "unknown")
        await page.until(
            "!['', 'Starting ...'].includes(document.querySelector('#status').innerText)"
        )
        assert await page.value("location.hash") == ""
    assert service.emulator.count("create_run") == 0


async def test_page_shows_that_an_id_does_not_exist(
    make_client: MakeClient, browser: Browser
) -> None:
    async with (
        fastapi_site(client=make_client, page=True) as url,
        browser.page(f"{url}/exports/page#unknown.id") as page,
    ):
        await shows(page, "there is no such export")


@pytest.mark.parametrize(
    "kind", ["{other}/x", "//{host}/x", "/\\{host}", "..", "javascript:alert(1)"]
)
async def test_link_to_another_origin_in_the_address_does_nothing(
    make_client: MakeClient, browser: Browser, kind: str
) -> None:
    requested: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        requested.append(request.path)
        return web.Response(headers={"Access-Control-Allow-Origin": "*"})

    async with web_server(handler) as other, fastapi_site(client=make_client, page=True) as url:
        link = kind.format(other=other, host=other.removeprefix("http://"))
        async with browser.page(f"{url}/exports/page#{link}") as page:
            await page.value("new Promise(resolve => setTimeout(resolve, 200))")
            assert await page.value("document.querySelector('#status').innerText") == ""
            assert await page.value("location.origin") == url.removesuffix("/api/v1")
            entries = "performance.getEntriesByType('resource').map(entry => entry.name)"
            assert await page.value(entries) == []
    assert requested == []


@on_both
async def test_page_is_served_only_where_it_is_enabled_and_may_load_nothing_else(
    site: Site, make_client: MakeClient
) -> None:
    async with aiohttp.ClientSession() as visitor:
        async with site(client=make_client) as url, visitor.get(f"{url}/exports/page") as response:
            assert response.status == 404
        async with (
            site(client=make_client, page=True) as url,
            visitor.get(f"{url}/exports/page") as response,
        ):
            assert response.content_type == "text/html"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert await response.text() == example_page()
