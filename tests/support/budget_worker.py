"""The module of a worker that shares its rate limit: a Community subscription ten times as fast."""

import os

from taskiq import AsyncBroker

from itwin_export_async import ExportClient, FixedSchedule, RateLimit
from itwin_export_async.redis import RedisRateLimit
from itwin_export_async.redis._messages import Timing
from itwin_export_async.taskiq import register
from tests.support.taskiq_worker import broker_at

WORKERS = 3
SPEED = 10
TIMING = Timing(minute=6.01, hour=360.01, heartbeat=0.05, peer_timeout=0.8, call_lease=3.0)


def client() -> ExportClient:
    limit = RedisRateLimit(
        RateLimit.COMMUNITY, os.environ["REDIS_URL"], processes=WORKERS, _timing=TIMING
    )
    return ExportClient.from_env(rate_limit=limit, schedule=FixedSchedule(0.3))


def broker() -> AsyncBroker:
    """The broker of a worker, with its tasks."""
    broker = broker_at(os.environ["REDIS_URL"], os.environ["IDLE_TIMEOUT"])
    register(broker, client=client)
    return broker
