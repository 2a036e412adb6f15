"""Exports as jobs of queues, with real workers of which one dies."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from itwin_export_async import ExportClient, MemoryRunStore, RunFailed
from itwin_export_async.emulator import Emulator
from tests.recipes.conftest import output_of, processes_with
from tests.support.batches import started
from tests.support.processes import kill, until
from tests.support.redises import RedisServer


async def check_store(store: Any) -> None:
    assert await store.get("k") is None
    await store.set("k", "first")
    await store.set("k", "second")
    await store.set("other", "x")
    assert await store.get("k") == "second"


@pytest.mark.usefixtures("integration")  # threads take real time
async def test_the_sqlite_store_keeps_values_for_other_processes(recipes: Path) -> None:
    module = import_module("sqlite_store")
    await check_store(module.SqliteRunStore(f"{recipes}/starts.db"))
    assert await module.SqliteRunStore(f"{recipes}/starts.db").get("k") == "second"


@pytest.mark.usefixtures("integration")
async def test_the_redis_store_keeps_values_for_other_processes(recipes: Path) -> None:
    module = import_module("redis_store")
    async with RedisServer() as redis:
        store = module.RedisRunStore(redis.url)
        await check_store(store)
        await store.redis.aclose()
        assert await redis.do("GET", "k") == b"second"
        assert await redis.do("TTL", "k") > 24 * 3600


@pytest.mark.usefixtures("integration")
async def test_a_job_of_any_queue_that_is_delivered_again_starts_nothing_twice(
    recipes: Path,
) -> None:
    emulator = Emulator(seed=1, run_seconds=0.5)
    store = import_module("sqlite_store").SqliteRunStore(f"{recipes}/starts.db")
    export = import_module("export_job").export
    arguments = ("job-1", emulator.add_imodel("Bridge"), f"{recipes}/out/Bridge.ifc")
    for _ in range(2):  # each time by another worker
        async with ExportClient(emulator.token(), transport=emulator) as client:
            assert await export(client, store, *arguments) == [f"{recipes}/out/Bridge.ifc"]
    assert started(emulator) == 1


@pytest.mark.usefixtures("integration")
async def test_the_work_of_a_dead_dask_worker_is_done_by_another(folder: Path) -> None:
    pytest.importorskip("distributed")
    emulator = Emulator(seed=1, run_seconds=(1.0, 2.0))
    imodel_ids = [emulator.add_imodel(f"{n}") for n in range(6)]
    note = folder / "scheduler.json"  # it is there once the scheduler listens
    async with processes_with(emulator, folder) as processes:
        quiet = ("--dashboard-address", "127.0.0.1:0")
        place = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", f"{note}")
        await processes.start("-m", "dask", "scheduler", *place, *quiet)
        await until(lambda: note.exists() and note.read_text().endswith("}"))
        address = json.loads(note.read_text())["address"]
        processes.environment["DASK_SCHEDULER_ADDRESS"] = address
        worker = ("-m", "dask", "worker", address, "--no-nanny", "--nthreads", "10", *quiet)
        first = await processes.start(*worker)
        sender = await processes.start("exports_dask.py", "monday", *imodel_ids)
        await until(lambda: emulator.count("get_run") >= 6)
        kill(first)
        await processes.until_all_runs_have_finished()
        await processes.start(*worker)
        lines = await output_of(sender)
    paths = [f"exports/{imodel_id}.ifc" for imodel_id in imodel_ids]
    assert lines == paths
    for path in paths:
        assert (folder / path).read_bytes().startswith(b"ISO-10303-21;")
    assert started(emulator) == 6
    assert not emulator.violations


@pytest.mark.usefixtures("integration", "slow")
async def test_the_dask_recipe_needs_no_scheduler(folder: Path) -> None:
    pytest.importorskip("distributed")
    emulator = Emulator(seed=1, run_seconds=0.5)
    imodel_ids = [emulator.add_imodel("Bridge") for _ in range(3)]
    async with processes_with(emulator, folder) as processes:
        sender = await processes.start("exports_dask.py", "monday", *imodel_ids)
        lines = await output_of(sender)
    assert lines == [f"exports/{imodel_id}.ifc" for imodel_id in imodel_ids]
    assert started(emulator) == 3


SEND_TO_CELERY = """
import json, sys
from exports_celery import export_imodel
sent = [export_imodel.delay(i, f"exports/{i}.ifc") for i in sys.argv[1:]]
print(json.dumps([task.get(timeout=60) for task in sent]))
"""


@pytest.mark.usefixtures("integration")
async def test_the_work_of_a_dead_celery_worker_is_done_by_another(folder: Path) -> None:
    pytest.importorskip("celery")
    recipe = folder / "exports_celery.py"
    soon = '2, "unacked_restore_interval": 0.5, "unacked_restore_throttle": 1'
    recipe.write_text(recipe.read_text().replace("24 * 3600", soon))  # delivered again
    emulator = Emulator(seed=1, run_seconds=1.0)
    imodel_ids = [emulator.add_imodel(f"{n}") for n in range(3)]
    async with RedisServer() as redis, processes_with(emulator, folder) as processes:
        processes.environment["REDIS_URL"] = redis.url
        processes.environment["CELERY_URL"] = redis.url.replace("unix:", "redis+socket:")
        worker = ("-m", "celery", "-A", "exports_celery", "worker", "--concurrency", "3")
        first = await processes.start(*worker, "--without-gossip", "-n", "first")
        sender = await processes.start("-c", SEND_TO_CELERY, *imodel_ids)
        await until(lambda: started(emulator) >= 2)
        kill(first)
        await processes.start(*worker, "--without-gossip", "-n", "second")
        (line,) = await output_of(sender)
    paths = [[f"exports/{imodel_id}.ifc"] for imodel_id in imodel_ids]
    assert json.loads(line) == paths
    for (path,) in paths:
        assert (folder / path).read_bytes().startswith(b"ISO-10303-21;")
    assert started(emulator) == 3


async def test_a_temporal_activity_heartbeats_and_starts_once(
    recipes: Path, emulator: Emulator
) -> None:
    """Without a Temporal server: its test server is a program that is fetched from the network."""
    testing = pytest.importorskip("temporalio.testing")
    module = import_module("exports_temporal")
    store, imodel_id = MemoryRunStore(), emulator.add_imodel("Bridge")
    async with ExportClient(emulator.token(lifetime=1e6), transport=emulator) as client:
        for attempt in range(2):
            beats: list[Any] = []
            environment = testing.ActivityEnvironment()
            environment.on_heartbeat = beats.append
            exports = module.Exports(client, store)
            paths = await environment.run(
                exports.export_imodel, imodel_id, f"{recipes}/out/Bridge.ifc"
            )
            assert paths == [f"{recipes}/out/Bridge.ifc"]
            assert beats[-1] == "Completed"
            assert (len(beats) > 1) == (attempt == 0)
        failing = emulator.add_imodel()
        emulator.plan_next_run(failing, "Error")
        environment = testing.ActivityEnvironment()
        with pytest.raises(RunFailed):
            await environment.run(
                module.Exports(client, MemoryRunStore()).export_imodel, failing, "out/"
            )
    assert started(emulator) == 2
