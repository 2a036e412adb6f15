"""What people write by hand: a loop for each run, and a look every five seconds."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks._support.runs_server import path_of
from itwin_export_async.transport import Request, Response, Transport

API = "https://api.bentley.com"
EVERY = 5.0  # seconds
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
        await asyncio.sleep(EVERY)


async def wait_for_all(base_url: str, run_ids: list[str]) -> list[Any]:
    """The runs, once all have ended."""
    async with aiohttp.ClientSession(base_url, headers=HEADERS) as http:
        return await asyncio.gather(*(_wait_for(http, run_id) for run_id in run_ids))


async def _asked(transport: Transport, token: str, method: str, url: str, body: Any) -> Response:
    """The answer; refused for the rate limit, it comes again when it was told to."""
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
    """One export from the connection to the file."""

    async def asked(method: str, url: str, body: Any = None) -> Response:
        return await _asked(transport, token, method, url, body)

    new = {"iModelId": imodel_id, "displayName": "by hand", "authenticationType": "Service"}
    made = await asked("POST", f"{API}/export/connections", new)
    connection_id = json.loads(made.body)["connection"]["id"]
    runs = f"{API}/export/connections/{connection_id}/runs"
    started = await asked("POST", runs, {"exportType": "IFC"})
    while True:
        run = json.loads((await asked("GET", started.headers["Location"])).body)["run"]
        if run["state"] == "Completed":
            break
        await asyncio.sleep(EVERY)
    file_id = run["jobs"][0]["tasks"][0]["exportOutputFileId"]
    found = await asked("GET", f"{API}/storage/files/{file_id}/download")
    path = folder / f"{imodel_id}.ifc"
    async with transport.stream(Request(method="GET", url=found.headers["Location"])) as answer:
        path.write_bytes(b"".join([piece async for piece in answer.chunks]))
    return path


async def export_all(
    transport: Transport, token: str, imodel_ids: list[str], folder: Path
) -> list[Path]:
    """The files, once all are there."""
    exports = (_export(transport, token, imodel_id, folder) for imodel_id in imodel_ids)
    return await asyncio.gather(*exports)
