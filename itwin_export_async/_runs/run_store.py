"""A start that happens once for a key, in whichever process and after any crash.

Before each request that may start a run, a note is stored under the key. A later call with the key
resumes the noted run, or finds the run of an interrupted start, or starts one. The note has the
window of time in which the run may have been started (`start_state`).

The store keeps two kinds of values, both JSON: the note of a key, and for each started run the key
that owns it.
"""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Protocol

from attrs import define, evolve, frozen

from itwin_export_async._errors import Conflict, ExportError, LedgerError
from itwin_export_async._http.pager import list_runs
from itwin_export_async._models import ExportOptions, RunOrigin
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.handle import RunContext, RunHandle
from itwin_export_async._runs.start_state import StartState, StartWindow, match_runs
from itwin_export_async._runs.starter import (
    IfActive,
    RunStarter,
    export_starter,
    read_clock,
    service_now,
    user_blob_url,
)

log = logging.getLogger("itwin_export_async.runs")

_PREFIX = "itwin_export_async"


class RunStore(Protocol):
    """Where `start_once` keeps its notes: a key-value store that all processes share.

    A value that was set must be returned by every later `get`, also after a crash.
    """

    async def get(self, key: str) -> str | None:
        """Return the value of a key, None if it has none."""
        ...

    async def set(self, key: str, value: str) -> None:
        """Store a value. Return when it is safe."""
        ...


@frozen(kw_only=True)
class StartNote:
    """What the store says of a key.

    `window`: when a run may have been started, None if none was or the run is known.
    `resume_token`, `origin`: the run, None while it is not known.
    """

    window: StartWindow | None = None
    resume_token: str | None = None
    origin: RunOrigin | None = None

    def to_json(self) -> str:
        """The note as text."""
        window = self.window
        values = {
            "since": window and window.since.isoformat(),
            "until": window and window.until and window.until.isoformat(),
            "resume_token": self.resume_token,
            "origin": self.origin and self.origin.value,
        }
        return json.dumps({name: value for name, value in values.items() if value})

    @classmethod
    def from_json(cls, text: str | None, key: str) -> "StartNote":
        """The note of a key from its text; an empty one from None. Raises a `LedgerError`."""
        if text is None:
            return cls()
        try:
            values = json.loads(text)
            token, origin = values.get("resume_token"), values.get("origin")
            if not isinstance(token, str | None):
                raise TypeError("resume_token is no text")
            return cls(
                window=_to_window(values.get("since"), values.get("until")),
                resume_token=token,
                origin=None if origin is None else RunOrigin(origin),
            )
        except (ValueError, TypeError, AttributeError, RecursionError) as exc:
            raise _damaged(key) from exc


def _to_window(since: str | None, until: str | None) -> StartWindow | None:
    if since is None:
        return None
    first = datetime.fromisoformat(since)
    last = None if until is None else datetime.fromisoformat(until)
    for date in (first, last):
        if date is not None and (date.tzinfo is None or not 1970 < date.year < 9999):
            raise ValueError(f"{date} is no date of a run")
    return StartWindow(since=first, until=last)


class _AlreadyStarted(Exception):
    """Another process has started the run of the key meanwhile."""

    def __init__(self, handle: RunHandle) -> None:
        self.handle = handle


@define(eq=False, kw_only=True)
class OnceStarter:
    """Starts the run of one key, once."""

    context: RunContext
    store: RunStore
    key: str
    connection_id: str
    options: ExportOptions
    if_active: IfActive
    _written: str | None = None  # the latest note of this call

    async def start(self) -> RunHandle:
        """The handle of the key's run: resumed, recovered, started or joined."""
        try:
            note = await self._read_note()
            handle = await self._recovered(note.window) if note.window else None
            return await self._noted(handle or await self._started(note.window))
        except _AlreadyStarted as found:
            return found.handle

    async def _read_note(self) -> StartNote:
        """The note of an unfinished start. Raises `_AlreadyStarted` if there is a run."""
        note = StartNote.from_json(await self.store.get(self._note_key), self.key)
        if note.resume_token is not None:
            raise _AlreadyStarted(self._resumed(note.resume_token, note.origin))
        return note

    async def _write_note(self, note: StartNote) -> None:
        self._written = note.to_json()
        await self.store.set(self._note_key, self._written)

    async def _noted(self, handle: RunHandle) -> RunHandle:
        if handle.joined:
            await self._check_not_started(handle)
        else:
            await self.store.set(_run_key(handle.run_id), json.dumps({"key": self.key}))
        await self._write_note(StartNote(resume_token=handle.resume_token, origin=handle.origin))
        return handle

    def _resumed(self, text: str, origin: RunOrigin | None) -> RunHandle:
        try:
            handle = self.context.resume(text)
        except ValueError as exc:
            raise _damaged(self.key) from exc
        sas_url = user_blob_url(self.options)
        return evolve(handle, origin=origin or RunOrigin.ATTACHED, sas_url=sas_url)

    async def _recovered(self, window: StartWindow) -> RunHandle | None:
        """The run that an interrupted start of this key made, None if there is none."""
        runs = await list_runs(self.context.session, Service.EXPORT, self.connection_id)
        candidates = [run for run in runs if window.contains(run)]
        others = {run.id for run in candidates if await self._belongs_to_other(run.id)}
        run = match_runs([(self.key, window)], candidates, others).get(self.key)
        if run is None:
            return None
        handle = self.context.attach(Service.EXPORT, self.connection_id, run.id)
        log.info("recovered %s for key %s", handle.log_label, self.key, extra=handle.log_fields)
        return evolve(handle, origin=RunOrigin.RECOVERED, sas_url=user_blob_url(self.options))

    async def _belongs_to_other(self, run_id: str) -> bool:
        return await self._owner(run_id) not in (None, self.key)

    async def _owner(self, run_id: str) -> str | None:
        """The key that owns the run, None if none is noted."""
        text = await self.store.get(_run_key(run_id))
        if text is None:
            return None
        try:
            owner: str = json.loads(text)["key"]
        except (ValueError, TypeError, KeyError) as exc:
            raise _damaged(self.key) from exc
        return owner

    async def _started(self, window: StartWindow | None) -> RunHandle:
        if window is not None and window.is_settled(service_now(self.context)):
            window = None
        await read_clock(self.context, self.connection_id)
        starter = export_starter(
            self.context,
            self.connection_id,
            self.options,
            if_active=self.if_active,
            belongs_to_other=self._belongs_to_other,
            while_waiting=self._while_waiting,
            state=StartState(earlier=window),
        )
        starter.before_send = partial(self._note_request, starter)
        try:
            return await starter.start()
        except ExportError as error:
            if isinstance(error, Conflict) and error.handle is not None:
                await self._check_not_started(error.handle)
            may_clear = self._written is not None and not starter.state.is_uncertain
            if may_clear and self._wrote(await self._read_note()):
                await self._write_note(StartNote())
            raise

    async def _note_request(self, starter: RunStarter, is_uncertain: bool) -> None:
        """Note that a run may exist, and take over what another process has noted."""
        note, now = await self._read_note(), service_now(self.context)
        since = now
        if note.window is not None and (is_uncertain or not self._wrote(note)):
            since = min(note.window.since, now)
        window = StartWindow(since=since, until=now)
        if not self._wrote(note):
            starter.state = evolve(starter.state, earlier=note.window)
        await self._write_note(StartNote(window=window))

    def _wrote(self, note: StartNote) -> bool:
        return note.to_json() == self._written

    @asynccontextmanager
    async def _while_waiting(self, handle: RunHandle) -> AsyncIterator[None]:
        """Note that no request of this call may have started a run.

        The active run may be the key's own: a call at the same time may note it a moment later.
        """
        note = await self._check_not_started(handle)
        if self._wrote(note):
            await self._write_note(StartNote())
        yield
        await self._check_not_started(handle)

    async def _check_not_started(self, handle: RunHandle) -> StartNote:
        """The key's note. Raises `_AlreadyStarted` if another call has started the run."""
        if await self._owner(handle.run_id) == self.key:
            raise _AlreadyStarted(evolve(handle, origin=RunOrigin.RECOVERED))
        return await self._read_note()

    @property
    def _note_key(self) -> str:
        return f"{_PREFIX}:start:{self.key}"


def _run_key(run_id: str) -> str:
    return f"{_PREFIX}:run:{run_id}"


def _damaged(key: str) -> LedgerError:
    return LedgerError(
        message="the store holds a value that is no note of a start; remove it if no run of the "
        "key is active",
        path="run store",
        key=key,
    )


class MemoryRunStore:
    """A `RunStore` in this process, for tests and single-process programs."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        """Return the value of a key, None if it has none."""
        return self._values.get(key)

    async def set(self, key: str, value: str) -> None:
        """Store a value."""
        self._values[key] = value
