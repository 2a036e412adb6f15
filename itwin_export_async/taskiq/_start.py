"""The start of a task's run, which happens once, however often the task is delivered.

Before the request to start a run, the task stores that a run may have been started. A later
delivery that finds this looks for a run of the connection that started since then and belongs to
no other task.
"""

import asyncio
from datetime import datetime

from attrs import evolve, frozen

from itwin_export_async._batch.entries import found, new_entry, starting
from itwin_export_async._batch.pipeline import parse_authentication_type
from itwin_export_async._errors import Conflict, NotFound
from itwin_export_async._http.pager import list_runs
from itwin_export_async._models import ExportRequest, RunOrigin
from itwin_export_async._protocol.runs import Service, started_after
from itwin_export_async._runs.connections import find_or_create
from itwin_export_async._runs.handle import RunHandle
from itwin_export_async._runs.starter import IfActive, start_export
from itwin_export_async.taskiq._worker import Worker

_REST = 2.0  # seconds after the active run has finished: the service may notice it later


@frozen
class Start:
    """The start of one task's run, which an earlier delivery may have made."""

    worker: Worker
    request: ExportRequest  # its key is the task's id
    if_active: IfActive
    authentication_type: str | None

    async def handle(self) -> RunHandle:
        """Start the run, find it again, or join the active one."""
        worker = self.worker
        stored = await worker.read(self._name)
        if "token" in stored:
            return evolve(worker.client.resume(stored["token"]), origin=RunOrigin(stored["origin"]))
        since = datetime.fromisoformat(stored["since"]) if "since" in stored else None
        connection_id = stored.get("connection_id") or await self._connection()
        handle = None if since is None else await self._find(connection_id, since)
        while handle is None:
            handle, since = await self._request_start(connection_id, since), None
        started = {"token": handle.resume_token, "origin": handle.origin.value}
        await worker.write(self._name, "started", started)
        if not handle.joined:
            owner = {"task_id": self.request.identity}
            await worker.write(_run_name(handle.run_id), "started", owner)
        return handle

    async def _connection(self) -> str:
        request, terms = self.request, self.worker.terms
        connection = await find_or_create(
            terms.desk.session,
            request.imodel_id,
            request.connection_name,
            parse_authentication_type(self.authentication_type),
        )
        await terms.consent.require(Service.EXPORT, connection)
        return connection.id

    async def _find(self, connection_id: str, since: datetime) -> RunHandle | None:
        """The run that was started since then for this task, or None."""
        desk = self.worker.terms.desk
        runs = [
            run
            async for run in list_runs(desk.session, Service.EXPORT, connection_id)
            if started_after(run, since) and not await self._has_other_owner(run.id)
        ]
        entry = starting(new_entry(self.request), connection_id, since)
        for _, run in found([entry], runs, ()):
            handle = desk.attach(Service.EXPORT, connection_id, run.id)
            return evolve(handle, origin=RunOrigin.RECOVERED)
        return None

    async def _has_other_owner(self, run_id: str) -> bool:
        owner = await self.worker.read(_run_name(run_id))
        return bool(owner) and owner["task_id"] != self.request.identity

    async def _request_start(self, connection_id: str, since: datetime | None) -> RunHandle | None:
        """Start the run; None after waiting for another run that was active.

        `since`: when an earlier delivery may have started the run, None if there was none.
        """
        worker = self.worker
        connection = {"connection_id": connection_id}
        first = since or await worker.terms.clock.now(connection_id)
        await worker.write(self._name, "starting", {**connection, "since": first.isoformat()})
        try:
            return await start_export(
                worker.terms.desk,
                connection_id,
                self.request.options,
                if_active="raise" if self.if_active == "wait" else self.if_active,
                since=since,
            )
        except Conflict as conflict:
            if conflict.handle is None or self.if_active == "raise":
                raise
            active = conflict.handle
        await worker.write(self._name, "waiting", connection)  # forgets `since`
        try:
            await active.wait(timeout=None, check=False)
        except NotFound as error:  # it was deleted, so it is not active
            if error.is_gateway:
                raise
        await asyncio.sleep(_REST)
        return None

    @property
    def _name(self) -> str:
        return f"itwin_export_async:start:{self.request.identity}"


def _run_name(run_id: str) -> str:
    return f"itwin_export_async:run:{run_id}"
