"""`RedisRateLimit`: calls a second, and the latency it adds to a call.

One client sends requests that a transport in the same process answers at once, with the limit kept
in the process and kept in Redis, over a unix socket. The limit is never reached. Latency is that of
one call after another, and calls a second those of 50 at once. Skipped without `redis-server`.
"""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, frozen

from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.report import Report, format_number
from benchmarks._support.runs_server import run_with_tasks
from itwin_export_async import ExportClient, RateLimit
from itwin_export_async.transport import Request, Response, StreamedResponse

IN_PROCESS, IN_REDIS = "RateLimit", "RedisRateLimit"
LIMIT = RateLimit(per_minute=10**6, per_hour=10**7)  # counted, and never reached
AT_ONCE = 50
START_TIMEOUT = 20.0  # seconds


@frozen(kw_only=True)
class Effort:
    """How many rounds there are, and how many calls of a turn."""

    rounds: int
    calls: int


FULL = Effort(rounds=9, calls=500)
QUICK = Effort(rounds=3, calls=100)


@define
class _InstantTransport:
    """A transport that answers every request with a run."""

    async def send(self, request: Request, /) -> Response:
        """Return the run at once."""
        return Response(status=200, body=run_with_tasks(1))

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedResponse]:
        """Nothing is streamed here."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""


def run(effort: Effort) -> Report:
    """Measure both limits, interleaved, beside a Redis server."""
    if shutil.which("redis-server") is None:
        return _report(Samples(), Samples())
    with _redis() as url:
        latencies, throughputs = asyncio.run(_measured(url, effort))
    return _report(latencies, throughputs)


@contextmanager
def _redis() -> Iterator[str]:
    """The URL of a new Redis server, which stores nothing."""
    with TemporaryDirectory(prefix="redis-") as folder:
        socket = Path(folder) / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
        process = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while not socket.exists():
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait()


async def _measured(url: str, effort: Effort) -> tuple[Samples, Samples]:
    """Microseconds of a call, and calls a second."""
    from itwin_export_async.redis import RedisRateLimit

    latencies, throughputs = Samples(), Samples()
    shared = RedisRateLimit(LIMIT, url, processes=1)
    async with (
        ExportClient("token", transport=_InstantTransport(), rate_limit=LIMIT) as in_process,
        ExportClient("token", transport=_InstantTransport(), rate_limit=shared) as in_redis,
    ):
        clients = {IN_PROCESS: in_process, IN_REDIS: in_redis}
        for client in clients.values():
            await _call(client, effort.calls // 5)  # connects, and warms up
        for name in rounds(tuple(clients), effort.rounds):
            start = time.perf_counter()
            await _call(clients[name], effort.calls)
            latencies.add(name, (time.perf_counter() - start) / effort.calls * 1e6)
            start = time.perf_counter()
            each = effort.calls // AT_ONCE
            await asyncio.gather(*(_call(clients[name], each) for _ in range(AT_ONCE)))
            throughputs.add(name, each * AT_ONCE / (time.perf_counter() - start))
    return latencies, throughputs


async def _call(client: ExportClient, times: int) -> None:
    for _ in range(times):
        await client.get_run("c1", "r1")


def _report(latencies: Samples, throughputs: Samples) -> Report:
    names = tuple(latencies.values)
    added = "There is no redis-server here."
    if names:
        difference = latencies.median(IN_REDIS) - latencies.median(IN_PROCESS)
        added = f"Redis adds {format_number(difference)} us to a call."
    return Report(
        name="shared_limit",
        title="A rate limit in the process and in Redis",
        method=__doc__ or "",
        head=("", "us/call", "ratio", "calls/s", "ratio"),
        rows=tuple(
            (
                name,
                format_number(latencies.median(name)),
                str(latencies.ratio(name, IN_PROCESS)),
                format_number(throughputs.median(name)),
                str(throughputs.ratio(name, IN_PROCESS)),
            )
            for name in names
        ),
        bounds=(f"A call in Redis costs no less than its round trip. {added}",),
        values={
            **{f"{name}, us/call": latencies.median(name) for name in names},
            **{f"{name}, calls/s": throughputs.median(name) for name in names},
        },
    )
