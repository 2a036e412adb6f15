"""What it costs to follow many runs at once: memory for each, CPU, and the lag of the loop.

The runs are those of a server in another process, which always says that they go on.

    python -m benchmarks.following
"""

import asyncio
import gc
import json
import multiprocessing
import statistics
import time
import tracemalloc
from multiprocessing.connection import Connection

from aiohttp import web

from itwin_export_async import ExportClient, RateLimit

NUMBERS = (100, 1_000, 10_000)
SECONDS = 20.0
SETTLED = 35.0  # seconds until a run has been looked at three times


def serve(port: Connection) -> None:
    """Say of every run that it began just now and goes on."""

    async def answer(request: web.Request) -> web.Response:
        task = {"id": "t1", "state": "Executing", "result": "Undetermined", "retryAttempts": 0}
        job = {"id": "j1", "state": "Executing", "result": "Undetermined", "tasks": [task]}
        run = {"id": request.path.rpartition("/")[2], "state": "Executing", "jobs": [job]}
        return web.json_response({"run": run, "runs": []})

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


async def lags(seconds: float) -> list[float]:
    """By how much a task that sleeps 10 ms at a time is late, in milliseconds."""
    late, end = [], time.perf_counter() + seconds
    while (before := time.perf_counter()) < end:
        await asyncio.sleep(0.01)
        late.append((time.perf_counter() - before - 0.01) * 1e3)
    return late


async def measure(url: str, number: int, *, memory: bool) -> dict[str, float]:
    """Follow so many runs, and say what that takes: memory after some looks at each, not one."""
    async with ExportClient("token", base_url=url, rate_limit=RateLimit()) as client:
        await client.get_run("c", "warm")
        gc.collect()
        if memory:
            tracemalloc.start()
        waits = [asyncio.create_task(client.run("c", f"r{n}").wait()) for n in range(number)]
        await asyncio.sleep((SETTLED if memory else 5.0) + number / 400)
        used = 0
        if memory:
            gc.collect()
            used = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
        cpu = time.process_time()
        late = sorted(await lags(0.1 if memory else SECONDS))
        cpu = time.process_time() - cpu
        for wait in waits:
            wait.cancel()
        await asyncio.wait(waits)
    return {
        "runs": number,
        "KiB": used / number / 1024,
        "cpu": cpu / SECONDS,
        "p50": statistics.median(late),
        "p99": late[int(len(late) * 0.99)],
    }


def main() -> None:
    """Start the server, measure, stop it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ours.recv()}"
    print("  runs   KiB each   CPU s/s   lag p50 ms   lag p99 ms")
    try:
        for number in NUMBERS:
            memory = asyncio.run(measure(url, number, memory=True))
            speed = asyncio.run(measure(url, number, memory=False))
            print(
                f"{number:6d} {memory['KiB']:10.1f} {speed['cpu']:9.2f}"
                f" {speed['p50']:12.2f} {speed['p99']:12.2f}"
            )
            print(json.dumps({**speed, "KiB": memory["KiB"]}))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
