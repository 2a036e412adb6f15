"""A server of runs, always the same ones, for all who poll."""

import asyncio
import json
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import web

SAMPLE = Path(__file__).parents[2] / "tests/examples/export.get_run.200.json"
TASKS = "tasks-"  # a run of this name with a number has as many tasks


@lru_cache
def run_with(tasks: int) -> bytes:
    """The answer that shows the run of the service's manual, but with so many tasks."""
    answer: dict[str, Any] = json.loads(SAMPLE.read_bytes())
    (job,) = answer["run"]["jobs"]
    (task,) = job["tasks"]
    job["tasks"] = [{**task, "id": f"task {number}"} for number in range(tasks)]
    return json.dumps(answer).encode()


def run_that_goes_on(run_id: str) -> bytes:
    """The answer that shows a run with one task under way."""
    active = {"state": "Executing", "result": "Undetermined"}
    task = {"id": "t1", **active, "retryAttempts": 0}
    job = {"id": "j1", **active, "tasks": [task]}
    return json.dumps({"run": {"id": run_id, **active, "jobs": [job]}}).encode()


def tell_runs(ours: Connection) -> None:
    """Serve until ended: any run, how many polls there were, and no earlier runs."""
    polls = 0

    async def run(request: web.Request) -> web.Response:
        nonlocal polls
        polls += 1
        run_id = request.match_info["run_id"]
        tasks = run_id.removeprefix(TASKS)
        body = run_that_goes_on(run_id) if tasks == run_id else run_with(int(tasks))
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
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        ours.send(f"http://127.0.0.1:{runner.addresses[0][1]}")
        await asyncio.Event().wait()

    asyncio.run(main())


def path_of(run_id: str) -> str:
    """Where a run is."""
    return f"/export/connections/c1/runs/{run_id}"
