"""What earlier runs took: what this client has seen, and one page of the connection's list.

The list is asked for lazily, at most once for each connection, and only when it pays: for a run
that is followed for longer than some looks cost.
"""

import logging
from collections import OrderedDict, deque

from attrs import define, evolve, field

from itwin_export_async._errors import ExportError
from itwin_export_async._models import Run
from itwin_export_async._protocol.runs import Service, list_runs, read_runs
from itwin_export_async._session import Session

log = logging.getLogger(__name__)

PAYS_AFTER = 60.0  # seconds of a run's age
_CONNECTIONS, _RUNS = 1000, 50


@define(eq=False)
class _Past:
    durations: deque[float] = field(factory=lambda: deque(maxlen=_RUNS))
    run_ids: deque[str] = field(factory=lambda: deque(maxlen=_RUNS))
    is_asked: bool = False

    def add(self, run: Run) -> None:
        if run.is_final and run.duration and run.id not in self.run_ids:
            self.run_ids.append(run.id)
            self.durations.append(run.duration)


class History:
    """The durations of earlier runs, for the connections that were last of interest."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._retry = evolve(session.retry, attempts=1)  # it is of use, but not needed
        self._pasts: OrderedDict[tuple[Service, str], _Past] = OrderedDict()

    def durations(self, service: Service, connection_id: str) -> tuple[float, ...]:
        """Seconds that earlier runs of the connection took, as far as known now."""
        return tuple(self._past(service, connection_id).durations)

    def add(self, service: Service, run: Run) -> None:
        """Remember what a run took, once it is final."""
        self._past(service, run.connection_id).add(run)

    async def ask(self, service: Service, connection_id: str) -> None:
        """Ask for the connection's earlier runs, unless that was done before."""
        past = self._past(service, connection_id)
        if past.is_asked:
            return
        past.is_asked = True
        request = list_runs(service, connection_id, page_size=None, offset=0)
        try:
            response = await self._session.send(request, retry=self._retry, is_poll=True)
            page = read_runs(response, connection_id)
        except ExportError as error:
            log.debug("the earlier runs of connection %s are not told: %s", connection_id, error)
            return
        for run in page.items:
            past.add(run)

    def _past(self, service: Service, connection_id: str) -> _Past:
        past = self._pasts.setdefault((service, connection_id), _Past())
        self._pasts.move_to_end((service, connection_id))
        if len(self._pasts) > _CONNECTIONS:
            self._pasts.popitem(last=False)
        return past
