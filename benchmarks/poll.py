"""What a poll costs in CPU: `client.get_run` against a bare aiohttp GET and `json.loads`.

Both ask the same server, in another process, for the same answer, in turns of a few hundred.

    python -m benchmarks.poll
"""

import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
from aiohttp import web

from itwin_export_async import ExportClient

ANSWER = Path(__file__).parents[1] / "tests/examples/export.get_run.200.json"
TURNS, POLLS = 30, 200


def serve(port: Connection) -> None:
    """Answer every request with the sample run."""
    body = ANSWER.read_bytes()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


async def cpu(poll: Callable[[], Awaitable[object]]) -> float:
    """Microseconds of CPU for one poll."""
    start = time.process_time()
    for _ in range(POLLS):
        await poll()
    return (time.process_time() - start) / POLLS * 1e6


async def measure(url: str) -> None:
    """Take turns, and print the medians and their ratio."""
    path = f"{url}/export/connections/c1/runs/r1"
    async with ExportClient("token", base_url=url) as client, aiohttp.ClientSession() as http:

        async def bare() -> object:
            async with http.get(path, headers={"Authorization": "Bearer token"}) as response:
                return json.loads(await response.read())

        async def ours() -> object:
            return await client.get_run("c1", "r1")

        turns = [(await cpu(bare), await cpu(ours)) for _ in range(TURNS + 1)][1:]
    print(f"bare aiohttp and json.loads  {statistics.median(t[0] for t in turns):7.1f} us")
    print(f"client.get_run               {statistics.median(t[1] for t in turns):7.1f} us")
    print(f"ratio                        {statistics.median(t[1] / t[0] for t in turns):7.2f}")


def main() -> None:
    """Start the server, measure, stop it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        asyncio.run(measure(f"http://127.0.0.1:{ours.recv()}"))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
