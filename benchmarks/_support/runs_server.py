"""A server of runs: equal answers for all that poll."""

import asyncio
import json
import ssl
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from aiohttp import web

SAMPLE = Path(__file__).parents[2] / "tests/examples/export.get_run.200.json"
BARE, OURS = "aiohttp", "client.get_run"
TASKS = "tasks-"  # a run of this name with a number has as many tasks


@lru_cache
def run_with_tasks(tasks: int) -> bytes:
    """The response with the run of the service's manual, but with so many tasks."""
    body: dict[str, Any] = json.loads(SAMPLE.read_bytes())
    (job,) = body["run"]["jobs"]
    (task,) = job["tasks"]
    job["tasks"] = [{**task, "id": f"task {number}"} for number in range(tasks)]
    return json.dumps(body).encode()


def active_run(run_id: str) -> bytes:
    """The response with a run whose only task is executing."""
    active = {"state": "Executing", "result": "Undetermined"}
    task = {"id": "t1", **active, "retryAttempts": 0}
    job = {"id": "j1", **active, "tasks": [task]}
    return json.dumps({"run": {"id": run_id, **active, "jobs": [job]}}).encode()


def serve_runs(ours: Connection, certificate: tuple[str, str] | None = None) -> None:
    """Serve any run, the number of polls, and no earlier runs, until ended. Sends the base URL.

    `certificate`: the files of a certificate and its key, for https.
    """
    polls = 0
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)

    async def run(request: web.Request) -> web.Response:
        nonlocal polls
        polls += 1
        run_id = request.match_info["run_id"]
        tasks = run_id.removeprefix(TASKS)
        body = active_run(run_id) if tasks == run_id else run_with_tasks(int(tasks))
        return web.Response(body=body, content_type="application/json")

    async def runs(_: web.Request) -> web.Response:
        return web.json_response({"runs": []})

    async def count(_: web.Request) -> web.Response:
        return web.json_response(polls)

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/export/connections/{connection_id}/runs/{run_id}", run)
        app.router.add_get("/export/connections/{connection_id}/runs", runs)
        app.router.add_get("/polls", count)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024, ssl_context=tls).start()
        scheme = "http" if tls is None else "https"
        ours.send(f"{scheme}://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(main())


def count_polls(base_url: str) -> int:
    """How many polls the server has had."""
    with urlopen(f"{base_url}/polls", timeout=30) as response:
        return int(response.read())


def path_of(run_id: str) -> str:
    """The path of a run."""
    return f"/export/connections/c1/runs/{run_id}"
