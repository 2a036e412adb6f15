"""One export from end to end: connection, run, wait, download.

With a ledger each step is noted before the next begins, and an export that an earlier call left is
continued where its entry says. Steps before and after the run wait out an outage together with the
other exports of the call (`outage`); the wait for a run does so itself.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from attrs import define, evolve, field

from itwin_export_async._batch.entries import (
    STEPS,
    Entry,
    EntryState,
    Step,
    failed,
    finished,
    in_place,
    new_entry,
    reset,
    started,
    starting,
    waiting,
    with_claimed_path,
)
from itwin_export_async._batch.ledger import HistoryLine, Ledger
from itwin_export_async._batch.outage import OutageGate
from itwin_export_async._batch.output_paths import OutputPaths, describe_files, files_exist
from itwin_export_async._errors import ExportError, NotFound, RunFailed, RunTimeout, StartTimeout
from itwin_export_async._files.download import Progress, check_destination
from itwin_export_async._http.pager import list_runs
from itwin_export_async._models import (
    AuthenticationType,
    Connection,
    ExportOutcome,
    ExportRequest,
    Run,
    RunOrigin,
)
from itwin_export_async._models.validators import parse_enum, validate_timeout
from itwin_export_async._protocol.files import was_skipped
from itwin_export_async._protocol.runs import (
    Service,
    get_connection_request,
    parse_connection,
)
from itwin_export_async._runs.connections import find_or_create_connection
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.handle import OnUpdate, RunContext, RunHandle
from itwin_export_async._runs.resume_token import ResumeToken
from itwin_export_async._runs.start_state import StartState, StartWindow, match_runs
from itwin_export_async._runs.starter import (
    IfActive,
    export_starter,
    user_blob_url,
    validate_if_active,
)

log = logging.getLogger("itwin_export_async.batch")

T = TypeVar("T")

OnStart = Callable[[RunHandle], Any]
"""Called with the handle as soon as an export has a run; may be async."""


def parse_authentication_type(value: AuthenticationType | str | None) -> AuthenticationType | None:
    """The type as a member of its enum, None if it is left to the service."""
    return None if value is None else parse_enum(AuthenticationType, "authentication_type", value)


@define(eq=False, kw_only=True)
class BatchContext:
    """What all exports of one call share. `ledger` None: nothing is noted."""

    runs: RunContext
    consent: Consent
    outage: OutageGate
    if_active: IfActive = field(converter=validate_if_active)
    authentication_type: AuthenticationType | None = field(
        default=None, converter=parse_authentication_type
    )
    ledger: Ledger | None = None
    paths: OutputPaths = field(factory=OutputPaths)


def _keep_slot() -> AbstractAsyncContextManager[None]:
    return nullcontext()


@define(eq=False, kw_only=True)
class ExportPipeline:
    """One export, from the state that its entry has.

    `without_slot`: entered while the export waits for another request's run.
    """

    context: BatchContext
    request: ExportRequest
    entry: Entry = field()
    on_start: OnStart | None = None
    on_update: OnUpdate | None = None
    on_progress: Progress | None = None
    without_slot: Callable[[], AbstractAsyncContextManager[Any]] = _keep_slot
    _deadline: float | None = None  # the loop's time
    _handle: RunHandle | None = None
    _paths: tuple[Path, ...] | None = None
    _owner: str = field(init=False)  # of its output paths
    _was_finished: bool = False  # whether its run had finished before this call

    @entry.default
    def _default_entry(self) -> Entry:
        return new_entry(self.request)

    @_owner.default
    def _default_owner(self) -> str:
        return uuid4().hex if self.context.ledger is None else self.entry.key

    async def run(self, timeout: float | None) -> ExportOutcome:
        """The outcome of a successful export. `timeout`: seconds for all of it, None for no limit.

        Raises `RunTimeout`, or `StartTimeout` while there is no run, and what its steps raise.
        """
        timeout = validate_timeout(timeout)
        if timeout is not None:
            self._deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                return await self._run_steps()
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._timeout_error(timeout) from None

    async def fail(self, error: Exception) -> ExportOutcome:
        """The outcome of an export that ended with this error."""
        is_logged = isinstance(error, RunFailed)  # with its reason, when the run finished
        log.log(
            logging.INFO if is_logged else logging.WARNING,
            "export of iModel %s failed: %s",
            self.request.imodel_id,
            "; ".join(map(str.strip, str(error).splitlines())),
            extra=self._log_fields(),
        )
        self.entry = failed(self.entry, error, was_finished=self._was_finished)
        if self.context.ledger is not None:
            await self.context.ledger.write_outcome(self.entry, self._history_line(error))
        return self._outcome(error=error)

    async def _run_steps(self) -> ExportOutcome:
        self._was_finished = STEPS[self.entry.state] in (Step.DOWNLOAD, Step.REPORT)
        await self._check_destination()
        if self.entry.state is EntryState.IN_PLACE:
            return self._outcome(up_to_date=True)
        steps = {
            Step.START: self._start,
            Step.RECOVER: self._recover,
            Step.WAIT: self._wait,
            Step.DOWNLOAD: self._download,
        }
        while (step := STEPS[self.entry.state]) is not Step.REPORT:
            await steps[step]()
        return self._outcome()

    async def _check_destination(self) -> None:
        """Refuse an impossible destination, and notice downloaded files that are gone."""
        files, paths, owner = self.entry.files, self.context.paths, self._owner
        check_destination(self.request.destination)
        paths.check(self.request.destination, owner)
        if self.entry.state is not EntryState.IN_PLACE:
            return
        is_owner = paths.claim([file.path for file in files], owner)
        if not is_owner or not await self._in_thread(lambda: files_exist(files)):
            log.info(
                "files of %s are missing, downloading them again",
                self.entry.key,
                extra=self._log_fields(),
            )
            self.entry = evolve(self.entry, state=EntryState.FINISHED)

    async def _start(self) -> None:
        connection = await self.context.outage.run(self._find_connection)
        await self._start_on(connection, None)

    async def _recover(self) -> None:
        """Find the run that an earlier call may have started, or start one."""
        connection_id, window = self.entry.connection_id, self.entry.window
        assert connection_id is not None
        try:
            connection = await self.context.outage.run(lambda: self._get_connection(connection_id))
        except NotFound as error:
            if error.is_gateway:
                raise
            await self._save(reset(self.entry))  # the connection was deleted, with its runs
            return
        await self._start_on(connection, window)

    async def _start_on(self, connection: Connection, window: StartWindow | None) -> None:
        context = self.context
        await context.outage.run(lambda: self._recover_interrupted(connection.id))
        if self.entry.state is EntryState.STARTED:
            return
        await context.outage.run(lambda: context.consent.require(Service.EXPORT, connection))
        try:
            await self._start_run(connection.id, window)
        except NotFound as error:
            if context.ledger is None or error.is_gateway:
                raise
            if not await self._forget_connection(connection.id):
                raise

    async def _find_connection(self) -> Connection:
        """The connection that an earlier call noted, else the one that is found or created."""
        context, request = self.context, self.request
        session, ledger, kind = context.runs.session, context.ledger, context.authentication_type
        if ledger is not None:
            noted = await ledger.connection(request.imodel_id, request.connection_name, kind)
            if noted is not None:
                return noted
        connection = await find_or_create_connection(
            session, request.imodel_id, request.connection_name, kind
        )
        if ledger is not None:
            await ledger.write_connection(
                request.imodel_id, request.connection_name, kind, connection
            )
        return connection

    async def _forget_connection(self, connection_id: str) -> bool:
        """Drop a connection that does not exist any more; False if it was just looked up."""
        ledger, request = self.context.ledger, self.request
        assert ledger is not None
        kind = self.context.authentication_type
        noted = await ledger.connection(request.imodel_id, request.connection_name, kind)
        if noted is None or noted.id != connection_id:
            return False
        await ledger.write_connection(request.imodel_id, request.connection_name, kind, None)
        await self._save(reset(self.entry))
        return True

    async def _get_connection(self, connection_id: str) -> Connection:
        request = get_connection_request(Service.EXPORT, connection_id)
        return parse_connection(await self.context.runs.session.send(request), Connection)

    async def _recover_interrupted(self, connection_id: str) -> None:
        """Find the runs of all interrupted starts on the connection, not only this one's."""
        ledger, runs = self.context.ledger, self.context.runs
        if ledger is None:
            return
        entries = {entry.key: entry for entry in await ledger.interrupted_starts(connection_id)}
        windows = [(entry.key, entry.window) for entry in entries.values() if entry.window]
        if not windows:
            return
        runs.session.remember_imodel(connection_id, self.request.imodel_id)
        existing = await list_runs(runs.session, Service.EXPORT, connection_id)
        known = await ledger.known_run_ids(connection_id)
        for key, run in match_runs(windows, existing, known).items():
            handle = runs.attach(Service.EXPORT, connection_id, run.id)
            recovered = started(entries[key], handle.resume_token, RunOrigin.RECOVERED)
            log.info("recovered %s for %s", handle.log_label, key, extra=handle.log_fields)
            await ledger.write(recovered)
            if key == self.entry.key:
                self.entry = recovered

    async def _start_run(self, connection_id: str, window: StartWindow | None) -> None:
        ledger = self.context.ledger
        self.context.runs.session.remember_imodel(connection_id, self.request.imodel_id)
        starter = export_starter(
            self.context.runs,
            connection_id,
            self.request.options,
            imodel_id=self.request.imodel_id,
            if_active=self.context.if_active,
            other_run_ids=() if ledger is None else await ledger.known_run_ids(connection_id),
            while_waiting=self._while_waiting,
            state=StartState(earlier=window),
        )

        async def note_request() -> None:
            now = self._service_time()
            since = self.entry.since if starter.state.is_uncertain else None
            await self._save(starting(self.entry, connection_id, now, since))

        starter.before_send = None if ledger is None else note_request
        try:
            handle = await self.context.outage.run(starter.start)
        except ExportError:
            if not starter.state.is_uncertain:
                await self._save(reset(self.entry))
            raise
        self._handle = handle
        await self._save(started(self.entry, handle.resume_token, handle.origin))
        await self._call_on_start(handle)

    async def _call_on_start(self, handle: RunHandle) -> None:
        if self.on_start is not None:
            result = self.on_start(handle)
            if asyncio.iscoroutine(result) or hasattr(result, "__await__"):
                await result

    @asynccontextmanager
    async def _while_waiting(self, _: RunHandle) -> AsyncIterator[None]:
        """Note that no run of this request exists, and give its slot to another export."""
        await self._save(waiting(self.entry))
        async with self.without_slot():
            yield

    async def _wait(self) -> None:
        handle = self._run_handle()
        run = await handle.wait(timeout=self._time_left(), on_update=self.on_update)
        await self._save(finished(self.entry, run))

    async def _download(self) -> None:
        handle = self._run_handle()
        run = handle.last
        if run is None:
            run = await self.context.outage.run(handle.refresh)
        paths = () if was_skipped(run) else await self._download_outputs(run, handle.joined)
        self._paths = paths
        self.entry = in_place(self.entry, await self._in_thread(lambda: describe_files(paths)))
        if self.context.ledger is not None:
            await self.context.ledger.write_outcome(self.entry, self._history_line(None))

    async def _download_outputs(self, run: Run, joined: bool) -> tuple[Path, ...]:
        sas_url = None if joined else user_blob_url(self.request.options)
        paths = await self.context.outage.run(
            lambda: self.context.runs.outputs.download(
                run,
                self.request.destination,
                self.on_progress,
                sas_url=sas_url,
                choose_path=self._choose_path,
            )
        )
        return tuple(paths)

    async def _choose_path(self, path: Path) -> Path:
        """The path itself, or with `-2`, `-3`, ... if another export or file is in the way.

        It is noted before the file gets it, so that the next call knows whose file it is.
        """
        paths, owner = self.context.paths, self._owner
        chosen = await self._in_thread(lambda: paths.choose(path, self.request.destination, owner))
        await self._save(with_claimed_path(self.entry, str(chosen.absolute())))
        return chosen

    def _run_handle(self) -> RunHandle:
        """The handle of the run, made from the ledger if an earlier call started it."""
        if self._handle is None:
            assert self.entry.resume_token is not None
            token = ResumeToken.from_string(self.entry.resume_token)
            session = self.context.runs.session
            session.remember_imodel(token.connection_id, self.request.imodel_id)
            handle = self.context.runs.attach(token.service, token.connection_id, token.run_id)
            origin = self.entry.origin or RunOrigin.ATTACHED
            sas_url = None if origin is RunOrigin.JOINED else user_blob_url(self.request.options)
            self._handle = evolve(handle, origin=origin, sas_url=sas_url)
        return self._handle

    async def _save(self, entry: Entry) -> None:
        self.entry = entry  # before the write, so that a timeout during it does not lose the state
        if self.context.ledger is not None:
            await self.context.ledger.write(entry)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self.context.runs.outputs.in_thread(work)

    def _service_time(self) -> datetime:
        """The service's time as last seen, else this machine's."""
        now = self.context.runs.session.service_time()
        return now if now is not None and 1971 < now.year < 9000 else datetime.now(UTC)

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(self._deadline - asyncio.get_running_loop().time(), 0.001)

    def _timeout_error(self, timeout: float | None) -> RunTimeout | StartTimeout:
        if self._handle is None and not self.entry.has_run:
            assert timeout is not None
            return StartTimeout(imodel_id=self.request.imodel_id, seconds=timeout)
        handle = evolve(self._run_handle(), deadline=None)  # who resumes it sets another
        return RunTimeout(
            message="has no output on disk after the timeout; "
            "client.resume(error.resume_token) continues",
            connection_id=handle.connection_id,
            run_id=handle.run_id,
            run=handle.last,
            resume_token=handle.resume_token,
        )

    def _log_fields(self) -> dict[str, Any]:
        fields = {
            "imodel_id": self.request.imodel_id,
            "connection_id": self.entry.connection_id,
            "run_id": self.entry.run_id,
        }
        return {"itwin": {name: value for name, value in fields.items() if value}}

    def _history_line(self, error: Exception | None) -> HistoryLine:
        run, entry = self._last_run(), self.entry
        seconds = None if run is None else run.duration
        outcome = type(error).__name__ if error else (entry.result or "")
        return HistoryLine(
            key=entry.key,
            outcome=outcome,
            revision=entry.revision,
            connection_id=entry.connection_id,
            run_id=entry.run_id,
            started_at=_to_text(entry.started_at),
            finished_at=_to_text(entry.finished_at),
            seconds=seconds,
            error=entry.error,
        )

    def _last_run(self) -> Run | None:
        if self._handle is not None and self._handle.last is not None:
            return self._handle.last
        return self.entry.run if self.entry.has_run else None

    def _outcome(
        self, *, error: Exception | None = None, up_to_date: bool = False
    ) -> ExportOutcome:
        paths = self._paths
        if paths is None:
            paths = tuple(Path(file.path) for file in self.entry.files)
        return ExportOutcome(
            request=self.request,
            connection_id=self.entry.connection_id,
            run=self._last_run(),
            paths=() if error else paths,
            error=error,
            up_to_date=up_to_date,
        )


def _to_text(date: datetime | None) -> str | None:
    return None if date is None else date.isoformat()
