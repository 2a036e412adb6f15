"""The start of a task's run, which happens once, however often the task is delivered.

The notes of `start_once` are in the result backend, as the progress of tasks of their own names.
"""

from typing import Any

from attrs import frozen
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.depends.progress_tracker import TaskProgress

from itwin_export_async import (
    AuthenticationType,
    AuthorizationRequired,
    ExportClient,
    ExportRequest,
    RunHandle,
)

REDIRECT_URL = "https://developer.bentley.com/"


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


async def start_once(
    client: ExportClient,
    store: ProgressStore,
    request: ExportRequest,
    *,
    if_active: Any,
    authentication_type: str | None,
) -> RunHandle:
    """The run of a task, whose id is the request's key."""
    connection = await client.find_or_create_connection(
        request.imodel_id,
        display_name=request.connection_name,
        authentication_type=authentication_type,
    )
    if connection.authentication_type == AuthenticationType.USER:
        consent = await client.get_authorization(REDIRECT_URL)
        if not consent.is_user_authorized:
            raise AuthorizationRequired(url=consent.authorization_url)
    return await client.start_once(
        request.identity, connection.id, request.options, store=store, if_active=if_active
    )
