"""The module of a worker: `python -m taskiq worker tests.support.taskiq_worker:broker`."""

import os

from taskiq import AsyncBroker
from taskiq.serializers import JSONSerializer
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from itwin_export_async import ExportClient, FixedSchedule
from itwin_export_async.taskiq import register


def broker_at(url: str, again: str) -> AsyncBroker:
    """The broker of workers and senders. `again`: its idle timeout in milliseconds."""
    broker = RedisStreamBroker(
        url,
        xread_count=1,
        xread_block=500,
        idle_timeout=int(again),
        unacknowledged_lock_timeout=5.0,
    )
    return broker.with_result_backend(RedisAsyncResultBackend(url, serializer=JSONSerializer()))


def client() -> ExportClient:
    return ExportClient.from_env(schedule=FixedSchedule(0.2))


def broker() -> AsyncBroker:
    """The broker of a worker, with its tasks."""
    broker = broker_at(os.environ["REDIS_URL"], os.environ["IDLE_TIMEOUT"])
    register(broker, client=client)
    return broker
