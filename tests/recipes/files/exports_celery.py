import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any

from celery import Celery, Task
from celery.signals import worker_process_init, worker_process_shutdown
from export_job import export
from redis_store import RedisRunStore

from itwin_export_async import ExportClient, ExportError

URL = os.environ["CELERY_URL"]  # such as redis://localhost
app = Celery("exports_celery", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,  # a worker that died leaves its task to another
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"visibility_timeout": 24 * 3600},  # longer than any export
)


class Exports:
    """One event loop in a thread of each worker process, with one client."""

    def start(self, **_: Any) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.client = self.run(ExportClient.from_env().open())
        self.store = RedisRunStore(os.environ["REDIS_URL"])

    def stop(self, **_: Any) -> None:
        self.run(self.client.aclose())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


exports = Exports()
worker_process_init.connect(exports.start)
worker_process_shutdown.connect(exports.stop)


@app.task(bind=True)
def export_imodel(task: Task, imodel_id: str, path: str) -> list[str]:
    try:
        return exports.run(export(exports.client, exports.store, task.request.id, imodel_id, path))
    except ExportError as error:
        if error.is_transient:  # the task keeps its id, and with it its run
            raise task.retry(exc=error, countdown=60, max_retries=15) from error
        raise
