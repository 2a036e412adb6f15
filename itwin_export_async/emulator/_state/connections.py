"""The connections of a service, their runs, and the plans for runs to come.

Export and Synchronization have one `ConnectionService` each. Only one run of an iModel is active in
each of them.
"""

from collections import deque
from typing import Any

from attrs import define, field, frozen

from itwin_export_async.emulator._state.imodels import IModel
from itwin_export_async.emulator._state.run_lifecycle import Run, RunPlan


@frozen(kw_only=True)
class SourceFile:
    """A source of a connection.

    A storage connection names a file in Storage and its connector. A manifest connection names a
    file of the caller's own, and has no connector.
    """

    id: str
    file_id: str
    connector_type: str | None = None


@frozen(kw_only=True)
class Connection:
    """A connection of an iModel. `kind` is "export", "storage" or "manifest"."""

    id: str
    kind: str
    imodel: IModel
    display_name: str | None
    authentication_type: str
    created_at: float
    source_files: tuple[SourceFile, ...] = ()


@define(kw_only=True, eq=False)
class ConnectionService:
    """The connections and runs of one service."""

    connections: dict[str, Connection] = field(factory=dict)
    options: dict[str, dict[str, Any]] = field(factory=dict)  # request bodies, by run id
    _runs: dict[str, dict[str, Run]] = field(factory=dict)
    _latest: dict[str, Run] = field(factory=dict)
    _plans: dict[str, deque[RunPlan]] = field(factory=dict)
    _default_plans: dict[str, RunPlan] = field(factory=dict)

    def save(self, connection: Connection) -> Connection:
        """Add a connection, or replace the one with its id."""
        self.connections[connection.id] = connection
        self._runs.setdefault(connection.id, {})
        return connection

    def remove(self, connection: Connection) -> None:
        """Delete a connection and its runs."""
        del self.connections[connection.id]
        runs = self._runs.pop(connection.id)
        for run_id in runs:
            self.options.pop(run_id, None)
        latest = self._latest.get(connection.imodel.id)
        if latest is not None and latest.id in runs:
            del self._latest[connection.imodel.id]

    def of(self, imodel: IModel) -> list[Connection]:
        """Return the connections of an iModel, the oldest first."""
        return [c for c in self.connections.values() if c.imodel is imodel]

    def runs(self, connection: Connection) -> dict[str, Run]:
        """Return the runs of a connection by id, in the order of their starts."""
        return self._runs[connection.id]

    def run(self, connection_id: str, run_id: str) -> Run | None:
        """Return the run with these ids, None if there is none."""
        return self._runs.get(connection_id, {}).get(run_id)

    def last_run(self, connection: Connection) -> Run | None:
        """Return the newest run of a connection, None before the first."""
        return next(reversed(self._runs[connection.id].values()), None)

    def active_run(self, imodel: IModel, now: float) -> Run | None:
        """Return the active run of an iModel, of whichever connection, None if there is none."""
        run = self._latest.get(imodel.id)
        return run if run is not None and run.is_active(now) else None

    def add_run(self, connection: Connection, run: Run, body: dict[str, Any]) -> None:
        """Start a run; `body` is its request's."""
        self._runs[connection.id][run.id] = run
        self._latest[connection.imodel.id] = run
        self.options[run.id] = body

    def plan_runs(self, imodel_id: str, plan: RunPlan, *, times: int | None) -> None:
        """Plan so many runs of this iModel, after those that are planned; None for all others."""
        if times is None:
            self._default_plans[imodel_id] = plan
        else:
            self._plans.setdefault(imodel_id, deque()).extend([plan] * times)

    def next_plan(self, imodel: IModel) -> RunPlan:
        """Take the plan for the next run of this iModel; a default one if none was made."""
        plans = self._plans.get(imodel.id)
        return plans.popleft() if plans else self._default_plans.get(imodel.id, RunPlan())
