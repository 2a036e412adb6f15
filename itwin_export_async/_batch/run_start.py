"""The first half of an export: its connection, then a run that is started, recovered or joined.

The entry says `starting` before each request that may start a run. After an uncertain request the
runs of the connection are listed before another one is sent, in this call or in a later one.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from attrs import define, evolve

from itwin_export_async._batch.context import BatchContext, Record
from itwin_export_async._batch.entries import EntryState, reset, started, starting, waiting
from itwin_export_async._batch.ledger_rows import HistoryLine
from itwin_export_async._errors import ExportError, NotFound
from itwin_export_async._http.pager import list_runs
from itwin_export_async._models import AuthenticationType, Connection, ExportRequest, RunOrigin
from itwin_export_async._protocol.runs import Service, get_connection_request, parse_connection
from itwin_export_async._runs.connections import find_or_create_connection
from itwin_export_async._runs.handle import RunHandle
from itwin_export_async._runs.start_state import StartState, StartWindow, match_runs
from itwin_export_async._runs.starter import RunStarter, export_starter, read_clock, service_now

log = logging.getLogger("itwin_export_async.batch")


@define(eq=False, kw_only=True)
class RunStart:
    """The start of one export's run.

    `without_slot`: entered while another request's run is waited for.
    """

    context: BatchContext
    request: ExportRequest
    record: Record
    without_slot: Callable[[], AbstractAsyncContextManager[Any]]
    _has_forgotten: bool = False  # the connection that was noted, which did not exist

    async def start(self) -> RunHandle | None:
        """Find the run of an interrupted start, or start one, and return its handle.

        None if the entry says what to do next.
        """
        context, outage, entry = self.context, self.context.outage, self.record.entry
        window, is_interrupted = entry.window, entry.state is EntryState.STARTING
        connection = await outage.run(
            self._read_connection if is_interrupted else self._find_connection
        )
        if connection is None:  # deleted, with its runs
            await self.record.save(reset(entry))
            return None
        try:
            if await outage.run(lambda: self._recover_runs(connection.id)):
                return None
            if window is not None and window.is_settled(service_now(context.runs)):
                window = None
                await self.record.save(reset(self.record.entry))
            await outage.run(lambda: context.consent.require(Service.EXPORT, connection))
            return await self._start_run(connection.id, window)
        except NotFound as error:
            if not error.is_from_api or not await self._forget_connection(connection.id):
                raise
            return None

    @property
    def _connection_key(self) -> tuple[str, str, AuthenticationType | None]:
        request = self.request
        return request.imodel_id, request.connection_name, self.context.authentication_type

    async def _read_connection(self) -> Connection | None:
        """The connection of an interrupted start, None if it does not exist any more."""
        connection_id = self.record.entry.connection_id
        assert connection_id is not None
        request = get_connection_request(Service.EXPORT, connection_id)
        try:
            return parse_connection(await self.context.runs.session.send(request), Connection)
        except NotFound as error:
            if not error.is_from_api:
                raise
            return None

    async def _find_connection(self) -> Connection:
        """The connection that an earlier call noted, else the one that is found or created."""
        ledger, key = self.context.ledger, self._connection_key
        noted = None if ledger is None else await ledger.connection(*key)
        if noted is not None:
            return noted
        session, outage = self.context.runs.session, self.context.outage
        connection = await find_or_create_connection(session, *key, outage.run)
        if ledger is not None:
            await ledger.write_connection(*key, connection)
        return connection

    async def _forget_connection(self, connection_id: str) -> bool:
        """Drop a noted connection that does not exist any more, once; False if it is to be kept.

        It is kept while a run of ours may exist: the next call reads the connection itself.
        """
        ledger, key = self.context.ledger, self._connection_key
        if ledger is None or self._has_forgotten or self.record.entry.window is not None:
            return False
        noted = await ledger.connection(*key)
        if noted is None or noted.id != connection_id:
            return False
        self._has_forgotten = True
        await ledger.write_connection(*key, None)
        await self.record.save(reset(self.record.entry))
        return True

    async def _recover_runs(self, connection_id: str) -> bool:
        """Find the runs of all interrupted starts on the connection; True if ours is found."""
        ledger, runs, own = self.context.ledger, self.context.runs, self.record.entry
        interrupted = [own] if ledger is None else await ledger.interrupted_starts(connection_id)
        entries = {entry.key: entry for entry in interrupted}
        windows = [(entry.key, entry.window) for entry in interrupted if entry.window]
        if not windows:
            return False
        existing = await list_runs(runs.session, Service.EXPORT, connection_id)
        known = await self._other_run_ids(connection_id)
        for key, run in match_runs(windows, existing, known).items():
            if key == own.key and entries[key].revision != own.revision:
                # of an earlier revision: noted, so that no later call takes it for ours
                outdated = evolve(entries[key], run_id=run.id)
                await self.record.save(own, HistoryLine.of(outdated, "Outdated"))
                continue
            handle = evolve(
                runs.attach(Service.EXPORT, connection_id, run.id), imodel_id=own.imodel_id
            )
            recovered = started(entries[key], handle.resume_token, RunOrigin.RECOVERED)
            log.info("recovered %s for %s", handle.log_label, key, extra=handle.log_fields)
            if key == own.key:
                await self.record.save(recovered)
            else:
                assert ledger is not None
                await ledger.write(recovered)
        return self.record.entry.state is EntryState.STARTED

    async def _other_run_ids(self, connection_id: str) -> set[str]:
        ledger = self.context.ledger
        return set() if ledger is None else await ledger.known_run_ids(connection_id)

    async def _start_run(self, connection_id: str, window: StartWindow | None) -> RunHandle | None:
        starter = export_starter(
            self.context.runs,
            connection_id,
            self.request.options,
            imodel_id=self.request.imodel_id,
            if_active=self.context.if_active,
            other_run_ids=await self._other_run_ids(connection_id),
            while_waiting=self._while_waiting,
            state=StartState(earlier=window),
        )
        self.context.runs.session.remember_imodel(connection_id, self.request.imodel_id)
        starter.before_send = partial(self._note_request, connection_id)
        try:
            handle = await self.context.outage.run(lambda: self._attempt(starter))
        except ExportError:
            if not starter.state.is_uncertain:
                await self.record.save(reset(self.record.entry))
            raise
        if handle is not None:
            await self.record.save(started(self.record.entry, handle.resume_token, handle.origin))
        return handle

    async def _attempt(self, starter: RunStarter) -> RunHandle | None:
        """Start the run; None if a request of an earlier attempt has started it."""
        await read_clock(self.context.runs, starter.connection_id)
        if starter.state.maybe_started and await self._recover_runs(starter.connection_id):
            return None
        return await starter.start()

    async def _note_request(self, connection_id: str, is_uncertain: bool) -> None:
        entry, now = self.record.entry, service_now(self.context.runs)
        since = entry.since if is_uncertain else None
        await self.record.save(starting(entry, connection_id, now, since))

    @asynccontextmanager
    async def _while_waiting(self, _: RunHandle) -> AsyncIterator[None]:
        """Note that no run of this request exists, and give its slot to another export."""
        await self.record.save(waiting(self.record.entry))
        async with self.without_slot():
            yield
