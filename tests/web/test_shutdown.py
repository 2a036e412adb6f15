"""Servers in processes of their own, which are stopped while streams are open."""

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.processes import until
from tests.support.service import Service
from tests.web.conftest import AFTER_RUN
from tests.web.events import events_of, next_event
from tests.web.processes import SERVERS, running, start

pytestmark = pytest.mark.usefixtures("integration")

STREAMS, EXIT_SECONDS = 20, 3.0


@pytest.mark.parametrize("name", SERVERS)
async def test_server_that_is_stopped_ends_its_streams_and_its_lifespan(
    name: str, service: Service, tmp_path: Path
) -> None:
    async with running(SERVERS[name], service, tmp_path) as server, server.visitor() as visitor:
        started = await start(visitor, service)
        streams = [await visitor.get(started["events_url"]) for _ in range(STREAMS)]
        await asyncio.gather(*map(next_event, streams))
        stopped_at = time.monotonic()
        server.process.terminate()
        rests = await asyncio.gather(*(stream.text() for stream in streams))
        await server.process.wait()
        seconds = time.monotonic() - stopped_at
        output, log = server.output.read_text(), Counter(server.log.read_text().split())
    assert "Traceback" not in output
    assert not [rest for rest in rests if "event: end" in rest]
    assert log["begin"] == log["end"] > 0, output
    assert seconds < EXIT_SECONDS, output


async def test_id_of_one_worker_is_good_for_another(service: Service, tmp_path: Path) -> None:
    command = SERVERS["uvicorn, 2 workers"]
    async with running(command, service, tmp_path) as server:
        await until(lambda: server.log.read_text().count("begin") == 2)
        async with server.visitor() as visitor:
            started = await start(visitor, service)
        for _ in range(10):  # each with a connection of its own, which any worker may accept
            async with server.visitor() as visitor:
                async with visitor.get(started["status_url"]) as response:
                    assert (response.status, (await response.json())["is_final"]) == (200, False)
        async with server.visitor() as visitor:
            async with visitor.get(started["events_url"]) as stream:
                await next_event(stream)
                service.advance(AFTER_RUN)
                *_, end = [event async for event in events_of(stream)]
            assert end.data["outcome"] == "Success"
            async with visitor.get(started["file_url"]) as response:
                assert (await response.read()).startswith(b"ISO-10303-21;")
