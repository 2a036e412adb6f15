"""Posts the webhook events of a served emulator to their receivers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import aiohttp

from itwin_export_async.emulator._state.webhooks import WebhookDelivery

_INTERVAL = 0.1  # seconds
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_ATTEMPTS = 3


@asynccontextmanager
async def posting_webhooks(
    take_deliveries: Callable[[], Iterable[WebhookDelivery]],
) -> AsyncIterator[None]:
    """Post webhook events while the block is active."""
    task = asyncio.create_task(_post_webhooks(take_deliveries))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _post_webhooks(take_deliveries: Callable[[], Iterable[WebhookDelivery]]) -> None:
    async with (
        aiohttp.ClientSession(timeout=_TIMEOUT) as session,
        asyncio.TaskGroup() as tasks,
    ):
        while True:
            for delivery in take_deliveries():
                tasks.create_task(_post(session, delivery))
            await asyncio.sleep(_INTERVAL)


async def _post(session: aiohttp.ClientSession, delivery: WebhookDelivery) -> None:
    """Post one event until the receiver answers 200."""
    for attempt in range(_ATTEMPTS):
        try:
            async with session.post(
                delivery.url, data=delivery.body, headers=delivery.headers, allow_redirects=False
            ) as answer:
                if answer.status == 200:
                    return
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(_INTERVAL * 2**attempt)
