"""What earlier runs took: what this client has seen, and one page of the connection's list.

The list is asked for lazily, at most once for each connection, and only when it pays: for a run
that is followed for longer than some looks cost.
"""

import logging
from collections import OrderedDict

from attrs import define, evolve

from itwin_export_async._errors import ExportError
from itwin_export_async._http.session import Session
from itwin_export_async._models import Run
from itwin_export_async._protocol.runs import Service, list_runs_request, parse_runs

log = logging.getLogger(__name__)

MIN_RUN_AGE = 60.0  # seconds of a run's age
_CONNECTIONS, _RUNS = 1000, 50


@define(eq=False, kw_only=True)
class Past:
    """The earlier runs of one connection. `durations`: the seconds they took, as far as known."""

    service: Service
    connection_id: str
    durations: tuple[float, ...] = ()
    is_asked: bool = False
    _run_ids: tuple[str, ...] = ()

    def add(self, run: Run) -> None:
        """Remember what a run took, once it is final."""
        if run.is_final and run.duration and run.id not in self._run_ids:
            self._run_ids = (*self._run_ids, run.id)[-_RUNS:]
            self.durations = (*self.durations, run.duration)[-_RUNS:]


class History:
    """The durations of earlier runs, for the connections that were last of interest."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._retry = evolve(session.retry, attempts=1)  # it is of use, but not needed
        self._pasts: OrderedDict[tuple[Service, str], Past] = OrderedDict()

    def past(self, service: Service, connection_id: str) -> Past:
        """What is known of a connection's earlier runs, and becomes known while you keep it."""
        key = (service, connection_id)
        past = self._pasts.get(key) or Past(service=service, connection_id=connection_id)
        self._pasts[key] = past
        self._pasts.move_to_end(key)
        if len(self._pasts) > _CONNECTIONS:
            self._pasts.popitem(last=False)
        return past

    async def ask(self, past: Past, *, age: float) -> None:
        """Ask for the connection's earlier runs, unless that was done before.

        `age`: of the run that is followed, in seconds; for a young one it does not pay yet.
        """
        if past.is_asked or age <= MIN_RUN_AGE:
            return
        past.is_asked = True
        request = list_runs_request(past.service, past.connection_id, page_size=None, offset=0)
        try:
            response = await self._session.send(request, retry=self._retry, is_poll=True)
            page = parse_runs(response, past.connection_id)
        except ExportError as error:
            log.debug("past runs of connection %s are not told: %s", past.connection_id, error)
            return
        for run in page.items:
            past.add(run)
