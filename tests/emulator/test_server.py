"""The emulator behind real sockets, called with aiohttp."""

import asyncio
import contextlib
import json
import logging
import time
from urllib.parse import urlsplit

import aiohttp
import pytest
from yarl import URL

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import Emulator, ServerAddress, run_virtual

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


async def test_export_over_real_sockets() -> None:
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


async def test_blobs_have_another_origin_and_need_the_unchanged_url() -> None:
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
async def test_injected_break_aborts_the_connection(
    failure: ConnectionError | TimeoutError,
) -> None:
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


async def test_links_name_the_host_that_was_asked() -> None:
    emulator = Emulator()
    imodel_id, file_id = emulator.add_imodel(), emulator.add_file("a.ifc", b"content")
    headers = headers_with(emulator.token())
    async with emulator.serve() as served, aiohttp.ClientSession(headers=headers) as http:
        port = urlsplit(served.base_url).port
        for base in (served.base_url, f"http://localhost:{port}"):
            async with http.post(
                f"{base}/export/connections", json={"iModelId": imodel_id}
            ) as answer:
                links = (await answer.json())["connection"]["_links"]
            assert links["iModel"]["href"].startswith(base)
            url = f"{base}/storage/files/{file_id}/download"
            async with http.get(url, allow_redirects=False) as answer:
                location = URL(answer.headers["Location"], encoded=True)
            assert location.host == urlsplit(base).hostname
            async with aiohttp.ClientSession() as plain, plain.get(location) as answer:
                assert await answer.read() == b"content"


async def test_public_url_is_in_links_and_one_port_is_enough() -> None:
    emulator = Emulator()
    file_id = emulator.add_file("a.ifc", b"content")
    headers = headers_with(emulator.token())
    public = "https://emulator.example.com/itwin"
    async with emulator.serve(public_url=f"{public}/") as served, aiohttp.ClientSession() as http:
        assert served.base_url == public
        own = emulator.user_blob("own", content=b"own")
        port = emulator.state()["service"]
        assert port["address"] == public
    async with emulator.serve(host="0.0.0.0") as served, aiohttp.ClientSession() as http:
        assert served.base_url.startswith("http://127.0.0.1:")
        url = f"{served.base_url}/storage/files/{file_id}/download"
        async with http.get(url, headers=headers, allow_redirects=False) as answer:
            location = URL(answer.headers["Location"], encoded=True)
        assert str(location).startswith(f"{served.base_url}/blobs/")
        async with http.get(location) as answer:
            assert await answer.read() == b"content"
        own = emulator.user_blob("own", content=b"own")
        async with http.get(URL(own, encoded=True)) as answer:
            assert await answer.read() == b"own"


@pytest.mark.parametrize("url", ["ftp://example.com", "example.com", "http://", "http://a?b"])
async def test_public_url_is_checked(url: str) -> None:
    with pytest.raises(ValueError, match="public_url must be an http or https URL"):
        async with Emulator().serve(public_url=url):
            pass


async def test_overlapping_servers_do_not_disturb_each_other() -> None:
    emulator = Emulator()
    before = emulator.user_blob("x")
    async with aiohttp.ClientSession() as http:
        first, second = emulator.serve(), emulator.serve(host="::1")
        one = await first.__aenter__()
        two = await second.__aenter__()
        assert two.base_url.startswith("http://[::1]:")
        for served in (one, two):
            url = f"{served.base_url}/export/connections"
            assert emulator.handle(Request(method="GET", url=url)).status == 404
        assert emulator.user_blob("x").startswith("http://[::1]:")
        await first.__aexit__(None, None, None)
        async with http.get(f"{two.base_url}/emulator/state") as answer:
            assert (await answer.json())["service"]["address"] == two.base_url
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(one.base_url)
        await second.__aexit__(None, None, None)
    assert emulator.user_blob("x").partition("?")[0] == before.partition("?")[0]


async def test_a_served_emulator_is_a_transport_too() -> None:
    emulator = Emulator()
    imodel_id = emulator.add_imodel()
    async with emulator.serve() as served:
        form = f"grant_type=client_credentials&client_id={emulator.client_id}"
        form += f"&client_secret={emulator.client_secret}"
        answer = emulator.handle(Request(method="POST", url=served.token_url, body=form.encode()))
        headers = headers_with(json.loads(answer.body)["access_token"])
        body = json.dumps({"iModelId": imodel_id}).encode()
        url = f"{served.base_url}/export/connections"
        answer = emulator.handle(Request(method="POST", url=url, headers=headers, body=body))
        links = json.loads(answer.body)["connection"]["_links"]
        assert links["iModel"]["href"].startswith(served.base_url)
        own = Request(method="GET", url=emulator.user_blob("a", content=b"own"))
        assert emulator.handle(own).body == b"own"


def test_serve_refuses_virtual_time() -> None:
    async def main() -> None:
        async with Emulator().serve():
            pass

    with pytest.raises(RuntimeError, match=r"serve\(\) needs real time"):
        run_virtual(main())


async def test_server_closes_at_once_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
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


async def test_server_does_not_wait_for_clients_that_do_not_read() -> None:
    emulator = Emulator()
    file_id = emulator.add_file("large.ifc", bytes(32 * 1024**2))
    async with emulator.serve() as served, aiohttp.ClientSession() as http:
        url = f"{served.base_url}/storage/files/{file_id}/download"
        headers = headers_with(emulator.token())
        async with http.get(url, headers=headers, allow_redirects=False) as answer:
            location = urlsplit(answer.headers["Location"])
        reader, writer = await asyncio.open_connection(location.hostname, location.port)
        request = f"GET {location.path}?{location.query} HTTP/1.1\r\nHost: blobs\r\n\r\n"
        writer.write(request.encode())
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
    assert time.monotonic() - began < 20
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
