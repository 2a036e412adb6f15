"""A thousand visitors of one run."""

import asyncio
import os
from pathlib import Path

import aiohttp
import pytest

from tests.support.service import Service
from tests.web.conftest import RUN_SECONDS
from tests.web.events import next_event
from tests.web.processes import SERVERS, Server, running, start

VISITORS, KIB = 1000, 1024.0
INTERVAL, SECONDS = 5.0, 30.0


async def usage_of(visitor: aiohttp.ClientSession) -> dict[str, float]:
    async with visitor.get("/usage") as response:
        usage: dict[str, float] = await response.json()
    return usage


def cpu_seconds(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", ["uvicorn", "aiohttp"])
@pytest.mark.usefixtures("integration", "slow", "timing")
async def test_thousand_visitors_of_a_run_cost_the_polls_of_one_and_little_memory(
    name: str, service: Service, tmp_path: Path
) -> None:
    variables = {"WEB_INTERVAL": str(INTERVAL)}
    async with running(SERVERS[name], service, tmp_path, **variables) as server:
        async with server.visitor() as control, server.visitor() as visitor:
            started = await start(control, service)
            async with control.get(started["events_url"]) as stream:  # warm
                await next_event(stream)
            await asyncio.sleep(2)
            before = await usage_of(control)
            streams = []
            for _ in range(VISITORS):
                streams.append(await visitor.get(started["events_url"]))
                await next_event(streams[-1])
            during = await usage_of(control)
            polls, cpu = service.emulator.count("get_run"), cpu_seconds(server)
            await asyncio.sleep(SECONDS)
            polls, cpu = service.emulator.count("get_run") - polls, cpu_seconds(server) - cpu
            memory = (during["memory"] - before["memory"]) / VISITORS / KIB
            for stream in streams:
                stream.close()
            await asyncio.sleep(2)
            left = await usage_of(control)
            async with control.get("/api/v1/exports/health") as response:
                health = await response.json()
    print(f"{name}: {memory:.1f} KiB a visitor, {100 * cpu / SECONDS:.1f} % CPU, {polls} polls")
    assert memory <= 40
    assert polls <= SECONDS / INTERVAL + 2
    assert health["runs_polled"] == 0
    assert left["tasks"] <= before["tasks"]
    assert RUN_SECONDS > SECONDS
    assert cpu / SECONDS < 0.03  # with other tests beside it
