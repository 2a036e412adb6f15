"""A start that happens once for a key, in whichever process and after any crash.

Before each request that may start a run, a note is stored under the key. A later call with the key
resumes the noted run, or finds the run of an interrupted start, or starts one. The note has the
window of time in which the run may have been started (`start_state`).

The store keeps two kinds of values, both JSON: the note of a key, and for each started run the key
that owns it.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Protocol

from attrs import evolve, frozen

from itwin_export_async._http.pager import list_runs
from itwin_export_async._models import ExportOptions, RunOrigin
from itwin_export_async._protocol.runs import Service, get_connection_request
from itwin_export_async._runs.handle import RunContext, RunHandle
from itwin_export_async._runs.resume_token import ResumeToken
from itwin_export_async._runs.start_state import StartState, StartWindow, match_runs
from itwin_export_async._runs.starter import IfActive, export_starter, user_blob_url

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
    def from_json(cls, text: str | None) -> "StartNote":
        """The note from its text; an empty one from None. Raises a `ValueError` for other text."""
        if text is None:
            return cls()
        try:
            values = json.loads(text)
            since, until = values.get("since"), values.get("until")
            origin = values.get("origin")
            return cls(
                window=since
                and StartWindow(
                    since=datetime.fromisoformat(since),
                    until=until and datetime.fromisoformat(until),
                ),
                resume_token=values.get("resume_token"),
                origin=origin and RunOrigin(origin),
            )
        except (ValueError, TypeError, AttributeError) as exc:
            raise ValueError("the store holds a value that is no start note") from exc


class _StartedElsewhere(Exception):
    """The active run is the key's own: another process has started it meanwhile."""

    def __init__(self, handle: RunHandle) -> None:
        super().__init__(handle.run_id)
        self.handle = handle


@frozen(kw_only=True)
class OnceStarter:
    """Starts the run of one key, once."""

    context: RunContext
    store: RunStore
    key: str
    connection_id: str
    options: ExportOptions
    if_active: IfActive

    async def start(self) -> RunHandle:
        """The handle of the key's run: resumed, recovered, started or joined.

        Calls with one key in one process go one after the other. Another process may have started
        the run meanwhile: then it is the active run, and the store says whose it is.
        """
        lock = self.context.session.locks.setdefault(("start_once", self.key), asyncio.Lock())
        async with lock:
            try:
                return await self._start()
            except _StartedElsewhere as started:
                return await self._noted(
                    evolve(
                        started.handle,
                        origin=RunOrigin.RECOVERED,
                        sas_url=user_blob_url(self.options),
                    )
                )

    async def _start(self) -> RunHandle:
        note = StartNote.from_json(await self.store.get(self._note_key))
        if note.resume_token is not None:
            return self._resumed(note.resume_token, note.origin or RunOrigin.ATTACHED)
        handle = await self._recovered(note.window) if note.window else None
        if handle is None:
            handle = await self._started(note.window)
        return await self._noted(handle)

    async def _noted(self, handle: RunHandle) -> RunHandle:
        """Note the run of the key."""
        if not handle.joined:
            await self.store.set(_run_key(handle.run_id), json.dumps({"key": self.key}))
        done = StartNote(resume_token=handle.resume_token, origin=handle.origin)
        await self.store.set(self._note_key, done.to_json())
        return handle

    def _resumed(self, text: str, origin: RunOrigin) -> RunHandle:
        token = ResumeToken.from_string(text)
        handle = self.context.attach(token.service, token.connection_id, token.run_id)
        sas_url = None if origin is RunOrigin.JOINED else user_blob_url(self.options)
        return evolve(handle, origin=origin, sas_url=sas_url, deadline=token.deadline)

    async def _recovered(self, window: StartWindow) -> RunHandle | None:
        """The run that an interrupted start of this key made, None if there is none."""
        runs = await list_runs(self.context.session, Service.EXPORT, self.connection_id)
        candidates = [run for run in runs if window.contains(run)]
        others = {run.id for run in candidates if await self._is_owned_by_other(run.id)}
        run = match_runs([(self.key, window)], candidates, others).get(self.key)
        if run is None:
            return None
        handle = self.context.attach(Service.EXPORT, self.connection_id, run.id)
        log.info("recovered %s for key %s", handle.log_label, self.key, extra=handle.log_fields)
        return evolve(handle, origin=RunOrigin.RECOVERED, sas_url=user_blob_url(self.options))

    async def _is_owned_by_other(self, run_id: str) -> bool:
        return await self._owner(run_id) not in (None, self.key)

    async def _owner(self, run_id: str) -> str | None:
        """The key that owns a run, None where no start has noted it."""
        text = await self.store.get(_run_key(run_id))
        if text is None:
            return None
        try:
            return str(json.loads(text)["key"])
        except (ValueError, TypeError, KeyError) as exc:
            raise ValueError("the store holds a value that is no owner of a run") from exc

    async def _started(self, window: StartWindow | None) -> RunHandle:
        starter = export_starter(
            self.context,
            self.connection_id,
            self.options,
            if_active=self.if_active,
            while_waiting=self._while_waiting,
            state=StartState(earlier=window),
        )
        noted = window

        async def note_request() -> None:
            nonlocal noted
            now = self.context.session.service_time() or datetime.now(UTC)
            since = noted.since if noted is not None and starter.state.is_uncertain else now
            noted = StartWindow(since=since, until=now)
            await self.store.set(self._note_key, StartNote(window=noted).to_json())

        starter.before_send = note_request
        session = self.context.session
        if session.service_time() is None:  # any response makes the service's clock known
            await session.send(get_connection_request(Service.EXPORT, self.connection_id))
        return await starter.start()

    @asynccontextmanager
    async def _while_waiting(self, handle: RunHandle) -> AsyncIterator[None]:
        await self._check_owner(handle)
        await self.store.set(self._note_key, StartNote().to_json())  # no run of this key exists
        yield
        await self._check_owner(handle)

    async def _check_owner(self, handle: RunHandle) -> None:
        if await self._owner(handle.run_id) == self.key:
            raise _StartedElsewhere(handle)

    @property
    def _note_key(self) -> str:
        return f"{_PREFIX}:start:{self.key}"


def _run_key(run_id: str) -> str:
    return f"{_PREFIX}:run:{run_id}"


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
