"""The module of a worker with two tenants: `taskiq worker tests.support.tenants_worker:broker`."""

import os
from functools import partial

from taskiq import AsyncBroker

from itwin_export_async import ExportClient, FixedSchedule
from itwin_export_async.taskiq import ExportTasks, register
from tests.support.taskiq_worker import broker_at

TENANTS = ("NORTH", "SOUTH")


def open_client(tenant: str) -> ExportClient:
    """The client of a tenant, at its own service and with its own token."""
    token, url = os.environ[f"{tenant}_TOKEN"], os.environ[f"{tenant}_URL"]
    return ExportClient(token, base_url=url, schedule=FixedSchedule(0.2))


def register_all(broker: AsyncBroker) -> dict[str, ExportTasks]:
    return {
        tenant: register(broker, name=tenant, client=partial(open_client, tenant))
        for tenant in TENANTS
    }


def broker() -> AsyncBroker:
    """The broker of a worker, with its tasks."""
    broker = broker_at(os.environ["REDIS_URL"], os.environ["IDLE_TIMEOUT"])
    register_all(broker)
    return broker
