"""One export from end to end: connection, run, wait, download, one step after another.

Where there is a ledger, each step is written down before the next begins, and one that an earlier
process left is taken up where the ledger says it was.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from attrs import define, evolve, field

from itwin_export_async._batch.entries import (
    STEPS,
    Entry,
    State,
    Step,
    failed,
    finished,
    forgotten,
    found,
    in_place,
    new_entry,
    started,
    starting,
)
from itwin_export_async._batch.ledger import Ledger
from itwin_export_async._batch.output_paths import Places, files_exist, placed
from itwin_export_async._errors import ExportError, NotFound, RunTimeout, StartTimeout
from itwin_export_async._files.storage import check_destination
from itwin_export_async._http.pager import list_runs
from itwin_export_async._http.session import Session
from itwin_export_async._models import (
    AuthenticationType,
    Connection,
    ExportOutcome,
    ExportRequest,
    RunOrigin,
)
from itwin_export_async._models.options import parse_enum
from itwin_export_async._models.validators import checked_timeout
from itwin_export_async._protocol.files import was_skipped
from itwin_export_async._protocol.runs import (
    Service,
    get_connection_request,
    parse_connection,
    service_time_at,
)
from itwin_export_async._runs.connections import find_or_create
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.handle import OnUpdate, RunContext, RunHandle
from itwin_export_async._runs.resume_token import ResumeToken
from itwin_export_async._runs.starter import (
    IfActive,
    checked_if_active,
    export_starter,
    user_blob_url,
)

log = logging.getLogger(__name__)

_GOOD_FOR = 600.0  # seconds for which the service's clock is known, once it was asked


def parse_authentication_type(value: AuthenticationType | str | None) -> AuthenticationType | None:
    """In whose name runs work, None where it is left to the service."""
    return None if value is None else parse_enum(AuthenticationType, "authentication_type", value)


@define(eq=False, kw_only=True)
class Terms:
    """What all exports of one call have in common.

    `ledger` None: nothing is written down. `places` None: there is but one export.
    """

    desk: RunContext
    consent: Consent
    if_active: IfActive = field(converter=checked_if_active)
    authentication_type: AuthenticationType | None = field(
        default=None, converter=parse_authentication_type
    )
    ledger: Ledger | None = None
    places: Places | None = None
    clock: "ServiceClock" = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.clock = ServiceClock(self.desk.session)


class ServiceClock:
    """The service's clock, as its answers tell it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._asking = asyncio.Lock()
        self._told: tuple[datetime, float] | None = None

    async def now(self, connection_id: str) -> datetime:
        """What it shows, or a little less. `connection_id`: what it may be asked about."""
        clock = asyncio.get_running_loop().time
        async with self._asking:
            if self._told is None or clock() - self._told[1] > _GOOD_FOR:
                response = await self._session.send(
                    get_connection_request(Service.EXPORT, connection_id)
                )
                self._told = service_time_at(response, 0.0, now=datetime.now(UTC)), clock()
            moment, at = self._told
            return moment + timedelta(seconds=clock() - at)


@define(eq=False, kw_only=True)
class Export:
    """One export on its way, from where its entry says that it is."""

    terms: Terms
    request: ExportRequest
    entry: Entry = field()
    on_update: OnUpdate | None = None
    _ends: float | None = None  # in the loop's time
    _handle: RunHandle | None = None
    _paths: tuple[Path, ...] | None = None
    _owner: str = field(init=False)  # of the files
    _was_finished: bool = False  # whether its run had ended before this call

    @entry.default
    def _unknown(self) -> Entry:
        return new_entry(self.request)

    @_owner.default
    def _by_key(self) -> str:
        return uuid4().hex if self.terms.ledger is None else self.entry.key

    async def within(self, timeout: float | None) -> ExportOutcome:
        """Its outcome. `timeout` bounds all of it, in seconds, None not at all. Errors are raised:
        `RunTimeout` when the time is over, `StartTimeout` while there is no run yet.
        """
        timeout = checked_timeout(timeout)
        if timeout is not None:
            self._ends = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout_at(self._ends) as limit:
                return await self._walk()
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._out_of_time(timeout) from None

    async def ended_with(self, error: Exception) -> ExportOutcome:
        """Its outcome when this error has ended it."""
        log.warning("the export of iModel %s ended: %s", self.request.imodel_id, error)
        await self._keep(failed(self.entry, error, was_finished=self._was_finished))
        return self._outcome(error)

    async def _walk(self) -> ExportOutcome:
        self._was_finished = STEPS[self.entry.state] in (Step.FETCH, Step.REPORT)
        await self._look_at_places()
        steps = {
            Step.START: self._start,
            Step.FIND: self._find,
            Step.FOLLOW: self._follow,
            Step.FETCH: self._fetch,
        }
        while (step := STEPS[self.entry.state]) is not Step.REPORT:
            await steps[step]()
        return self._outcome()

    async def _look_at_places(self) -> None:
        """See that the destination is free, and whether what was put there is still there."""
        files, places, owner = self.entry.files, self.terms.places, self._owner
        check_destination(self.request.destination)
        if places is not None:
            places.check(self.request.destination, owner)
        if self.entry.state is not State.IN_PLACE:
            return
        is_ours = places is None or places.claim([file.path for file in files], owner)
        if not is_ours or not await asyncio.to_thread(files_exist, files):
            log.info("the files of %s are not there any more", self.entry.key)
            self.entry = evolve(self.entry, state=State.FINISHED)

    async def _start(self) -> None:
        session, request, ledger = self.terms.desk.session, self.request, self.terms.ledger
        connection = await find_or_create(
            session, request.imodel_id, request.connection_name, self.terms.authentication_type
        )
        await self.terms.consent.require(Service.EXPORT, connection)
        since = None
        if ledger is not None:
            await self._settle(ledger, connection.id)
            since = await self.terms.clock.now(connection.id)
        await self._keep(starting(self.entry, connection.id, since))
        await self._ask_for_run(connection.id, None)

    async def _find(self) -> None:
        """Take up the run that an earlier process may have started, or start it."""
        connection_id, ledger = self.entry.connection_id, self.terms.ledger
        assert connection_id is not None
        assert ledger is not None
        request = get_connection_request(Service.EXPORT, connection_id)
        try:
            connection = parse_connection(await self.terms.desk.session.send(request), Connection)
            await self._settle(ledger, connection_id)
        except NotFound as error:
            if error.is_gateway:
                raise
            await self._keep(forgotten(self.entry))  # the connection is gone, its runs with it
            return
        if self.entry.state is State.STARTING:
            await self.terms.consent.require(Service.EXPORT, connection)
            await self._ask_for_run(connection_id, self.entry.since)

    async def _settle(self, ledger: Ledger, connection_id: str) -> None:
        """Find the runs of the connection whose starts were not seen through, this one's or not."""
        left = await ledger.left_starting(connection_id)
        if not left:
            return
        runs = await list_runs(self.terms.desk.session, Service.EXPORT, connection_id)
        for entry, run in found(left, runs, await ledger.owned(connection_id)):
            log.info("run %s is that of %s, whose start had been interrupted", run.id, entry.key)
            token = self.terms.desk.attach(Service.EXPORT, connection_id, run.id).resume_token
            recovered = started(entry, token, RunOrigin.RECOVERED)
            await ledger.write(recovered)
            if entry.key == self.entry.key:
                self.entry = recovered

    async def _ask_for_run(self, connection_id: str, since: datetime | None) -> None:
        ledger = self.terms.ledger
        starter = export_starter(
            self.terms.desk,
            connection_id,
            self.request.options,
            if_active=self.terms.if_active,
            since=since,
            foreign=() if ledger is None else await ledger.owned(connection_id),
        )
        try:
            handle = evolve(await starter.start(), imodel_id=self.request.imodel_id)
            self._handle = handle
        except ExportError:
            if not starter.is_in_doubt:
                await self._keep(forgotten(self.entry))
            raise
        await self._keep(started(self.entry, handle.resume_token, handle.origin))

    async def _follow(self) -> None:
        run = await self._run().wait(timeout=self._time_left(), on_update=self.on_update)
        await self._keep(finished(self.entry, run))

    async def _fetch(self) -> None:
        handle = self._run()
        run = handle.last or await handle.refresh()
        self._paths = () if was_skipped(run) else tuple(await self._download(handle))
        await self._keep(in_place(self.entry, await asyncio.to_thread(placed, self._paths)))

    async def _download(self, handle: RunHandle) -> list[Path]:
        if self.terms.places is None:
            return await handle.download(self.request.destination)
        return await self.terms.places.fetch(handle, self.request.destination, self._owner)

    def _run(self) -> RunHandle:
        """The handle of the run, from the ledger where an earlier process had it."""
        if self._handle is None:
            told = ResumeToken.from_string(self.entry.token or "")
            handle = self.terms.desk.attach(told.service, told.connection_id, told.run_id)
            origin = self.entry.origin or RunOrigin.ATTACHED
            sas_url = None if origin is RunOrigin.JOINED else user_blob_url(self.request.options)
            self._handle = evolve(
                handle, origin=origin, sas_url=sas_url, imodel_id=self.request.imodel_id
            )
        return self._handle

    async def _keep(self, entry: Entry) -> None:
        self.entry = entry  # so it is, also where the time ends before the ledger has it
        if self.terms.ledger is not None:
            await self.terms.ledger.write(entry)

    def _time_left(self) -> float | None:
        if self._ends is None:
            return None
        return max(self._ends - asyncio.get_running_loop().time(), 0.001)

    def _out_of_time(self, timeout: float | None) -> RunTimeout | StartTimeout:
        if self._handle is None and not self.entry.has_run:
            assert timeout is not None
            return StartTimeout(imodel_id=self.request.imodel_id, seconds=timeout)
        handle = evolve(self._run(), deadline=None)  # whoever takes it up has a time of their own
        return RunTimeout(
            message="has no output on disk after the time allowed; "
            "client.resume(error.resume_token) takes it up again",
            connection_id=handle.connection_id,
            run_id=handle.run_id,
            run=handle.last,
            resume_token=handle.resume_token,
        )

    def _outcome(self, error: Exception | None = None) -> ExportOutcome:
        run = self.entry.run if self.entry.has_run else None
        if self._handle is not None and self._handle.last is not None:
            run = self._handle.last
        paths = self._paths
        if paths is None:
            paths = tuple(Path(file.path) for file in self.entry.files)
        return ExportOutcome(
            request=self.request,
            connection_id=self.entry.connection_id,
            run=run,
            paths=() if error else paths,
            error=error,
        )
