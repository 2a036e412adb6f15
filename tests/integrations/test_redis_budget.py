"""One rate limit for all workers of a queue, of which one is killed and one terminated."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from itwin_export_async.emulator import Emulator
from itwin_export_async.taskiq import register
from tests.support.batches import started
from tests.support.budget_worker import SPEED, WORKERS
from tests.support.processes import kill, until
from tests.support.redises import RedisServer
from tests.support.taskiq_worker import broker_at

EXPORTS = 80
AGAIN = 6.0  # seconds after which an unacknowledged message is delivered again

Start = Callable[[], Awaitable[asyncio.subprocess.Process]]


@asynccontextmanager
async def workers(redis: str, emulator: Emulator, api: str) -> AsyncIterator[Start]:
    """A function that starts a worker process in a session of its own."""
    processes: list[asyncio.subprocess.Process] = []
    # coverage imports asyncio twice into a process that it starts with: two kinds of CancelledError
    unmeasured = {name: os.environ[name] for name in os.environ if "COVERAGE" not in name}
    environment = {
        "ITWIN_ACCESS_TOKEN": emulator.token(),
        "ITP_API_URL": api,
        "REDIS_URL": redis,
        "IDLE_TIMEOUT": str(round(AGAIN * 1000)),
    }

    async def start() -> asyncio.subprocess.Process:
        words = (
            "worker",
            "tests.support.budget_worker:broker",
            "-w",
            "1",
            "--max-async-tasks",
            "30",
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "taskiq", *words, "--log-level", "ERROR"),
            cwd=Path(__file__).parents[2],
            env={**unmeasured, **environment},
            start_new_session=True,
        )
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            kill(process)
            await process.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("integration")
async def test_three_workers_of_which_two_die_keep_one_budget(tmp_path: Path) -> None:
    emulator = Emulator(
        seed=1,
        run_seconds=(20.0, 40.0),
        speed=SPEED,
        tier={60.0 / SPEED: 500, 3600.0 / SPEED: 5000},
    )
    emulator.forbid_repeat_runs = True
    async with (
        RedisServer() as redis,
        emulator.serve() as served,
        workers(redis.url, emulator, served.base_url) as start,
    ):
        broker = broker_at(redis.url, str(round(AGAIN * 1000)))
        await broker.startup()
        exports = register(broker).export_imodel
        first, second, _ = [await start() for _ in range(WORKERS)]
        sent = [
            await exports.kiq(emulator.add_imodel(f"{n}"), f"{tmp_path}/{n}.ifc")
            for n in range(EXPORTS)
        ]
        await until(lambda: started(emulator) >= EXPORTS // 4)
        kill(first)
        await until(lambda: started(emulator) >= EXPORTS // 2)
        second.terminate()
        async with asyncio.timeout(120):
            results = await asyncio.gather(
                *(task.wait_result(timeout=120, check_interval=0.2) for task in sent)
            )
            await second.wait()
        await broker.shutdown()
    for n, result in enumerate(results):
        assert result.raise_for_error().return_value["paths"] == [f"{tmp_path}/{n}.ifc"]
        assert (tmp_path / f"{n}.ifc").read_bytes().startswith(b"ISO-10303-21;")
    assert len({result.return_value["run_id"] for result in results}) == EXPORTS
    assert started(emulator) == EXPORTS
    assert len(emulator.requests) > 500  # more than one window holds
    assert not [record for record in emulator.requests if record.status == 429]
    emulator.assert_no_violations()
