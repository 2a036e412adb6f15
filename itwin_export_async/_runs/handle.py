"""Run handles: what you hold while a run goes on."""

import asyncio
import copy
import inspect
from collections.abc import AsyncGenerator, Callable
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from itwin_export_async._errors import (
    ExportError,
    RunFailed,
    RunPartlyFailed,
    RunTimeout,
    RunUnreachable,
)
from itwin_export_async._files.download import Progress
from itwin_export_async._files.outputs import Outputs
from itwin_export_async._http.session import Session
from itwin_export_async._models import ExecutionResult, Run, RunOrigin, RunOutput, RunUpdate
from itwin_export_async._polling.poller import RunKey, RunPoller, Watch, look
from itwin_export_async._polling.state import Ending, News, Sighting, changes
from itwin_export_async._protocol.runs import Service
from itwin_export_async._protocol.urls import validate_id
from itwin_export_async._runs.deadline import USE_DEFAULT, Limit, Limits, RetryAfterTooLate, Timeout
from itwin_export_async._runs.resume_token import ResumeToken, write_token

OnUpdate = Callable[[RunUpdate], Any]
"""Called with each update; sync or async. What it raises goes to the one who passed it."""


@frozen(kw_only=True, eq=False)
class RunContext:
    """What the handles of one client work with."""

    session: Session
    following: RunPoller
    outputs: Outputs

    def attach(self, service: Service, connection_id: str, run_id: str) -> "RunHandle":
        """A handle of a run that is known by its ids."""
        return RunHandle(
            service=service,
            connection_id=validate_id("connection_id", connection_id),
            run_id=validate_id("run_id", run_id),
            desk=self,
        )


@define(eq=False, kw_only=True)
class RunHandle:
    """A run that you can wait for. It pickles (without its client; see `ExportClient.resume`).

    `connection_id`, `run_id`: the run's ids. `origin`: how the handle came by it. `last`: the
    latest state seen, None before the first. `deadline`: until when `wait` may last if it is given
    no timeout, from the token or the pickle that the handle was made of; None for no such limit.
    """

    connection_id: str
    run_id: str
    origin: RunOrigin = RunOrigin.ATTACHED
    last: Run | None = field(default=None, repr=False)
    deadline: datetime | None = None
    service: Service = Service.EXPORT
    _desk: RunContext | None = field(default=None, repr=False)
    _sas_url: str | None = field(default=None, repr=False)  # of the output; never pickled
    _fresh: bool = field(default=False, repr=False)  # its token said so
    _limits: Limits = field(factory=Limits, init=False, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunHandle) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __getstate__(self) -> dict[str, Any]:
        names = ("connection_id", "run_id", "origin", "last", "service")
        return {name: getattr(self, name) for name in names} | {
            "deadline": self._limits.latest(self.deadline),
            "fresh": self._fresh,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def joined(self) -> bool:
        """Whether the run was active already, maybe started by others and with other options."""
        return self.origin is RunOrigin.JOINED

    @property
    def resume_token(self) -> str:
        """A text that `client.resume` takes up the run from, in any process. It holds no secret.

        Its deadline is that of the `wait` that goes on (the latest of several) or was cancelled.
        """
        return write_token(
            ResumeToken(
                service=self.service,
                connection_id=self.connection_id,
                run_id=self.run_id,
                deadline=self._limits.latest(self.deadline),
                fresh=self._is_fresh,
            )
        )

    async def refresh(self) -> Run:
        """Look once, now. Raises what the look raises: `NotFound`, `TransportError`, ..."""
        self.last = (await look(self._open_desk.session, self._key)).run
        return self.last

    async def wait(
        self,
        *,
        timeout: Timeout = USE_DEFAULT,
        check: bool = True,
        on_update: OnUpdate | None = None,
    ) -> Run:
        """Wait for the run to end, and return it as it ended.

        `timeout` bounds all of it, in seconds; None waits for ever; left out, the handle's deadline
        holds, and without one 24 hours. With `check` an outcome other than success or skipped
        raises `RunFailed` (or `RunPartlyFailed`). `on_update` gets every `RunUpdate`.

        Raises `RunTimeout` after `timeout`, `RunUnreachable` when the run could not be looked at
        for longer than the client's outage allowance, and at once what waiting cannot cure, such
        as `PermissionDenied`.

        Cancelling it ends the waiting and never the export: the service has no call for that.
        """
        try:
            with self._limits.limited(timeout, self.deadline) as limit:
                async with asyncio.timeout_at(limit.ends) as clock:
                    run = await self._see_through(limit.ends, on_update)
        except RetryAfterTooLate as late:
            raise self._timed_out(limit, "and may not be looked at within") from late.refusal
        except TimeoutError:
            if not clock.expired():
                raise
            raise self._timed_out(limit, "after") from None
        if check:
            self._check(run)
        return run

    async def updates(self) -> AsyncGenerator[RunUpdate, None]:
        """The run's state now, then every change, the last one always; then it ends.

        Raises as `wait` does, but sets no time limit and does not mind how the run ends.
        """
        seen: Run | None = None
        watch = self._watch()
        try:
            while (news := await watch.next()) is not None:
                run = self._seen(news, None)
                if run is not None:
                    yield RunUpdate(run=run, changes=changes(seen, run))
                    seen = run
        finally:
            watch.close()

    async def outputs(self) -> tuple[RunOutput, ...]:
        """The output files of the finished run, as soon as Storage knows them.

        Each can be read as a stream by its `open()`. Raises `DownloadError`: `not_finished`,
        `no_output`, or `not_available` when Storage does not know a file after 30 s.
        """
        outputs = self._open_desk.outputs
        return await outputs.find(await self._finished(), sas_url=self._sas_url)

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
        outputs = self._open_desk.outputs
        run = await self._finished()
        return await outputs.download(run, destination, on_progress, sas_url=self._sas_url)

    async def _finished(self) -> Run:
        """The final run, read again unless it was seen to be final."""
        return self.last if self.last is not None and self.last.is_final else await self.refresh()

    @property
    def _key(self) -> RunKey:
        return RunKey(service=self.service, connection_id=self.connection_id, run_id=self.run_id)

    @property
    def _open_desk(self) -> RunContext:
        if self._desk is None:
            raise RuntimeError("this handle has no client: pass it to client.resume() first")
        self._desk.session.check_open()
        return self._desk

    async def _see_through(self, ends: float | None, on_update: OnUpdate | None) -> Run:
        """The run as it ended. `ends`: past it an asked wait is not worth waiting for."""
        seen: Run | None = None
        watch = self._watch()
        try:
            while (news := await watch.next()) is not None:
                run = self._seen(news, ends)
                if run is not None and on_update is not None:
                    told = on_update(RunUpdate(run=run, changes=changes(seen, run)))
                    if inspect.isawaitable(told):
                        await told
                seen = run or seen
        finally:
            watch.close()
        assert self.last is not None
        return self.last

    @property
    def _is_fresh(self) -> bool:
        """Whether some part of the service may not know the run yet."""
        was_named = self._fresh or self.origin is not RunOrigin.ATTACHED
        return was_named and not (self.last is not None and self.last.is_final)

    def _watch(self) -> Watch:
        following = self._open_desk.following
        if self.last is not None and self.last.is_final:
            return following.look_back(self.last)
        new = self.origin is RunOrigin.STARTED and self.last is None
        return following.watch(self._key, fresh=self._is_fresh, new=new)

    def _seen(self, news: News, ends: float | None) -> Run | None:
        """The run that was seen, None where the news is of something else; bad news are raised."""
        match news:
            case Sighting():
                self.last = news.run
                return news.run
            case Ending():
                raise self._ended(news)
            case _:
                if ends is not None and news.until > ends:
                    raise RetryAfterTooLate(news.error)
                return None

    def _ended(self, ending: Ending) -> BaseException:
        """The error of this waiter: each gets its own, from the one that all share."""
        error = ending.error
        if ending.outage is not None:
            unreachable = RunUnreachable(
                message=f"could not be looked at for {ending.outage:.0f} s: {error}; "
                "it may well go on, client.resume(error.resume_token) takes it up again",
                **self._facts(),
            )
            unreachable.__cause__ = error
            return unreachable
        if not isinstance(error, ExportError):
            return error
        own = copy.copy(error)
        own.__cause__ = error.__cause__
        return own

    def _timed_out(self, limit: Limit, how: str) -> RunTimeout:
        if self.deadline is limit.deadline:  # it has passed
            self.deadline = None
        state = f"still {self.last.state.value}" if self.last else "not yet seen"
        return RunTimeout(
            message=f"is {state} {how} the time allowed; it may well go on, "
            "client.resume(error.resume_token) takes it up again",
            **evolve(self, deadline=None)._facts(),
        )

    def _check(self, run: Run) -> None:
        outcome = run.outcome
        if outcome in (ExecutionResult.SUCCESS, ExecutionResult.SKIPPED):
            return
        kind = RunPartlyFailed if outcome == ExecutionResult.PARTIAL_SUCCESS else RunFailed
        called = run.result.value if run.result else outcome.value
        told = "" if called == outcome.value else f", while the service calls it {called}"
        raise kind(message=f"ended with {outcome.value}{told}", **self._facts())

    def _facts(self) -> dict[str, Any]:
        return {
            "connection_id": self.connection_id,
            "run_id": self.run_id,
            "run": self.last,
            "resume_token": self.resume_token,
        }
