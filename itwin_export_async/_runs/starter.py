"""Starting a run: 202, 303 and 409, and the answer that got lost.

One iModel has one active run. Asking for a second one brings the first (303), maybe of another
connection and with other options; asking at the same moment as somebody else brings a 409, which
soon becomes one of the two. An answer that was lost is found again by asking again: the active run
is ours if it is of this connection, began after our first asking and is known as nobody else's.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Literal, TypeAlias, cast

from attrs import define, evolve, field

from itwin_export_async._errors import Conflict, ExportError, NotFound, ProtocolError
from itwin_export_async._http.pager import list_runs
from itwin_export_async._http.retry import may_have_been_processed
from itwin_export_async._models import ExportOptions, OutputLocation, Run, RunOrigin
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.runs import (
    Accepted,
    AlreadyActive,
    Service,
    create_run_request,
    get_connection_request,
    newest,
    parse_created_run,
    parse_last_run,
    service_time_at,
    started_after,
)
from itwin_export_async._protocol.urls import RunAddress
from itwin_export_async._runs.handle import RunContext, RunHandle

log = logging.getLogger(__name__)

MAX_STALE_ANSWERS = 20  # how often the service may name a run as active that has ended

IfActive: TypeAlias = Literal["join", "wait", "raise"]


def checked_if_active(if_active: str) -> IfActive:
    """The same, or a `ValueError` for what is no way to treat an active run."""
    if if_active not in ("join", "wait", "raise"):
        raise ValueError(f"if_active must be 'join', 'wait' or 'raise', not {if_active!r}")
    return cast(IfActive, if_active)


def user_blob_url(options: ExportOptions) -> str | None:
    """The address of the caller's own blob that a run with these options writes to, if it does."""
    in_own_blob = options.output.location == OutputLocation.USER_BLOB_STORAGE
    return options.output.output_sas_url if in_own_blob else None


async def start_export(
    desk: RunContext,
    connection_id: str,
    options: ExportOptions | None,
    *,
    if_active: str,
    since: datetime | None = None,
) -> RunHandle:
    """The handle of an export that was started, found again, or active already."""
    starter = export_starter(desk, connection_id, options, if_active=if_active, since=since)
    return await starter.start()


def export_starter(
    desk: RunContext,
    connection_id: str,
    options: ExportOptions | None,
    *,
    if_active: str,
    since: datetime | None = None,
    foreign: Collection[str] = (),
) -> "RunStarter":
    """A `RunStarter` for an export. `options` None is `ExportOptions()`."""
    if options is None:
        options = ExportOptions()
    if not isinstance(options, ExportOptions):
        raise TypeError(f"options must be ExportOptions, not {type(options).__name__}")
    return RunStarter(
        desk=desk,
        service=Service.EXPORT,
        connection_id=connection_id,
        request=create_run_request(connection_id, options),
        if_active=if_active,
        sas_url=user_blob_url(options),
        since=since,
        foreign=foreign,
    )


@define(eq=False, kw_only=True)
class RunStarter:
    """One start of a run, until there is a handle. `request` asks for it.

    `sas_url`: the caller's own blob that the run writes to, None when it does not. `since`: the
    moment, by the service's clock, since when an earlier process may have started this very run;
    None when none has tried. `foreign`: the ids of runs that are known as others'.
    """

    desk: RunContext
    service: Service
    connection_id: str
    request: Request
    if_active: IfActive = field(converter=checked_if_active)
    sas_url: str | None = field(default=None, repr=False)
    since: datetime | None = None
    foreign: Collection[str] = ()
    _may_exist: bool = False  # whether a sending of ours may have started a run
    _doubtful: float | None = None  # since when, in the loop's time, a run of ours may exist
    _sent: float = 0.0  # when, in the loop's time, the latest request went out
    _ended: RunAddress | None = None  # the run that was waited for, and has ended
    _stale: int = 0  # how often the service has named it again since
    _unnamed: int = 0  # how often an active run was not named, and had ended before it was found

    async def start(self) -> RunHandle:
        """The handle of the run that was started, found again, or active already."""
        races = 0
        while True:
            response = await self._send()
            answer = parse_created_run(response, base_url=self.desk.session.base_url)
            if isinstance(answer, Accepted):
                return await self._accepted(answer, response)
            if isinstance(answer, AlreadyActive):
                handle = await self._active(answer, response)
                if handle is not None:
                    return handle
                races = 0
                continue
            races += 1
            await self._pause(
                races, self.desk.session.retry.attempts, error_from_response(response)
            )

    async def _pause(self, turn: int, turns: int, otherwise: ExportError) -> None:
        """Wait before the next turn, or raise when there is to be none."""
        if turn >= turns:
            raise otherwise
        log.info("the iModel is busy (%d); asking again", turn)
        await self._nap(turn)

    async def _nap(self, turn: int) -> None:
        await asyncio.sleep(self.desk.session.retry.backoff(turn))

    async def _send(self) -> Response:
        clock = asyncio.get_running_loop().time
        self._sent = clock()
        try:
            response = await self.desk.session.send(self.request)
        except ExportError as error:
            self._may_exist |= error.may_have_been_processed
            raise
        if response.uncertain_for is not None and self._doubtful is None:
            self._doubtful = clock() - response.uncertain_for
        is_done = response.status < 300 or may_have_been_processed(response)
        self._may_exist |= is_done or response.uncertain_for is not None
        return response

    async def _accepted(self, answer: Accepted, response: Response) -> RunHandle:
        asked = self._asked(response)
        address = answer.run or await self._find(lambda run: started_after(run, asked))
        if address is None:
            raise self._nameless(response)
        log.info("started run %s of connection %s", address.run_id, address.connection_id)
        return self._handle(address, RunOrigin.STARTED)

    async def _active(self, answer: AlreadyActive, response: Response) -> RunHandle | None:
        """The handle of the active run, or None once that has ended and it is to be asked again."""
        asked = self.since or self._asked(response)
        address = answer.run or await self._find(
            lambda run: not run.is_completed or self._may_be_ours(run, asked)
        )
        if address is None:
            self._unnamed += 1
            turns = self.desk.session.retry.attempts
            await self._pause(self._unnamed, turns, self._nameless(response))
            return None
        handle = self._handle(address, RunOrigin.JOINED)
        if await self._is_ours(handle, asked):
            log.info("run %s is ours: its answer had been lost", handle.run_id)
            return evolve(handle, origin=RunOrigin.RECOVERED, sas_url=self.sas_url)
        if self.if_active == "join":
            log.warning(
                "joined run %s of connection %s, which was active already; it may have "
                "other options than those asked for",
                address.run_id,
                address.connection_id,
            )
            return handle
        conflict = Conflict(
            status=303,
            code="RunAlreadyActive",
            message=f"run {address.run_id} of connection {address.connection_id} is active "
            "for this iModel",
            method=response.method,
            url=response.url,
            handle=handle,
        )
        if self.if_active == "raise":
            raise conflict
        await self._outlast(handle, address, conflict)
        self._doubtful, self.since, self._may_exist = None, None, False
        return None

    async def _outlast(self, handle: RunHandle, address: RunAddress, conflict: Conflict) -> None:
        """Wait until the run has ended, and the service has noticed that it has."""
        self._stale = self._stale + 1 if address == self._ended else 0
        if self._stale:
            await self._pause(self._stale, MAX_STALE_ANSWERS, conflict)
            return
        log.info("waiting for run %s, which is active for this iModel", address.run_id)
        try:
            await handle.wait(timeout=None, check=False)
        except NotFound as error:  # it is gone, and so no longer in the way
            if error.is_gateway:
                raise
        self._ended = address

    @property
    def is_in_doubt(self) -> bool:
        """Whether a run may have been started that nobody holds. Ask it after an error."""
        return self._may_exist or self.since is not None

    def _may_be_ours(self, run: Run, asked: datetime) -> bool:
        return self.is_in_doubt and run.id not in self.foreign and started_after(run, asked)

    async def _is_ours(self, handle: RunHandle, asked: datetime) -> bool:
        """Whether the active run is one that an earlier sending of ours made."""
        if not self.is_in_doubt or handle.connection_id != self.connection_id:
            return False
        for turn in range(1, max(2, self.desk.session.retry.attempts)):
            try:
                return self._may_be_ours(await handle.refresh(), asked)
            except NotFound:  # a young run may not be known everywhere yet
                await self._nap(turn)
        return False

    def _asked(self, response: Response) -> datetime:
        """When we first asked, at the earliest, by the service's own clock."""
        first = self._sent if self._doubtful is None else self._doubtful
        ago = asyncio.get_running_loop().time() - first
        return service_time_at(response, ago, now=datetime.now(UTC))

    async def _find(self, fits: Callable[[Run], bool]) -> RunAddress | None:
        """The run, where the answer does not say which: the connection's last, or the newest."""
        address = await self._last_run(fits)
        if address is not None:
            return address
        runs = list_runs(self.desk.session, self.service, self.connection_id)
        run = newest([run async for run in runs if fits(run)])
        return RunAddress(connection_id=run.connection_id, run_id=run.id) if run else None

    def _nameless(self, response: Response) -> ProtocolError:
        return ProtocolError(
            message=f"answered {response.status} but named no run, and connection "
            f"{self.connection_id} has none that it can mean",
            method=response.method,
            url=response.url,
        )

    async def _last_run(self, fits: Callable[[Run], bool]) -> RunAddress | None:
        session = self.desk.session
        told = await session.send(get_connection_request(self.service, self.connection_id))
        address = parse_last_run(told, base_url=session.base_url)
        if address is None:
            return None
        try:
            run = await self._handle(address, RunOrigin.ATTACHED).refresh()
        except NotFound:
            return None
        return address if fits(run) else None

    def _handle(self, address: RunAddress, origin: RunOrigin) -> RunHandle:
        return RunHandle(
            connection_id=address.connection_id,
            run_id=address.run_id,
            origin=origin,
            service=self.service,
            desk=self.desk,
            sas_url=None if origin is RunOrigin.JOINED else self.sas_url,
        )
