"""ViolationLog of those who lose an answer: a run, or a connection, that is made a second time.

Not every second one is a sin. Who repeats a lost start gets the run that goes on, or a new one
where that has ended meanwhile: nobody can know better. Nor does a service know how often somebody
wants the same export. So a second run is one where the client was shown the first in a list and did
not even look at it; and, with `forbid_repeat_runs`, wherever the client knew of the first at all. A
connection, however, can always be looked for, and a second one is made by those who did not.
"""

import json
from collections import defaultdict, deque

from attrs import define

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._audit.violations import ViolationLog
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._state.connections import Service
from itwin_export_async.emulator._state.platform import Platform
from itwin_export_async.emulator._state.run_lifecycle import HAS_OUTPUT, Run

_STARTS = frozenset({"create_run", "start_synchronization"})
_LISTS = frozenset({"list_runs", "list_synchronizations"})
_LOOKS = _STARTS | {"get_run", "get_synchronization"}
_NAMES_RUNS = _LISTS | _LOOKS | {"get_connection", "get_storage_connection"}
_LOOKS_REMEMBERED = 100


def _same(body: bytes | None) -> str:
    """A body in such a way that equal ones are equal."""
    try:
        return json.dumps(json.loads(body or b"null"), sort_keys=True)
    except ValueError:
        return repr(body)


@define(eq=False, kw_only=True)
class _Start:
    """A run that was started. `told` and `listed` are when its client learned of it."""

    run: Run
    is_lost: bool = False
    told: int | None = None
    listed: int | None = None
    is_taken_up: bool = False


class DuplicateRunDetector:
    """Sees runs started twice."""

    def __init__(self, violations: ViolationLog, world: Platform) -> None:
        self._violations = violations
        self._world = world
        self._starts: defaultdict[tuple[str, str, str], list[_Start]] = defaultdict(list)
        self._pending: dict[Exchange, _Start] = {}
        self._lost: defaultdict[str, dict[str, _Start]] = defaultdict(dict)

    def done(self, exchange: Exchange) -> None:
        """The services have done what was asked."""
        truth = exchange.truth
        if exchange.operation not in _STARTS or truth is None or truth.status != 202:
            return
        connection_id, run_id = _named(truth)
        run = self._service(exchange).run(connection_id, run_id)
        assert run is not None, "it was started just now"
        earlier = self._starts[exchange.operation, connection_id, _same(exchange.request.body)]
        for start in earlier:
            if self._is_twin(start, exchange):
                words = (
                    f"run {run.id} was started although the client knew of run {start.run.id}, "
                    "started by the same request before, which has not failed"
                )
                self._violations.record("run started twice", exchange, words, start.run.id)
        self._pending[exchange] = _Start(run=run)
        earlier.append(self._pending[exchange])

    def delivered(self, exchange: Exchange, order: int) -> None:
        """The client has the answer."""
        start = self._pending.pop(exchange, None)
        if start is not None:
            start.told = order
            self._settle(start.run.connection_id, exchange)
        elif self._lost and exchange.operation in _NAMES_RUNS:
            self._tell(exchange, order)

    def lost(self, exchange: Exchange) -> None:
        """The client will never have the answer."""
        start = self._pending.pop(exchange, None)
        if start is not None:
            start.is_lost = True
            self._lost[start.run.connection_id][start.run.id] = start

    def _is_twin(self, start: _Start, exchange: Exchange) -> bool:
        run = start.run
        if not run.is_active(exchange.at) and run.result not in HAS_OUTPUT:
            return False
        if self._world.settings.forbid_repeat_runs:
            return start.told is not None and start.told < exchange.sent
        shown = start.listed is not None and start.listed < exchange.sent
        return start.is_lost and shown and not start.is_taken_up

    def _settle(self, connection_id: str, exchange: Exchange) -> None:
        """The client has its run: what it lost by the same request before does not matter now."""
        for start in self._starts[exchange.operation, connection_id, _same(exchange.request.body)]:
            if start.is_lost:
                start.is_taken_up = True

    def _tell(self, exchange: Exchange, order: int) -> None:
        answer = exchange.answer
        assert answer is not None
        assert exchange.call is not None
        if answer.status == 303 and exchange.truth is not None:
            connection_id, run_id = _named(exchange.truth)
            known = self._lost.get(connection_id, {}).get(run_id)
            named = [] if known is None else [known]
        else:
            lost = self._lost.get(exchange.call.ids[0], {})
            named = [lost[run_id] for run_id in lost if run_id.encode() in answer.body]
        for start in named:
            start.told = start.told or order
            if exchange.operation in _LISTS:
                start.listed = start.listed or order
            elif exchange.operation in _LOOKS:
                start.is_taken_up = True

    def _service(self, exchange: Exchange) -> Service:
        is_export = exchange.operation == "create_run"
        return self._world.exports if is_export else self._world.synchronizations


@define(eq=False, kw_only=True)
class _Made:
    """A connection that was made; `at` and `lost` are places in the order of events."""

    connection_id: str
    at: int
    lost: int | None = None


class DuplicateConnectionDetector:
    """Sees connections made twice."""

    def __init__(self, violations: ViolationLog, world: Platform) -> None:
        self._violations = violations
        self._world = world
        self._lost: defaultdict[str, list[_Made]] = defaultdict(list)
        self._pending: dict[Exchange, _Made] = {}
        self._looks: defaultdict[str, deque[int]] = defaultdict(
            lambda: deque(maxlen=_LOOKS_REMEMBERED)
        )

    def done(self, exchange: Exchange, order: int) -> None:
        """The services have done what was asked."""
        truth = exchange.truth
        if exchange.operation != "create_connection" or truth is None or truth.status != 201:
            return
        connection = json.loads(truth.body)["connection"]
        looks = self._looks[connection["iModelId"]]
        look = looks.popleft() if looks else None  # each creation has a look of its own before it
        for made in self._lost[_same(exchange.request.body)]:
            is_there = made.connection_id in self._world.exports.connections
            knew_nothing = look is not None and look < made.at
            was_under_way = made.lost is None or exchange.sent < made.lost
            if is_there and not was_under_way and not knew_nothing:
                words = (
                    f"connection {connection['id']} was made although {made.connection_id}, of the "
                    "same request before, was there to be found"
                )
                self._violations.record(
                    "connection made twice", exchange, words, made.connection_id
                )
        self._pending[exchange] = _Made(connection_id=connection["id"], at=order)

    def delivered(self, exchange: Exchange, order: int) -> None:
        """The client has the answer."""
        if self._pending.pop(exchange, None) is not None:
            self._lost.pop(_same(exchange.request.body), None)
        elif exchange.operation == "list_connections" and exchange.call is not None:
            self._looks[exchange.call.query.get("imodelid", "")].append(order)

    def lost(self, exchange: Exchange, order: int) -> None:
        """The client will never have the answer."""
        made = self._pending.pop(exchange, None)
        if made is not None:
            made.lost = order
            self._lost[_same(exchange.request.body)].append(made)


def _named(answer: Response) -> tuple[str, str]:
    """The connection and the run that a Location names."""
    *_, connection_id, _, run_id = answer.headers["Location"].split("/")
    return connection_id, run_id
