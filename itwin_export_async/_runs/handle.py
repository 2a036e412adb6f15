"""RunHandle: what a caller holds of a run, to wait for it and to download its output."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from itwin_export_async._errors import RunTimeout
from itwin_export_async._files.download import Progress
from itwin_export_async._files.outputs import Outputs
from itwin_export_async._files.run_output import RunOutput
from itwin_export_async._http.session import Session
from itwin_export_async._http.telemetry import span
from itwin_export_async._models import Estimate, ExecutionResult, Run, RunOrigin, RunUpdate
from itwin_export_async._polling.forecast import forecast
from itwin_export_async._polling.poll_task import RunKey, Subscription
from itwin_export_async._polling.poller import RunPoller, poll_once
from itwin_export_async._polling.state import PollEvent, PollMissed, Snapshot, Throttled, diff
from itwin_export_async._protocol.runs import Service
from itwin_export_async._protocol.urls import validate_id
from itwin_export_async._runs.callback import Callback
from itwin_export_async._runs.deadline import USE_DEFAULT, Deadline, Timeout
from itwin_export_async._runs.resume_token import ResumeToken
from itwin_export_async._runs.wait_errors import poll_failed, run_failed, timed_out

OnUpdate = Callable[[RunUpdate], Any]
"""Called with each update; may be async. Its exceptions come out of the call it was passed to."""
OnPoll = Callable[[Run], Any]
"""Called with the latest snapshot after each poll; may be async. Exceptions as with `OnUpdate`."""


@frozen(kw_only=True, eq=False)
class RunContext:
    """What the handles of one client share."""

    session: Session
    poller: RunPoller
    outputs: Outputs

    def attach(self, service: Service, connection_id: str, run_id: str) -> "RunHandle":
        """A handle of a run that is known by its ids. No request is made."""
        return RunHandle(
            service=service,
            connection_id=validate_id("connection_id", connection_id),
            run_id=validate_id("run_id", run_id),
            context=self,
        )

    def resume(self, resume_token: "str | RunHandle") -> "RunHandle":
        """A handle from a resume token or an unpickled handle. No request is made."""
        if isinstance(resume_token, RunHandle):
            return RunHandle(**resume_token.__getstate__(), context=self)
        token = ResumeToken.from_string(resume_token)
        return RunHandle(
            service=token.service,
            connection_id=token.connection_id,
            run_id=token.run_id,
            deadline=token.deadline,
            just_created=token.just_created,
            context=self,
        )


@define(eq=False, kw_only=True, repr=False)
class RunHandle:
    """A run to wait for. Handles pickle without their client; see `ExportClient.resume`.

    `connection_id`, `run_id`: the run's ids. `origin`: where the handle got its run from. `last`:
    the latest snapshot, None before the first. `deadline`: when a `wait` without a timeout ends;
    from the resume token or the pickle of the handle, None for no such limit.
    """

    connection_id: str
    run_id: str
    origin: RunOrigin = RunOrigin.ATTACHED
    last: Run | None = None
    deadline: datetime | None = None
    service: Service = Service.EXPORT
    _context: RunContext | None = None
    _imodel_id: str | None = None  # for log records
    _sas_url: str | None = None  # of the output that our options name; never pickled
    _just_created: bool = False  # as the resume token says
    _latest_wait: Deadline | None = field(default=None, init=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunHandle) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        state = "" if self.last is None else f", state={self.last.state.value!r}"
        return (
            f"RunHandle(connection_id={self.connection_id!r}, run_id={self.run_id!r}, "
            f"origin={self.origin.value!r}{state})"
        )

    def __getstate__(self) -> dict[str, Any]:
        names = ("connection_id", "run_id", "origin", "last", "service")
        return {name: getattr(self, name) for name in names} | {
            "deadline": self._carried_deadline,
            "imodel_id": self._key.imodel_id,
            "just_created": self._just_created,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def joined(self) -> bool:
        """Whether the run was active before, maybe with other options and started by others."""
        return self.origin is RunOrigin.JOINED

    @property
    def resume_token(self) -> str:
        """A URL-safe text from which `client.resume` makes a handle, in any process.

        It holds no secret. It carries the deadline of the latest `wait`.
        """
        return self._token(self._carried_deadline)

    async def refresh(self) -> Run:
        """Poll once. Raises what the request raises: `NotFound`, `TransportError`, ..."""
        self.last = (await poll_once(self._open_context.session, self._key)).run
        return self.last

    async def wait(
        self,
        *,
        timeout: Timeout = USE_DEFAULT,
        check: bool = True,
        on_update: OnUpdate | None = None,
        on_poll: OnPoll | None = None,
    ) -> Run:
        """Wait for the end of the run, and return the final snapshot.

        `timeout` bounds the whole call, in seconds; None waits for ever; left out, the handle's
        deadline holds, and without one 24 hours. With `check` any outcome but `SUCCESS` and
        `SKIPPED` raises `RunFailed` (or `RunPartlyFailed`). `on_update` receives every `RunUpdate`,
        `on_poll` the latest snapshot after every poll, also after one that failed.

        Raises `RunTimeout` after `timeout`, `RunUnreachable` when polls have failed for longer than
        the client's `max_outage`, and errors that waiting cannot cure, such as `PermissionDenied`.

        Cancelling the call ends the waiting, never the run: the service cannot cancel runs.
        """
        deadline = self._latest_wait = Deadline.of(timeout, self.deadline)
        callbacks = Callback("on_update", on_update), Callback("on_poll", on_poll)
        with span("itwin wait", **self._key.log_fields["itwin"]) as active_span:
            try:
                async with asyncio.timeout_at(deadline.at) as timer:
                    run = await self._follow_to_end(deadline, *callbacks)
            except TimeoutError:
                if not timer.expired():
                    raise
                raise self._timed_out(deadline, "after") from None
            active_span.set(outcome=run.outcome.value)
            if run.outcome not in (ExecutionResult.SUCCESS, ExecutionResult.SKIPPED):
                active_span.fail(f"the run ended with {run.outcome.value}")
                if check:
                    raise run_failed(run, **self._facts)
        return run

    async def updates(self) -> AsyncGenerator[RunUpdate, None]:
        """Yield the present state, then every change, then the final state.

        Raises as `wait` does, but has no timeout, and every outcome is an update.
        """
        seen: Run | None = None
        subscription = self._subscribe()
        try:
            async for event in subscription:
                update = self._apply_event(event, subscription, seen)
                if update is not None:
                    seen = update.run
                    yield update
        finally:
            subscription.close()

    async def estimate(self) -> Estimate | None:
        """Estimate the seconds until the run ends; None without earlier runs of the connection.

        It costs one request for the list of earlier runs, once for each connection, and a poll if
        nothing waits for the run.
        """
        if self._final is not None:
            return Estimate(low=0.0, median=0.0, high=0.0)
        poller = self._open_context.poller
        durations = forecast(await poller.durations(self.service, self.connection_id))
        if durations is None:
            return None
        age = await poller.age(self._key)
        low, median, high = (durations.remaining(age, chance) for chance in (0.1, 0.5, 0.9))
        return Estimate(low=low, median=median, high=high)

    async def outputs(self) -> tuple[RunOutput, ...]:
        """The output files of the finished run, as soon as Storage knows them.

        Each can be read as a stream by its `open()`. Raises `DownloadError`: `not_finished`,
        `no_output`, or `not_available` when Storage does not know a file after 30 s.
        """
        outputs = self._open_context.outputs
        return await outputs.find(await self._finished(), sas_url=self._output_url)

    async def download(
        self, destination: str | PathLike[str], *, on_progress: Progress | None = None
    ) -> list[Path]:
        """Download every output file of the finished run, and return the paths.

        `destination` is a folder if it exists as one, ends with a separator or has no suffix;
        otherwise it is the path of the file, and further files get `-2`, `-3` before the suffix.
        Raises a `ValueError` for a destination that can never be one, and `DownloadError`.

        The output of `USER_BLOB_STORAGE` is downloaded from there by the handle that started the
        run, if its URL allows reading; for any other handle use `client.storage.download_blob`.
        """
        outputs = self._open_context.outputs
        run = await self._finished()
        return await outputs.download(run, destination, on_progress, sas_url=self._output_url)

    async def _finished(self) -> Run:
        """The final run, read again unless it was seen to be final."""
        return self._final or await self.refresh()

    @property
    def _final(self) -> Run | None:
        """The final snapshot, None if it was not seen yet."""
        return self.last if self.last is not None and self.last.is_final else None

    @property
    def log_fields(self) -> dict[str, Any]:
        """The `extra` of log records about the run."""
        return self._key.log_fields

    @property
    def log_label(self) -> str:
        """The run in a log line."""
        return self._key.label

    @property
    def _key(self) -> RunKey:
        imodel_id = self._imodel_id
        if imodel_id is None and self._context is not None:
            imodel_id = self._context.session.imodel_of(self.connection_id)
        return RunKey(
            service=self.service,
            connection_id=self.connection_id,
            run_id=self.run_id,
            imodel_id=imodel_id,
        )

    @property
    def _output_url(self) -> str | None:
        """The caller's blob with the output. A run that others started writes to another."""
        return None if self.joined else self._sas_url

    @property
    def _open_context(self) -> RunContext:
        if self._context is None:
            raise RuntimeError("the handle has no client: pass it to client.resume() first")
        self._context.session.check_open()
        return self._context

    @property
    def _is_just_created(self) -> bool:
        """Whether parts of the service may not know the run yet."""
        was_named = self._just_created or self.origin is not RunOrigin.ATTACHED
        return was_named and self._final is None

    @property
    def _carried_deadline(self) -> datetime | None:
        """The deadline for tokens and pickles."""
        if self._latest_wait is None:
            return self.deadline
        return self._latest_wait.carried(datetime.now(UTC))

    def _token(self, deadline: datetime | None) -> str:
        return ResumeToken(
            service=self.service,
            connection_id=self.connection_id,
            run_id=self.run_id,
            deadline=deadline,
            just_created=self._is_just_created,
        ).to_string()

    def _subscribe(self, *, every_poll: bool = False) -> Subscription:
        poller = self._open_context.poller
        if self._final is not None:
            return poller.replay(self._final)
        return poller.subscribe(
            self._key,
            just_created=self._is_just_created,
            was_seen=self.last is not None,
            is_new=self.origin is RunOrigin.STARTED and self.last is None,
            every_poll=every_poll,
        )

    async def _follow_to_end(
        self, deadline: Deadline, on_update: Callback, on_poll: Callback
    ) -> Run:
        """The final snapshot that this call saw."""
        seen: Run | None = None
        subscription = self._subscribe(every_poll=on_poll.function is not None)
        try:
            async for event in subscription:
                if isinstance(event, Throttled) and deadline.is_before(event.until):
                    when = "and the service allows no poll within"
                    raise self._timed_out(deadline, when) from event.error
                update = self._apply_event(event, subscription, seen)
                if update is not None:
                    seen = update.run
                    await on_update(update)
                if self.last is not None and not (isinstance(event, Snapshot) and event.is_replay):
                    await on_poll(self.last)
        finally:
            subscription.close()
        assert seen is not None
        return seen

    def _apply_event(
        self, event: PollEvent, subscription: Subscription, seen: Run | None
    ) -> RunUpdate | None:
        """The update that the event is after the snapshot `seen`; None if it changes nothing."""
        self.last = subscription.latest or self.last
        match event:
            case Snapshot():
                changes = diff(seen, event.run)
                if changes or event.is_final:
                    return RunUpdate(run=event.run, changes=changes)
            case PollMissed():
                run = seen or self.last
                if event.starts_outage and run is not None:
                    return RunUpdate(run=run, trouble=event.error)
            case _:
                raise poll_failed(event, self.last, **self._facts)
        return None

    def _timed_out(self, deadline: Deadline, when: str) -> RunTimeout:
        """The error of a wait that ends at its deadline. Its token has no deadline any more."""
        if self.deadline is deadline.moment:
            self.deadline = None
        if self._latest_wait is deadline:
            self._latest_wait = None
        facts = {**self._facts, "resume_token": self._token(None)}
        return timed_out(self.last, when, deadline.seconds, **facts)

    @property
    def _facts(self) -> dict[str, str]:
        """What an error says of the run."""
        return {
            "connection_id": self.connection_id,
            "run_id": self.run_id,
            "resume_token": self.resume_token,
        }
