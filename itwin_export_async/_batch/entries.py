"""What a ledger says of a request, and which step comes next. Pure.

    new ──▶ starting ──▶ started ──▶ finished ──▶ in place
     ▲       │    ▲          │           │            │
     └───────┤    │          └─────┬─────┘            │ (another revision)
             ▼    │                ▼                  ▼
          waiting ┘             failed ──▶ starting   new

An entry is written before its step begins: an entry left in `starting` may have a run. `starting`
is written again before each request, so the run of an interrupted start lies in a narrow window.
An entry in `waiting` has no run: another request's run was active for its iModel.

The files of the last success stay in the entry until a new revision has replaced them.
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum

from attrs import evolve, field, frozen
from attrs.converters import optional

from itwin_export_async._errors import DownloadError, NotFound, RunFailed
from itwin_export_async._models import (
    ExecutionResult,
    ExecutionState,
    ExportOptions,
    ExportRequest,
    Run,
    RunOrigin,
)
from itwin_export_async._protocol.codec import encode
from itwin_export_async._redaction import redacted, without_query
from itwin_export_async._runs.resume_token import ResumeToken
from itwin_export_async._runs.start_state import StartWindow

MAX_ERROR_LENGTH = 2000


class EntryState(StrEnum):
    """How far a request has come."""

    NEW = "new"
    STARTING = "starting"
    WAITING = "waiting"
    STARTED = "started"
    FINISHED = "finished"
    IN_PLACE = "in place"
    FAILED = "failed"


class Step(StrEnum):
    """What to do next with a request."""

    START = "start a run, or find that of an interrupted start"
    WAIT = "wait for the run"
    DOWNLOAD = "download its output"
    REPORT = "report the outcome"


STEPS = {
    EntryState.NEW: Step.START,
    EntryState.STARTING: Step.START,
    EntryState.WAITING: Step.START,
    EntryState.STARTED: Step.WAIT,
    EntryState.FINISHED: Step.DOWNLOAD,
    EntryState.IN_PLACE: Step.REPORT,
    EntryState.FAILED: Step.START,
}


@frozen(kw_only=True)
class OutputFile:
    """A downloaded file.

    `path`: absolute. `size`: in bytes. `modified`: its `st_mtime_ns`, None in older ledgers.
    `is_kept`: whether it stays when a new revision has files of other names. `is_placed`: False
    while it is not known whether the file got its path.
    """

    path: str
    size: int
    modified: int | None = None
    is_kept: bool = True
    is_placed: bool = True


def utf8_safe(text: str) -> str:
    """The text with bytes that are no UTF-8 (in a path, for example) spelled out."""
    return text.encode(errors="backslashreplace").decode()


@frozen(kw_only=True)
class Entry:
    """One request in a ledger, in values that SQLite can store.

    `options`: a fingerprint. `revision`: the state of the model that is exported, None if not
    given. `pushed_at`: the iModel's `lastChangesetPushDateTime` when the revision was read, as the
    service wrote it. `since`, `until`: by the service's clock, when the first and the last request
    went out that may have started the run. `resume_token` resumes the run; `origin` says how it was
    found. `result`, `started_at`, `finished_at`: the run's, None while not known. `files`: those of
    the last success. `error`: the last one, None if none.
    """

    key: str = field(converter=utf8_safe)
    imodel_id: str = field(converter=utf8_safe)
    destination: str = field(converter=utf8_safe)
    display_name: str = field(converter=utf8_safe)
    options: str
    revision: str | None = field(default=None, converter=optional(utf8_safe))
    pushed_at: str | None = None
    state: EntryState = EntryState.NEW
    connection_id: str | None = None
    run_id: str | None = None
    origin: RunOrigin | None = None
    since: datetime | None = None
    until: datetime | None = None
    resume_token: str | None = None
    result: str | None = field(default=None, converter=optional(utf8_safe))
    started_at: datetime | None = None
    finished_at: datetime | None = None
    files: tuple[OutputFile, ...] = ()
    error: str | None = field(default=None, converter=optional(utf8_safe))

    @property
    def has_run(self) -> bool:
        """Whether a run of it can be resumed. A failed run makes room for another."""
        return STEPS[self.state] in (Step.WAIT, Step.DOWNLOAD, Step.REPORT)

    @property
    def window(self) -> StartWindow | None:
        """When an interrupted start may have started a run, None if none was interrupted."""
        if self.state is not EntryState.STARTING or self.since is None:
            return None
        return StartWindow(since=self.since, until=self.until)

    @property
    def run(self) -> Run | None:
        """The finished run as far as it was noted, None if none has finished."""
        if self.run_id is None or self.result is None:
            return None
        return Run(
            id=self.run_id,
            connection_id=self.connection_id or "",
            state=ExecutionState.COMPLETED,
            result=ExecutionResult(self.result),
            start_date_time=self.started_at,
            end_date_time=self.finished_at,
        )


def new_entry(request: ExportRequest) -> Entry:
    """The entry of a request that nothing was done for yet."""
    return Entry(
        key=request.identity,
        imodel_id=request.imodel_id,
        destination=request.destination,
        display_name=request.connection_name,
        options=fingerprint(request.options),
        revision=request.revision,
        pushed_at=getattr(request, "pushed_at", None),
    )


def fingerprint(options: ExportOptions) -> str:
    """A hash that is equal for equal options. Signed URLs count without their signature."""
    mapping, output = options.input.mappingfile_blob_url, options.output
    bare = evolve(
        options,
        input=evolve(options.input, mappingfile_blob_url=_unsigned(mapping)),
        output=evolve(
            output,
            output_sas_url=_unsigned(output.output_sas_url),
            logs_sas_url=_unsigned(output.logs_sas_url),
        ),
    )
    return hashlib.sha256(encode(bare)).hexdigest()


def _unsigned(url: str | None) -> str | None:
    return None if url is None else without_query(url) or "?"


_FIELDS_OF_KEY = ("imodel_id",)
_FIELDS_OF_REVISION = ("destination", "display_name", "options")


def changed_fields(entry: Entry, new: Entry) -> tuple[str, ...]:
    """The fields that may not differ between an entry and the new one of its key.

    A key belongs to one iModel. Destination, connection name and options may change with the
    revision only.
    """
    names: tuple[str, ...] = _FIELDS_OF_KEY
    if entry.revision == new.revision:
        names += _FIELDS_OF_REVISION
    return tuple(name for name in names if getattr(entry, name) != getattr(new, name))


def with_revision(entry: Entry, new: Entry) -> Entry:
    """The entry to continue with, for a request whose entry without a past is `new`.

    Another revision starts from the beginning, and keeps the old files until it has its own.
    """
    if entry.revision == new.revision:
        return evolve(entry, pushed_at=new.pushed_at or entry.pushed_at)
    return evolve(new, files=entry.files)


def starting(entry: Entry, connection_id: str, now: datetime, since: datetime | None) -> Entry:
    """Before a request is sent. `now`: the service's time; `since`: the first uncertain request."""
    return evolve(
        entry,
        state=EntryState.STARTING,
        connection_id=connection_id,
        since=now if since is None else since,
        until=now,
        run_id=None,
        origin=None,
        resume_token=None,
        result=None,
        started_at=None,
        finished_at=None,
        error=None,
    )


def waiting(entry: Entry) -> Entry:
    """While another request's run is active: no run of this request exists."""
    return evolve(entry, state=EntryState.WAITING, since=None, until=None)


def started(entry: Entry, resume_token: str, origin: RunOrigin) -> Entry:
    """With the run that was started, recovered or joined."""
    token = ResumeToken.from_string(resume_token)
    return evolve(
        entry,
        state=EntryState.STARTED,
        connection_id=token.connection_id,
        run_id=token.run_id,
        origin=origin,
        resume_token=resume_token,
    )


def finished(entry: Entry, run: Run) -> Entry:
    """When the run has ended well."""
    return evolve(_with_result(entry, run), state=EntryState.FINISHED, error=None)


def _with_result(entry: Entry, run: Run) -> Entry:
    return evolve(
        entry,
        result=run.outcome.value,
        started_at=run.start_date_time,
        finished_at=run.end_date_time,
    )


def with_claimed_file(entry: Entry, file: OutputFile) -> Entry:
    """Before the file gets its path, where an earlier one may still be."""
    return evolve(entry, files=tuple(dict.fromkeys((*entry.files, file))))


def in_place(entry: Entry, files: Iterable[OutputFile]) -> Entry:
    """When its output is on disk."""
    return evolve(entry, state=EntryState.IN_PLACE, files=tuple(files), error=None)


def reset(entry: Entry) -> Entry:
    """Without the run that might have been started: it does not exist."""
    return evolve(entry, state=EntryState.NEW, since=None, until=None)


def with_error(entry: Entry, error: Exception) -> Entry:
    """With the text of an error, in the same state."""
    return evolve(entry, error=redacted(str(error))[:MAX_ERROR_LENGTH])


def failed(entry: Entry, error: Exception, *, was_finished: bool) -> Entry:
    """After an error.

    A run that failed or was deleted makes room for a new one. So does a run without its output if
    it had finished before this call (`was_finished`); a new output may just be late. Everything
    else continues at the next call.
    """
    entry = with_error(entry, error)
    if isinstance(error, RunFailed) and error.run is not None:
        entry = _with_result(entry, error.run)
    is_lost = _is_lost(error) or (was_finished and _has_no_file(error))
    if entry.state in (EntryState.STARTED, EntryState.FINISHED) and is_lost:
        return evolve(entry, state=EntryState.FAILED)
    return entry


def _is_lost(error: Exception) -> bool:
    if isinstance(error, NotFound):
        return error.is_from_api
    return isinstance(error, RunFailed)


def _has_no_file(error: Exception) -> bool:
    return isinstance(error, DownloadError) and error.reason in ("not_available", "no_output")
