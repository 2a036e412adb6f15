"""What Export and Synchronization have in common: connections, their runs, and one run at a time.

Each of the two has a `Service` of its own.
"""

from collections import deque

from attrs import define, field, frozen

from itwin_export_async.emulator._state.run_lifecycle import Run, RunPlan


@frozen(kw_only=True)
class IModel:
    """An iModel; `authorized` says whether those who ask may use it."""

    id: str
    name: str
    itwin_id: str
    authorized: bool


@frozen(kw_only=True)
class SourceFile:
    """A file of Storage that is to go into an iModel."""

    id: str
    storage_file_id: str
    connector_type: str


@frozen(kw_only=True)
class Connection:
    """A connection of an iModel; its source files when it is one of Synchronization."""

    id: str
    imodel: IModel
    display_name: str | None
    authentication_type: str
    source_files: tuple[SourceFile, ...] = ()


@define(kw_only=True, eq=False)
class Service:
    """The connections of one service, their runs, and the fates laid down for runs to come."""

    connections: dict[str, Connection] = field(factory=dict)
    _runs: dict[str, dict[str, Run]] = field(factory=dict)
    _latest: dict[str, Run] = field(factory=dict)
    _plans: dict[str, deque[RunPlan]] = field(factory=dict)

    def keep(self, connection: Connection) -> Connection:
        """Add a connection, or put it in the place of the one it was."""
        self.connections[connection.id] = connection
        self._runs.setdefault(connection.id, {})
        return connection

    def remove(self, connection: Connection) -> None:
        """Forget a connection and its runs."""
        del self.connections[connection.id]
        runs = self._runs.pop(connection.id)
        latest = self._latest.get(connection.imodel.id)
        if latest is not None and latest.id in runs:
            del self._latest[connection.imodel.id]

    def of(self, imodel: IModel) -> list[Connection]:
        """The connections of an iModel."""
        return [c for c in self.connections.values() if c.imodel is imodel]

    def runs(self, connection: Connection) -> dict[str, Run]:
        """The runs of a connection by their ids, in the order in which they began."""
        return self._runs[connection.id]

    def run(self, connection_id: str, run_id: str) -> Run | None:
        """The run of these ids, or None."""
        return self._runs.get(connection_id, {}).get(run_id)

    def last_run(self, connection: Connection) -> Run | None:
        """The newest run of a connection, or None."""
        return next(reversed(self._runs[connection.id].values()), None)

    def active_run(self, imodel: IModel, now: float) -> Run | None:
        """The run that goes on for an iModel, by whatever connection, or None."""
        run = self._latest.get(imodel.id)
        return run if run is not None and run.is_active(now) else None

    def add_run(self, connection: Connection, run: Run) -> None:
        """Let a run begin."""
        self._runs[connection.id][run.id] = run
        self._latest[connection.imodel.id] = run

    def enqueue_plan(self, imodel_id: str, plan: RunPlan) -> None:
        """Say how a run of this iModel will end, after those already laid down."""
        self._plans.setdefault(imodel_id, deque()).append(plan)

    def next_plan(self, imodel: IModel) -> RunPlan:
        """How the next run of this iModel will end."""
        waiting = self._plans.get(imodel.id)
        return waiting.popleft() if waiting else RunPlan()
