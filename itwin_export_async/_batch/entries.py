"""What a ledger says of a request, and what to do next with it.

    known ──▶ starting ──▶ started ──▶ finished ──▶ in place
      ▲           │            │           │
      └───────────┘            └─────┬─────┘
      (no run exists)                ▼
                                  failed ──▶ starting

An entry is written before the step that it announces begins. So a request that was left in
`starting` may or may not have a run: the first one of its connection that began since then, that
has not failed and that no other request owns, is its run. Where several requests of a connection
were left, the one that was left last chooses first.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial

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
from itwin_export_async._protocol.runs import started_after
from itwin_export_async._redaction import redacted, without_query
from itwin_export_async._runs.resume_token import ResumeToken

_LARGEST_ERROR = 2000
_FAR = datetime.max.replace(tzinfo=UTC)
_GOOD = (ExecutionResult.SUCCESS, ExecutionResult.SKIPPED)


class State(StrEnum):
    """How far a request has come."""

    KNOWN = "known"
    STARTING = "starting"
    STARTED = "started"
    FINISHED = "finished"
    IN_PLACE = "in place"
    FAILED = "failed"


class Step(StrEnum):
    """What to do next with a request."""

    START = "start a run"
    FIND = "find the run that may have been started, or start one"
    FOLLOW = "follow the run"
    FETCH = "fetch its output"
    REPORT = "say that it is done"


STEPS = {
    State.KNOWN: Step.START,
    State.STARTING: Step.FIND,
    State.STARTED: Step.FOLLOW,
    State.FINISHED: Step.FETCH,
    State.IN_PLACE: Step.REPORT,
    State.FAILED: Step.START,
}


@frozen(kw_only=True)
class OutputFile:
    """A file that was fetched: its absolute path and its size in bytes."""

    path: str
    size: int


def utf8_safe(text: str) -> str:
    """The text as a file in UTF-8 can have it: what has no place there (as a byte of a path that
    is no UTF-8) is spelled out.
    """
    return text.encode(errors="backslashreplace").decode()


@frozen(kw_only=True)
class Entry:
    """What is known of a request, in texts that can be stored.

    `options` is a fingerprint. `since`: the moment, by the service's clock, since when a run of it
    may exist. `token` resumes its run; `origin` tells how that was come by. `result`, `began` and
    `ended` are the run's, None while not known. `error` is what it last ended with, None for
    nothing.
    """

    key: str = field(converter=utf8_safe)
    imodel_id: str = field(converter=utf8_safe)
    destination: str = field(converter=utf8_safe)
    display_name: str = field(converter=utf8_safe)
    options: str
    state: State = State.KNOWN
    connection_id: str | None = None
    run_id: str | None = None
    origin: RunOrigin | None = None
    since: datetime | None = None
    token: str | None = None
    result: str | None = field(default=None, converter=optional(utf8_safe))
    began: datetime | None = None
    ended: datetime | None = None
    files: tuple[OutputFile, ...] = ()
    error: str | None = field(default=None, converter=optional(utf8_safe))

    @property
    def has_run(self) -> bool:
        """Whether a run of it can be taken up: one that failed has made room for another."""
        return STEPS[self.state] not in (Step.START, Step.FIND)

    @property
    def run(self) -> Run | None:
        """The run that has ended, as far as it was written down; None while it has not."""
        if self.run_id is None or self.result is None:
            return None
        return Run(
            id=self.run_id,
            connection_id=self.connection_id or "",
            state=ExecutionState.COMPLETED,
            result=ExecutionResult(self.result),
            start_date_time=self.began,
            end_date_time=self.ended,
        )


def new_entry(request: ExportRequest) -> Entry:
    """The entry of a request that nothing was done for yet."""
    return Entry(
        key=request.identity,
        imodel_id=request.imodel_id,
        destination=request.destination,
        display_name=request.connection_name,
        options=fingerprint(request.options),
    )


def fingerprint(options: ExportOptions) -> str:
    """A text that is equal for equal options, and that they cannot be read from.

    Signed addresses count without their query: a new signature is no change.
    """
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


def differences(entry: Entry, request: ExportRequest) -> tuple[str, ...]:
    """What of the request is not as it was when it was written down, by its fields' names."""
    new = new_entry(request)
    names = ("imodel_id", "destination", "display_name", "options")
    return tuple(name for name in names if getattr(entry, name) != getattr(new, name))


def starting(entry: Entry, connection_id: str, since: datetime | None) -> Entry:
    """Before a run is asked for; what an earlier run left is gone."""
    return Entry(
        key=entry.key,
        imodel_id=entry.imodel_id,
        destination=entry.destination,
        display_name=entry.display_name,
        options=entry.options,
        state=State.STARTING,
        connection_id=connection_id,
        since=since,
    )


def started(entry: Entry, token: str, origin: RunOrigin) -> Entry:
    """With the run that was started, found again or joined."""
    told = ResumeToken.from_string(token)
    return evolve(
        entry,
        state=State.STARTED,
        connection_id=told.connection_id,
        run_id=told.run_id,
        origin=origin,
        token=token,
    )


def finished(entry: Entry, run: Run) -> Entry:
    """Once the run has ended well."""
    return evolve(_ended(entry, run), state=State.FINISHED, error=None)


def _ended(entry: Entry, run: Run) -> Entry:
    return evolve(
        entry,
        result=run.outcome.value,
        began=run.start_date_time,
        ended=run.end_date_time,
    )


def in_place(entry: Entry, files: Iterable[OutputFile]) -> Entry:
    """Once its output is on disk."""
    return evolve(entry, state=State.IN_PLACE, files=tuple(files), error=None)


def forgotten(entry: Entry) -> Entry:
    """Without the run that might have been started: it is known not to exist."""
    return evolve(entry, state=State.KNOWN, since=None)


def failed(entry: Entry, error: Exception, *, was_finished: bool) -> Entry:
    """After an error, with what it was.

    A run that failed or is gone makes room for a new one, and so does one whose output is gone, if
    it had ended before this call (`was_finished`): a new output may just be late. Everything else
    is taken up where it was left.
    """
    entry = evolve(entry, error=redacted(str(error))[:_LARGEST_ERROR])
    if isinstance(error, RunFailed) and error.run is not None:
        entry = _ended(entry, error.run)
    is_lost = _is_lost(error) or (was_finished and _has_no_file(error))
    if entry.state in (State.STARTED, State.FINISHED) and is_lost:
        return evolve(entry, state=State.FAILED)
    return entry


def _is_lost(error: Exception) -> bool:
    if isinstance(error, NotFound):
        return not error.is_gateway
    return isinstance(error, RunFailed)


def _has_no_file(error: Exception) -> bool:
    return isinstance(error, DownloadError) and error.reason == "not_available"


def found(
    entries: Iterable[Entry], runs: Collection[Run], owned: Collection[str]
) -> Iterator[tuple[Entry, Run]]:
    """The entries of one connection that were left in `starting`, with the runs that are theirs.

    `runs` are the connection's; `owned` are the ids of those that belong to other requests. A run
    that failed is nobody's: its request starts another one.
    """
    taken = set(owned)
    for entry in sorted(entries, key=_since, reverse=True):
        since = _since(entry)
        free = (run for run in runs if run.id not in taken and _is_of_use(run))
        fitting = (run for run in free if started_after(run, since))
        run = min(fitting, key=partial(_order, since=since), default=None)
        if run is not None:
            taken.add(run.id)
            yield entry, run


def _order(run: Run, *, since: datetime) -> tuple[bool, timedelta]:
    """The first run since then comes first; those that only the clocks' tolerance lets in, last."""
    after = (run.start_date_time or _FAR) - since
    return after < timedelta(0), abs(after)


def _since(entry: Entry) -> datetime:
    assert entry.since is not None
    return entry.since


def _is_of_use(run: Run) -> bool:
    return not run.is_final or run.outcome in _GOOD
