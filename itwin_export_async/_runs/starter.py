"""Starting a run: 202, 303, 409 and lost responses. `start_state` says which run may be ours.

202: the run was started. 303: a run of the iModel is active. It is recovered if a request of ours
started it. Else `if_active` decides: "join" returns its handle, "wait" waits until it has finished
and starts again, "raise" raises `Conflict`. 409: start again after a backoff.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final, Literal, TypeAlias, cast

from attrs import define, field

from itwin_export_async._errors import (
    Conflict,
    ExportError,
    NotFound,
    ProtocolError,
    StartTimeout,
)
from itwin_export_async._http.pager import list_runs
from itwin_export_async._http.sender import BeforeSend
from itwin_export_async._http.telemetry import span
from itwin_export_async._models import ExportOptions, OutputLocation, Run, RunOrigin
from itwin_export_async._models.validators import validate_timeout
from itwin_export_async._polling.state import NOT_FOUND_GRACE
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.runs import (
    Accepted,
    AlreadyActive,
    LostRace,
    Service,
    create_run_request,
    get_connection_request,
    newest,
    parse_last_run,
    parse_start_response,
    service_time_at,
    started_after,
)
from itwin_export_async._protocol.urls import RunAddress
from itwin_export_async._runs.handle import RunContext, RunHandle
from itwin_export_async._runs.start_state import MAX_STALE_ANSWERS, StartState

log = logging.getLogger("itwin_export_async.runs")

IfActive: TypeAlias = Literal["join", "wait", "raise"]


class _ByDefault(str):
    """The value of `if_active` that the caller left out; it equals the text it is."""

    __slots__ = ()


JOIN_BY_DEFAULT: Final = cast(IfActive, _ByDefault("join"))

MAX_READ_PAUSE = 5.0  # seconds between two reads of a run that the service does not know yet
_FIRST_YEAR, _LAST_YEAR = 1971, 9000  # of dates to which seconds can be added

StartAnswer: TypeAlias = Accepted | AlreadyActive | LostRace
WhileWaiting: TypeAlias = Callable[[RunHandle], AbstractAsyncContextManager[Any]]


def validate_if_active(if_active: str) -> IfActive:
    """Return `if_active`. Raise a `ValueError` unless it is "join", "wait" or "raise"."""
    if if_active not in ("join", "wait", "raise"):
        raise ValueError(f"if_active must be 'join', 'wait' or 'raise', not {if_active!r}")
    return cast(IfActive, if_active)


def user_blob_url(options: ExportOptions) -> str | None:
    """The SAS URL of the caller's blob that a run with these options writes to, None without."""
    in_user_blob = options.output.location == OutputLocation.USER_BLOB_STORAGE
    return options.output.output_sas_url if in_user_blob else None


def describe_product(options: ExportOptions) -> str:
    """The product of a run in a log line."""
    changeset_id = options.input.changeset_id
    parts = [options.ifc_version and options.ifc_version.value]
    parts.append(changeset_id and f"changeset {changeset_id}")
    known = ", ".join(filter(None, parts))
    return f"{options.export_type.value} ({known})" if known else options.export_type.value


def export_starter(
    context: RunContext, connection_id: str, options: ExportOptions | None, **more: Any
) -> "RunStarter":
    """A `RunStarter` for an export. `options` None is `ExportOptions()`; `more`: its fields."""
    if options is None:
        options = ExportOptions()
    if not isinstance(options, ExportOptions):
        raise TypeError(f"options must be ExportOptions, not {type(options).__name__}")
    return RunStarter(
        context=context,
        service=Service.EXPORT,
        connection_id=connection_id,
        request=create_run_request(connection_id, options),
        sas_url=user_blob_url(options),
        product=describe_product(options),
        **more,
    )


async def read_clock(context: RunContext, connection_id: str) -> None:
    """Read the service's clock by a request, unless a recent response has shown it."""
    if context.session.service_time() is None:
        await context.session.send(get_connection_request(Service.EXPORT, connection_id))


def service_now(context: RunContext) -> datetime:
    """The service's time as last seen, else this machine's."""
    now = context.session.service_time()
    return now if now is not None and _FIRST_YEAR <= now.year <= _LAST_YEAR else datetime.now(UTC)


@define(eq=False, kw_only=True)
class RunStarter:
    """One start of a run.

    `request` starts it. `sas_url`: the caller's blob that the run writes to, None if none.
    `other_run_ids`: runs that other requests own. `belongs_to_other`: whether that is so for a run
    that may be ours. `before_send`: awaited before each request goes out, with whether an earlier
    one may have started a run, to note that a run may exist. `while_waiting`: entered while the
    active run of another request is followed to its end; no run of ours exists then. `imodel_id`,
    `product`: for log records, the iModel and what is exported.

    `start` may be called again after an error: the state remembers requests without a response.
    """

    context: RunContext
    service: Service
    connection_id: str
    request: Request
    if_active: IfActive = field(converter=validate_if_active)
    sas_url: str | None = field(default=None, repr=False)
    other_run_ids: Collection[str] = ()
    belongs_to_other: Callable[[str], Awaitable[bool]] | None = None
    before_send: BeforeSend | None = None
    while_waiting: WhileWaiting = nullcontext
    imodel_id: str | None = None
    product: str = ""
    state: StartState = field(factory=StartState)

    async def start(self, timeout: float | None = None) -> RunHandle:
        """The handle of the run that was started, recovered or joined.

        Raises `StartTimeout` after `timeout` seconds, None for no limit.
        """
        validate_timeout(timeout)
        with span(
            "itwin start",
            service=self.service.value,
            connection_id=self.connection_id,
            imodel_id=self._imodel_id,
        ) as active_span:
            handle = None
            try:
                async with asyncio.timeout(timeout) as limit:
                    while handle is None:
                        handle = await self._on_answer(*await self._send())
            except TimeoutError:
                if timeout is None or not limit.expired():
                    raise
                raise StartTimeout(connection_id=self.connection_id, seconds=timeout) from None
            active_span.set(run_id=handle.run_id, origin=handle.origin.value)
        self._log_handle(handle)
        return handle

    async def _send(self) -> tuple[Response, StartAnswer]:
        session, now = self.context.session, asyncio.get_running_loop().time
        self.state = self.state.with_request(now())
        sent_at = self.state.sent_at
        try:
            response = await session.send(self.request, before_send=self._before_send)
            if response.uncertain_for is not None:
                self.state = self.state.with_uncertainty(now() - response.uncertain_for)
            return response, parse_start_response(response)
        except ExportError as error:
            if error.may_have_been_processed:
                self.state = self.state.with_uncertainty(sent_at)
            raise

    async def _on_answer(self, response: Response, answer: StartAnswer) -> RunHandle | None:
        """The handle of the run; None if the request is to be sent again."""
        if isinstance(answer, Accepted):
            return await self._on_accepted(answer, response)
        if isinstance(answer, AlreadyActive):
            return await self._on_active(answer, response)
        self.state = self.state.with_lost_race()
        attempts = self.context.session.retry.attempts
        await self._backoff_or_raise(self.state.lost_races, attempts, error_from_response(response))
        return None

    async def _before_send(self, is_uncertain: bool) -> None:
        if self.before_send is not None:
            await self.before_send(is_uncertain or self.state.is_uncertain)

    async def _backoff_or_raise(self, attempt: int, attempts: int, error: ExportError) -> None:
        if attempt >= attempts:
            raise error
        log.debug("iModel busy (attempt %d), retrying: %s", attempt, error)
        await asyncio.sleep(self.context.session.retry.backoff(attempt))

    async def _on_accepted(self, answer: Accepted, response: Response) -> RunHandle:
        first_sent_at = self._first_sent_at(response)
        self.state = self.state.with_acceptance()
        address = answer.run or await self._locate_run(
            lambda run: started_after(run, first_sent_at)
        )
        if address is None:
            raise self._no_run_error(response)
        return self._handle(address, RunOrigin.STARTED)

    async def _on_active(self, answer: AlreadyActive, response: Response) -> RunHandle | None:
        """The handle of the active run; None if it has finished and the start is to be repeated."""
        first_sent_at = self._first_sent_at(response)
        address = answer.run or await self._locate_run(
            lambda run: not run.is_completed or self._could_be_ours(run, first_sent_at)
        )
        if address is None:
            self.state = self.state.with_unnamed_answer()
            attempts = self.context.session.retry.attempts
            error = self._no_run_error(response)
            await self._backoff_or_raise(self.state.unnamed_answers, attempts, error)
            return None
        handle = self._handle(address, RunOrigin.JOINED)
        if await self._is_ours(handle, first_sent_at):
            return self._handle(address, RunOrigin.RECOVERED)
        if self.if_active == "join":
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
        self.state = self.state.with_active_run(address)
        await self._wait_until_finished(handle, address, conflict)
        return None

    async def _wait_until_finished(
        self, handle: RunHandle, address: RunAddress, conflict: Conflict
    ) -> None:
        """Return when the run has finished and the service may start another."""
        if self.state.stale_answers:
            await self._backoff_or_raise(self.state.stale_answers, MAX_STALE_ANSWERS, conflict)
            return
        log.info(
            "waiting until %s is finished, before a run of connection %s can start",
            handle.log_label,
            self.connection_id,
            extra=handle.log_fields,
        )
        async with self.while_waiting(handle):
            try:
                await handle.wait(timeout=None, check=False)
            except NotFound as error:  # a deleted run is not active any more
                if not error.is_from_api:
                    raise
        self.state = self.state.with_finished_run(address)

    def _could_be_ours(self, run: Run, first_sent_at: datetime) -> bool:
        return self.state.could_be_ours(run, first_sent_at, self.other_run_ids)

    async def _is_ours(self, handle: RunHandle, first_sent_at: datetime) -> bool:
        """Whether a request of ours started the active run."""
        if not self.state.is_uncertain or handle.connection_id != self.connection_id:
            return False
        if self.belongs_to_other is not None and await self.belongs_to_other(handle.run_id):
            return False
        clock = asyncio.get_running_loop().time
        until = clock() + NOT_FOUND_GRACE
        for pause in count(1.0):
            try:
                return self._could_be_ours(await handle.refresh(), first_sent_at)
            except NotFound:  # parts of the service may not know a young run yet
                if clock() >= until:
                    return False
                await asyncio.sleep(min(pause, MAX_READ_PAUSE))
        raise AssertionError  # pragma: no cover - the loop above has no other end

    def _first_sent_at(self, response: Response) -> datetime:
        """When our first request went out, by the service's clock."""
        seconds_ago = asyncio.get_running_loop().time() - self.state.first_sent_at
        return service_time_at(response, seconds_ago, now=datetime.now(UTC))

    async def _locate_run(self, fits: Callable[[Run], bool]) -> RunAddress | None:
        """The run that a response without a usable Location means: `lastRun`, or the newest."""
        address = await self._run_from_link(fits)
        if address is not None:
            return address
        runs = list_runs(self.context.session, self.service, self.connection_id)
        run = newest([run async for run in runs if fits(run)])
        return RunAddress(connection_id=run.connection_id, run_id=run.id) if run else None

    async def _run_from_link(self, fits: Callable[[Run], bool]) -> RunAddress | None:
        session = self.context.session
        response = await session.send(get_connection_request(self.service, self.connection_id))
        address = parse_last_run(response)
        if address is None:
            return None
        try:
            run = await self._handle(address, RunOrigin.ATTACHED).refresh()
        except NotFound:
            return None
        return address if fits(run) else None

    def _no_run_error(self, response: Response) -> ProtocolError:
        return ProtocolError(
            message=f"the {response.status} response named no run, and connection "
            f"{self.connection_id} has no run that it could mean; list its runs",
            method=response.method,
            url=response.url,
        )

    def _handle(self, address: RunAddress, origin: RunOrigin) -> RunHandle:
        return RunHandle(
            connection_id=address.connection_id,
            run_id=address.run_id,
            origin=origin,
            service=self.service,
            context=self.context,
            imodel_id=self._imodel_id,
            sas_url=self.sas_url,
        )

    @property
    def _imodel_id(self) -> str | None:
        return self.imodel_id or self.context.session.imodel_of(self.connection_id)

    def _log_handle(self, handle: RunHandle) -> None:
        level, event, note = logging.INFO, "joined", ", which was active"
        if handle.origin is RunOrigin.STARTED:
            event, note = "started", f": {self.product}" if self.product else ""
        elif handle.origin is RunOrigin.RECOVERED:
            event, note = "recovered", ", whose start got no response"
        elif isinstance(self.if_active, _ByDefault):
            level, note = logging.WARNING, ", which was active and may have other options"
        log.log(
            level,
            "%s %s on connection %s%s",
            event,
            handle.log_label,
            handle.connection_id,
            note,
            extra=handle.log_fields,
        )
