"""Durations of earlier runs: those this client has seen, and one page of the connection's list.

The list is loaded at most once while the history is kept, and only for a run that is old enough for
the saved polls to pay for the request. A connection that the session has just created has no
earlier runs.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

from attrs import define, evolve

from itwin_export_async._errors import ExportError
from itwin_export_async._http.session import Session
from itwin_export_async._models import Run
from itwin_export_async._protocol.runs import Service, list_runs_request, parse_runs

log = logging.getLogger("itwin_export_async.runs")

MIN_RUN_AGE = 60.0  # seconds
_MAX_CONNECTIONS, _MAX_RUNS = 1000, 50


@define(eq=False, kw_only=True)
class ConnectionHistory:
    """The earlier runs of one connection.

    `durations`: seconds, the latest last. `is_loaded`: the connection's list was read.
    `may_load`: whether a poll of an old run may still request the list.
    """

    service: Service
    connection_id: str
    durations: tuple[float, ...] = ()
    is_loaded: bool = False
    may_load: bool = True
    _run_ids: tuple[str, ...] = ()

    def add(self, run: Run) -> None:
        """Add the duration of a final run, once."""
        if run.is_final and run.duration and run.id not in self._run_ids:
            self._run_ids = (*self._run_ids, run.id)[-_MAX_RUNS:]
            self.durations = (*self.durations, run.duration)[-_MAX_RUNS:]

    def claim_load(self, *, age: float) -> bool:
        """Whether to load the list now, for a run of this age in seconds; True only once."""
        if self.is_loaded or not self.may_load or age <= MIN_RUN_AGE:
            return False
        self.may_load = False
        return True


class RunHistory:
    """The histories of the connections that were used last. `loads`: tasks that read lists."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._retry = evolve(session.retry, attempts=1)  # useful, not needed
        self.loads: set[asyncio.Task[None]] = set()
        self._connections: OrderedDict[tuple[Service, str], ConnectionHistory] = OrderedDict()

    def of(self, service: Service, connection_id: str) -> ConnectionHistory:
        """The history of a connection; runs added later appear in it."""
        key = (service, connection_id)
        history = self._connections.get(key)
        if history is None:
            history = ConnectionHistory(
                service=service,
                connection_id=connection_id,
                may_load=not self._session.claim_new_connection(connection_id),
            )
        self._connections[key] = history
        self._connections.move_to_end(key)
        if len(self._connections) > _MAX_CONNECTIONS:
            self._connections.popitem(last=False)
        return history

    async def load(self, history: ConnectionHistory) -> None:
        """Read one page of the connection's runs. Raises what the request raises."""
        request = list_runs_request(
            history.service, history.connection_id, page_size=None, offset=0
        )
        response = await self._session.send(request, retry=self._retry, is_poll=True)
        for run in parse_runs(response, history.connection_id).items:
            history.add(run)
        history.is_loaded = True

    def start_load(self, history: ConnectionHistory) -> None:
        """Read the page in a task of its own, whose errors are logged only."""
        work: Coroutine[Any, Any, None] = self.load(history)
        task = asyncio.create_task(work, name=history.connection_id, context=Context())
        self.loads.add(task)
        task.add_done_callback(self._on_load_done)

    def _on_load_done(self, task: "asyncio.Task[None]") -> None:
        """The load has finished. A bug in the caller's provider or transport ends no wait here."""
        self.loads.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            is_expected = isinstance(error, ExportError)
            log.log(
                logging.DEBUG if is_expected else logging.ERROR,
                "could not load the run history of connection %s: %s",
                task.get_name(),
                error if is_expected else type(error).__name__,
                extra={"itwin": {"connection_id": task.get_name()}},
            )
