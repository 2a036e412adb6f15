"""Plain code without a library: a loop for each run, and a poll every five seconds."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks._support.runs_server import path_of
from itwin_export_async.transport import Request, Response, Transport

API = "https://api.bentley.com"
POLL_INTERVAL = 5.0  # seconds
HEADERS = {
    "Authorization": "Bearer token",
    "Accept": "application/vnd.bentley.itwin-platform.v1+json",
}


async def _wait_for(http: aiohttp.ClientSession, run_id: str) -> Any:
    while True:
        async with http.get(path_of(run_id)) as response:
            response.raise_for_status()
            run = (await response.json())["run"]
        if run["state"] == "Completed":
            return run
        await asyncio.sleep(POLL_INTERVAL)


async def wait_for_all(base_url: str, run_ids: list[str]) -> list[Any]:
    """Return the runs once all are final."""
    async with aiohttp.ClientSession(base_url, headers=HEADERS) as http:
        return await asyncio.gather(*(_wait_for(http, run_id) for run_id in run_ids))


async def _send(transport: Transport, token: str, method: str, url: str, body: Any) -> Response:
    """Send a request; after a 429 send it again when `Retry-After` has passed."""
    request = Request(
        method=method,
        url=url,
        headers={**HEADERS, "Authorization": f"Bearer {token}"},
        body=None if body is None else json.dumps(body).encode(),
    )
    while True:
        response = await transport.send(request)
        if response.status != 429:
            assert response.status < 400, response
            return response
        await asyncio.sleep(float(response.headers["Retry-After"]))


async def _export(transport: Transport, token: str, imodel_id: str, folder: Path) -> Path:
    """One export, from the connection to the file."""

    async def send(method: str, url: str, body: Any = None) -> Response:
        return await _send(transport, token, method, url, body)

    new = {"iModelId": imodel_id, "displayName": "by hand", "authenticationType": "Service"}
    created = await send("POST", f"{API}/export/connections", new)
    connection_id = json.loads(created.body)["connection"]["id"]
    runs = f"{API}/export/connections/{connection_id}/runs"
    started = await send("POST", runs, {"exportType": "IFC"})
    while True:
        run = json.loads((await send("GET", started.headers["Location"])).body)["run"]
        if run["state"] == "Completed":
            break
        await asyncio.sleep(POLL_INTERVAL)
    file_id = run["jobs"][0]["tasks"][0]["exportOutputFileId"]
    redirect = await send("GET", f"{API}/storage/files/{file_id}/download")
    path = folder / f"{imodel_id}.ifc"
    async with transport.stream(Request(method="GET", url=redirect.headers["Location"])) as blob:
        path.write_bytes(b"".join([chunk async for chunk in blob.chunks]))
    return path


async def export_all(
    transport: Transport, token: str, imodel_ids: list[str], folder: Path
) -> list[Path]:
    """Return the paths of the files once all are complete."""
    exports = (_export(transport, token, imodel_id, folder) for imodel_id in imodel_ids)
    return await asyncio.gather(*exports)
