"""Two tenants on the workers of one queue, one of which is killed and one stopped."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from itwin_export_async.emulator import Emulator, ServerAddress
from tests.support.batches import started
from tests.support.processes import kill, until
from tests.support.redises import RedisServer
from tests.support.taskiq_worker import broker_at
from tests.support.tenants_worker import TENANTS, register_all

EXPORTS = 8  # of each tenant
AGAIN = 3000  # milliseconds after which an unacknowledged message is delivered again

Start = Callable[[], Awaitable[asyncio.subprocess.Process]]


@asynccontextmanager
async def workers(environment: dict[str, str]) -> AsyncIterator[Start]:
    """A function that starts a worker process in a session of its own."""
    processes: list[asyncio.subprocess.Process] = []
    # coverage imports asyncio twice into a process that it starts with: two kinds of CancelledError
    unmeasured = {name: os.environ[name] for name in os.environ if "COVERAGE" not in name}

    async def start() -> asyncio.subprocess.Process:
        words = ("worker", "tests.support.tenants_worker:broker", "-w", "1")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "taskiq", *words),
            *("--max-async-tasks", "8", "--log-level", "ERROR"),
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


def service(tenant: str, emulator: Emulator, served: ServerAddress) -> dict[str, str]:
    return {f"{tenant}_TOKEN": emulator.token(), f"{tenant}_URL": served.base_url}


@pytest.mark.usefixtures("integration", "slow")
async def test_each_tenant_gets_its_exports_once_although_workers_die(tmp_path: Path) -> None:
    emulators = {name: Emulator(seed=n, run_seconds=(2, 5)) for n, name in enumerate(TENANTS)}
    for emulator in emulators.values():
        emulator.forbid_repeat_runs = True
    north, south = emulators.values()
    async with RedisServer() as redis, north.serve() as first, south.serve() as second:
        environment = {"REDIS_URL": redis.url, "IDLE_TIMEOUT": str(AGAIN)}
        environment |= service("NORTH", north, first) | service("SOUTH", south, second)
        broker = broker_at(redis.url, str(AGAIN))
        await broker.startup()
        tasks = register_all(broker)
        async with workers(environment) as start:
            killed, stopped, _ = [await start() for _ in range(3)]
            sent = {
                f"{name}/{n}.ifc": await tasks[name].export_imodel.kiq(
                    emulator.add_imodel(f"{name} {n}"),
                    f"{tmp_path}/{name}/{n}.ifc",
                    task_id=f"{name}-{n}",
                )
                for name, emulator in emulators.items()
                for n in range(EXPORTS)
            }
            await until(lambda: started(north) + started(south) >= EXPORTS)
            kill(killed)
            await until(lambda: started(north) + started(south) >= EXPORTS + 2)
            stopped.terminate()
            async with asyncio.timeout(90):
                results = await asyncio.gather(
                    *(task.wait_result(timeout=90, check_interval=0.2) for task in sent.values())
                )
                await stopped.wait()
        await broker.shutdown()
    for path, result in zip(sent, results, strict=True):
        assert result.raise_for_error().return_value["paths"] == [f"{tmp_path}/{path}"]
        assert (tmp_path / path).read_bytes().startswith(b"ISO-10303-21;")
    for emulator in emulators.values():
        assert started(emulator) == EXPORTS
        assert not [record for record in emulator.requests if record.status == 401]
        emulator.assert_no_violations()
