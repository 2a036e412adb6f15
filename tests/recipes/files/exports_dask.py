import os
import sys
from contextlib import AsyncExitStack

from distributed import Client, Worker, WorkerPlugin, get_worker
from export_job import export
from sqlite_store import SqliteRunStore

from itwin_export_async import ExportClient


class Exports(WorkerPlugin):
    """One client for each worker, which opens it with the environment that it has itself."""

    name = "exports"

    async def setup(self, worker: Worker) -> None:
        self.opened = AsyncExitStack()
        self.client = await self.opened.enter_async_context(ExportClient.from_env())
        self.store = SqliteRunStore(os.environ["STARTS_DB"])

    async def teardown(self, worker: Worker) -> None:
        await self.opened.aclose()


async def export_imodel(job_id: str, imodel_id: str, path: str) -> list[str]:
    exports = get_worker().plugins["exports"]
    return await export(exports.client, exports.store, job_id, imodel_id, path)


def main(night: str, imodel_ids: list[str]) -> None:
    with Client() as dask:  # of DASK_SCHEDULER_ADDRESS; without it, workers start here
        dask.register_plugin(Exports())
        jobs = [f"{night}/{imodel_id}" for imodel_id in imodel_ids]
        paths = [f"exports/{imodel_id}.ifc" for imodel_id in imodel_ids]
        for files in dask.gather(dask.map(export_imodel, jobs, imodel_ids, paths, retries=2)):
            print(*files)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
