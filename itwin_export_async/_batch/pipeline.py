"""One export from end to end: connection, run, wait, download.

With a ledger each step is noted before the next begins, and an export that an earlier call left is
continued where its entry says. Steps before and after the run wait out an outage together with the
other exports of the call (`outage`); the wait for a run does so itself.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from attrs import define, evolve, field

from itwin_export_async._batch.context import BatchContext, Record
from itwin_export_async._batch.entries import (
    STEPS,
    Entry,
    EntryState,
    Step,
    failed,
    finished,
    in_place,
    new_entry,
    with_claimed_file,
)
from itwin_export_async._batch.itwin import ItwinRequest
from itwin_export_async._batch.ledger_rows import HistoryLine
from itwin_export_async._batch.outcomes import OnStart
from itwin_export_async._batch.output_paths import claimed_file, files_exist
from itwin_export_async._batch.run_start import RunStart
from itwin_export_async._errors import RunFailed, RunTimeout, StartTimeout
from itwin_export_async._files.destinations import check_destination
from itwin_export_async._files.download import Progress
from itwin_export_async._models import (
    ExportOutcome,
    ExportRequest,
    Run,
    RunOrigin,
)
from itwin_export_async._models.validators import validate_timeout
from itwin_export_async._protocol.files import was_skipped
from itwin_export_async._runs.callback import Callback
from itwin_export_async._runs.handle import OnUpdate, RunHandle
from itwin_export_async._runs.starter import user_blob_url

log = logging.getLogger("itwin_export_async.batch")

T = TypeVar("T")


@define(eq=False, kw_only=True)
class ExportPipeline:
    """One export, from the state that its entry has.

    `without_slot`: entered while the export waits for another request's run.
    """

    context: BatchContext
    request: ExportRequest
    on_start: OnStart | None = None
    on_update: OnUpdate | None = None
    on_progress: Progress | None = None
    without_slot: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext
    _record: Record = field()
    _run_start: RunStart = field(init=False)
    _deadline: float | None = None  # the loop's time
    _handle: RunHandle | None = None
    _paths: tuple[Path, ...] | None = None
    _owner: str = field(init=False)  # of its output paths
    _was_finished: bool = False  # whether its run had finished before this call

    @_record.default
    def _new_record(self) -> Record:
        return Record(entry=new_entry(self.request), ledger=None)

    @_run_start.default
    def _default_run_start(self) -> RunStart:
        return RunStart(
            context=self.context,
            request=self.request,
            record=self._record,
            without_slot=self.without_slot,
        )

    @_owner.default
    def _default_owner(self) -> str:
        return uuid4().hex if self.context.ledger is None else self.entry.key

    @property
    def entry(self) -> Entry:
        """How far the export has come."""
        return self._record.entry

    async def run(self, timeout: float | None) -> ExportOutcome:
        """The outcome of a successful export. `timeout`: seconds for all of it, None for no limit.

        Raises `RunTimeout`, or `StartTimeout` while there is no run, and what its steps raise.
        """
        timeout = validate_timeout(timeout)
        if timeout is not None:
            self._deadline = asyncio.get_running_loop().time() + timeout
        self._was_finished = STEPS[self.entry.state] in (Step.DOWNLOAD, Step.REPORT)
        try:
            async with asyncio.timeout_at(self._deadline) as limit:
                await self._check_destination()
                up_to_date = self.entry.state is EntryState.IN_PLACE
                while (step := STEPS[self.entry.state]) is not Step.REPORT:
                    if step is Step.WAIT:
                        await self._wait()
                    elif step is Step.DOWNLOAD:
                        await self._download()
                    else:
                        self._handle = await self._run_start.start()
                return self._outcome(up_to_date=up_to_date)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._timeout_error(timeout) from None

    async def fail(self, error: Exception) -> ExportOutcome:
        """The outcome of an export that ended with this error."""
        is_logged = isinstance(error, RunFailed)  # as a warning, when the run finished
        log.log(
            logging.DEBUG if is_logged else logging.WARNING,
            "export of iModel %s failed: %s",
            self.request.imodel_id,
            "; ".join(map(str.strip, str(error).splitlines())),
            extra=self._log_fields(),
        )
        entry = failed(self.entry, error, was_finished=self._was_finished)
        await self._save_outcome(entry, error)
        return self._outcome(error=error)

    async def _check_destination(self) -> None:
        """Refuse an impossible destination, and notice downloaded files that are gone."""
        files, paths, owner = self.entry.files, self.context.paths, self._owner
        check_destination(self.request.destination)
        if self._has_chosen_name:
            paths.claim([self.request.destination], owner)
        else:
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
            self._record.entry = evolve(self.entry, state=EntryState.FINISHED)

    async def _wait(self) -> None:
        handle = self._run_handle()
        await Callback("on_start", self.on_start)(handle)
        run = await handle.wait(timeout=self._time_left(), on_update=self.on_update)
        await self._record.save(finished(self.entry, run))

    async def _download(self) -> None:
        handle = self._run_handle()
        run = handle.last
        if run is None:
            run = await self.context.outage.run(handle.refresh)
        paths: tuple[Path, ...] = ()
        if not was_skipped(run):
            sas_url = None if handle.joined else user_blob_url(self.request.options)
            found = await self.context.outage.run(
                lambda: self.context.runs.outputs.download(
                    run,
                    self.request.destination,
                    self.on_progress,
                    sas_url=sas_url,
                    choose_path=partial(self._choose_path, taken=set()),
                )
            )
            paths = tuple(found)
        self._paths = paths
        await self._remove_superseded(paths)
        claimed = {file.path: file for file in self.entry.files}
        files = [evolve(claimed[str(path.absolute())], is_placed=True) for path in paths]
        await self._save_outcome(in_place(self.entry, files), None)

    async def _remove_superseded(self, new: tuple[Path, ...]) -> None:
        """Remove the files of the earlier revision, if the request replaces them and has new ones.

        The outcome is noted afterwards: after a crash in between, the next call still knows them.
        """
        if not new or self._keeps_files:
            return
        files, paths = self.entry.files, self.context.paths
        for path in await self._in_thread(lambda: paths.superseded(files, new, self._owner)):
            try:
                await self._in_thread(path.unlink)
            except OSError as error:
                reason = error.strerror or error
                message = "%s of an earlier revision cannot be removed: %s"
                log.warning(message, path, reason, extra=self._log_fields())
            else:
                message = "%s of an earlier revision is replaced by %s"
                log.info(message, path, ", ".join(map(str, new)), extra=self._log_fields())

    async def _choose_path(
        self, path: Path, written: os.stat_result, *, taken: set[Path]
    ) -> tuple[Path, bool]:
        """The path itself, or with `-2`, `-3`, ... if another export or file is in the way.

        `written`: the complete file. `taken`: the paths chosen before, for other outputs of the
        run, or for this one where another file appeared meanwhile. The path is noted before the
        file gets it, so that the next call knows whose file it is.
        """
        paths, request = self.context.paths, self.request
        chosen, replace = await self._in_thread(
            lambda: paths.choose(
                path,
                self._owner,
                named=None if self._has_chosen_name else request.destination,
                files=self.entry.files,
                taken=taken,
            )
        )
        taken.add(chosen)
        file = claimed_file(chosen, written, is_kept=self._keeps_files)
        await self._record.save(with_claimed_file(self.entry, file))
        return chosen, replace

    @property
    def _has_chosen_name(self) -> bool:
        """Whether the library has chosen the name of the destination, and not the user."""
        return isinstance(self.request, ItwinRequest)

    @property
    def _keeps_files(self) -> bool:
        """Whether files of an earlier revision stay where the new ones have other names."""
        return not (isinstance(self.request, ItwinRequest) and self.request.replaces_files)

    def _run_handle(self) -> RunHandle:
        """The handle of the run, made from the ledger if an earlier call started it."""
        if self._handle is None:
            assert self.entry.resume_token is not None
            context, request = self.context.runs, self.request
            handle = context.resume(self.entry.resume_token)
            context.session.remember_imodel(handle.connection_id, request.imodel_id)
            self._handle = evolve(
                handle,
                origin=self.entry.origin or RunOrigin.ATTACHED,
                sas_url=user_blob_url(request.options),
                imodel_id=request.imodel_id,
            )
        return self._handle

    async def _save_outcome(self, entry: Entry, error: Exception | None) -> None:
        outcome = type(error).__name__ if error else (entry.result or "")
        run = self._last_run(entry)
        seconds = None if run is None else run.duration
        await self._record.save(entry, HistoryLine.of(entry, outcome, seconds))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self.context.runs.outputs.in_thread(work)

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(self._deadline - asyncio.get_running_loop().time(), 0.001)

    def _timeout_error(self, timeout: float | None) -> RunTimeout | StartTimeout:
        if self._handle is None and not self.entry.has_run:
            assert timeout is not None
            return StartTimeout(imodel_id=self.request.imodel_id, seconds=timeout)
        handle = evolve(self._run_handle(), deadline=None)  # the next `wait` sets its own
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

    def _last_run(self, entry: Entry) -> Run | None:
        if self._handle is not None and self._handle.last is not None:
            return self._handle.last
        return entry.run if entry.has_run else None

    def _outcome(
        self, *, error: Exception | None = None, up_to_date: bool = False
    ) -> ExportOutcome:
        paths = self._paths
        if paths is None:
            paths = tuple(Path(file.path) for file in self.entry.files)
        return ExportOutcome(
            request=self.request,
            connection_id=self.entry.connection_id,
            run=self._last_run(self.entry),
            paths=() if error else paths,
            error=error,
            up_to_date=up_to_date,
        )
