"""The emulator behind real sockets, asked with plain aiohttp."""

import asyncio
import contextlib
import logging
import time
from unittest.mock import Mock
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator import Emulator, ServerAddress
from itwin_export_async.emulator._http.server import _broken

pytestmark = pytest.mark.usefixtures("integration")

JSON = "application/vnd.bentley.itwin-platform.v1+json"


async def fetch_token(
    emulator: Emulator, served: ServerAddress, http: aiohttp.ClientSession
) -> str:
    form = {
        "grant_type": "client_credentials",
        "client_id": emulator.client_id,
        "client_secret": emulator.client_secret,
    }
    async with http.post(served.token_url, data=form) as answer:
        assert answer.status == 200
        token = (await answer.json())["access_token"]
        assert isinstance(token, str)
        return token


def headers_with(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Accept": JSON}


async def test_an_export_over_real_sockets() -> None:
    emulator = Emulator(run_seconds=0)
    imodel_id = emulator.add_imodel()
    async with emulator.serve() as served, aiohttp.ClientSession() as http:
        http.headers.update(headers_with(await fetch_token(emulator, served, http)))
        connections = f"{served.base_url}/export/connections"
        async with http.post(connections, json={"iModelId": imodel_id}) as answer:
            assert answer.status == 201
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers.getall("Date") == [answer.headers["Date"]]
            connection = (await answer.json())["connection"]
        assert connection["_links"]["iModel"]["href"].startswith(served.base_url)
        runs = f"{connections}/{connection['id']}/runs"
        async with http.post(runs, json={"exportType": "IFC"}) as answer:
            assert (answer.status, await answer.read()) == (202, b"")
            assert "Content-Type" not in answer.headers
            location = answer.headers["Location"]
        assert location.startswith(f"{runs}/")
        async with http.get(location) as answer:
            run = (await answer.json())["run"]
        output = run["jobs"][0]["tasks"][0]["exportOutputFileId"]
        download = f"{served.base_url}/storage/files/{output}/download"
        async with http.get(download, allow_redirects=False) as answer:
            assert answer.status == 302
            location = answer.headers["Location"]
    assert run["state"] == "Completed"
    assert emulator.count("create_run") == 1


async def test_blobs_come_from_another_origin_by_their_address_as_it_is() -> None:
    emulator = Emulator()
    file_id = emulator.add_file("a.ifc", b"content")
    async with emulator.serve() as served, aiohttp.ClientSession() as http:
        url = f"{served.base_url}/storage/files/{file_id}/download"
        headers = headers_with(emulator.token())
        async with http.get(url, headers=headers, allow_redirects=False) as answer:
            location = answer.headers["Location"]
        assert urlsplit(location).netloc != urlsplit(served.base_url).netloc
        async with http.get(URL(location, encoded=True)) as answer:
            assert (answer.status, await answer.read()) == (200, b"content")
            assert answer.headers["Content-Length"] == "7"
        part = {"Range": "bytes=3-"}
        async with http.get(URL(location, encoded=True), headers=part) as answer:
            assert (answer.status, await answer.read()) == (206, b"tent")
        async with http.get(URL(location, encoded=True), headers=headers) as answer:
            assert answer.status == 400
        async with http.get(location.replace("%2F", "/")) as answer:
            assert answer.status == 403
        parts = urlsplit(location)
        async with http.get(f"{parts.scheme}://{parts.netloc}/export/connections") as answer:
            assert answer.status == 403


@pytest.mark.parametrize("failure", [ConnectionResetError(), TimeoutError()])
async def test_a_broken_connection_breaks(failure: ConnectionError | TimeoutError) -> None:
    emulator = Emulator()
    emulator.inject("create_connection", failure, Response(status=503, body=b"busy"))
    async with emulator.serve() as served, aiohttp.ClientSession() as http:
        url = f"{served.base_url}/export/connections"
        http.headers["Accept"] = JSON
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.post(url)
        async with http.post(url) as answer:
            assert (answer.status, await answer.read()) == (503, b"busy")
            assert "Date" in answer.headers
    assert emulator.count("create_connection") == 2


async def test_a_client_that_has_gone_is_left_alone() -> None:
    gone = Mock(web.Request, transport=None)
    assert _broken(gone).status == 200


async def test_the_addresses_are_real_only_while_it_is_served() -> None:
    emulator = Emulator()
    before = emulator._world.addresses
    async with emulator.serve() as served:
        assert emulator._world.addresses.api == served.base_url
        async with emulator.serve(host="::1") as second:
            assert second.base_url.startswith("http://[::1]:")
    assert emulator._world.addresses == before


async def test_it_closes_at_once_and_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    emulator = Emulator()
    emulator.inject("create_connection", ConnectionResetError())
    with caplog.at_level(logging.WARNING):
        async with aiohttp.ClientSession() as http:
            async with emulator.serve() as served:
                url = f"{served.base_url}/export/connections"
                for _ in range(3):
                    async with http.get(url) as answer:
                        assert answer.status == 404
                with pytest.raises(aiohttp.ClientConnectionError):
                    await http.post(url, headers=headers_with("x"))
                began = time.monotonic()
            assert time.monotonic() - began < 20
            with pytest.raises(aiohttp.ClientConnectionError):
                await http.get(url)
    await asyncio.sleep(0)
    assert caplog.records == []


async def test_it_does_not_wait_for_those_who_do_not_read() -> None:
    emulator = Emulator()
    file_id = emulator.add_file("large.ifc", bytes(32 * 1024**2))
    async with emulator.serve() as served, aiohttp.ClientSession() as http:
        url = f"{served.base_url}/storage/files/{file_id}/download"
        headers = headers_with(emulator.token())
        async with http.get(url, headers=headers, allow_redirects=False) as answer:
            location = urlsplit(answer.headers["Location"])
        reader, writer = await asyncio.open_connection(location.hostname, location.port)
        asked = f"GET {location.path}?{location.query} HTTP/1.1\r\nHost: blobs\r\n\r\n"
        writer.write(asked.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
    assert time.monotonic() - began < 20
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
