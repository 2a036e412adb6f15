"""The start of a task's run, which happens once, however often the task is delivered.

The notes of `start_once` are in the result backend, as the progress of tasks of their own names. An
outage before the run is waited out, as `RunHandle.wait` waits out one during the run.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from attrs import frozen
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.depends.progress_tracker import TaskProgress

from itwin_export_async import (
    AuthenticationType,
    AuthorizationRequired,
    Conflict,
    DownloadError,
    ExportClient,
    ExportError,
    RunError,
    RunHandle,
    StartTimeout,
)
from itwin_export_async.taskiq._arguments import ExportArguments

log = logging.getLogger("itwin_export_async.taskiq")

T = TypeVar("T")

REDIRECT_URL = "https://developer.bentley.com/"
OUTAGE_INTERVAL = 5.0  # seconds between two attempts during an outage


@frozen
class ProgressStore:
    """A `RunStore` in a result backend."""

    backend: AsyncResultBackend[Any]

    async def get(self, key: str) -> str | None:
        """Return the value of a key, None if it has none."""
        progress = await self.backend.get_progress(key)
        return None if progress is None else (progress.meta or {}).get("value")

    async def set(self, key: str, value: str) -> None:
        """Store a value."""
        await self.backend.set_progress(key, TaskProgress(state="noted", meta={"value": value}))


@frozen(kw_only=True)
class TaskStart:
    """The start of the run of one task. `key` identifies the task among all of the backend."""

    client: ExportClient
    store: ProgressStore
    key: str
    arguments: ExportArguments
    max_outage: float

    async def run(self) -> RunHandle:
        """The handle of the run: started, recovered or joined, or resumed from its note."""
        return await outlast(self._start, self.max_outage, f"iModel {self._imodel_id}")

    async def _start(self) -> RunHandle:
        client, arguments = self.client, self.arguments
        connection = await client.find_or_create_connection(
            self._imodel_id,
            display_name=arguments.request.connection_name,
            authentication_type=arguments.authentication_type,
        )
        if connection.authentication_type == AuthenticationType.USER:
            consent = await client.get_authorization(REDIRECT_URL)
            if not consent.is_user_authorized:
                raise AuthorizationRequired(url=consent.authorization_url)
        return await client.start_once(
            self.key,
            connection.id,
            arguments.request.options,
            store=self.store,
            if_active=arguments.if_active,
        )

    @property
    def _imodel_id(self) -> str:
        return self.arguments.request.imodel_id


async def outlast(step: Callable[[], Awaitable[T]], max_outage: float, what: str) -> T:
    """The result of the step, tried again through an outage of at most `max_outage` seconds."""
    now = asyncio.get_running_loop().time
    began_at: float | None = None
    while True:
        try:
            result = await step()
        except ExportError as error:
            is_first, began_at = began_at is None, now() if began_at is None else began_at
            if not is_outage(error) or now() - began_at > max_outage:
                raise
            if is_first:
                log.warning("outage: %s waits until the service answers: %s", what, error)
            await asyncio.sleep(max(OUTAGE_INTERVAL, getattr(error, "retry_after", None) or 0.0))
        else:
            if began_at is not None:
                log.info("outage over after %.0f s: %s continues", now() - began_at, what)
            return result


def is_outage(error: ExportError) -> bool:
    """Whether the service, or the way to it, is out of order, so that waiting may help."""
    if isinstance(error, Conflict | RunError | StartTimeout):
        return False
    if isinstance(error, DownloadError) and error.reason == "not_available":
        return False  # the file has been waited for
    return error.is_transient
