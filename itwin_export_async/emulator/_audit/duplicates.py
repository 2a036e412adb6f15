"""Duplicates: a run or a connection that is created a second time after a lost answer.

Not every duplicate is a violation. A client that repeats a lost start gets the active run, or a new
one if that run has ended, and cannot know better. The service does not know either how often an
export is wanted. A second run is a violation if the client saw the first one in a list and did not
poll it; with `forbid_repeat_runs` also if it knew the first one at all. A connection can always be
found in a list, so a second one is a violation if the client did not list.
"""

import json
from collections import defaultdict, deque

from attrs import define

from itwin_export_async.emulator._audit.violations import ViolationLog
from itwin_export_async.emulator._http.exchange import Exchange
from itwin_export_async.emulator._http.messages import ids_in_location
from itwin_export_async.emulator._state.platform import Platform
from itwin_export_async.emulator._state.run_lifecycle import HAS_OUTPUT, Run

_STARTS = frozenset({"create_run", "start_synchronization"})
_LISTS = frozenset({"list_runs", "list_synchronizations"})
_POLLS = _STARTS | {"get_run", "get_synchronization"}
_NAMES_RUNS = _LISTS | _POLLS | {"get_connection", "get_storage_connection"}
_MAX_LISTS = 100
_MAX_KEYS = 10_000  # requests whose starts are remembered


def _canonical(body: bytes | None) -> str:
    """Return a text that is equal for equal bodies."""
    try:
        return json.dumps(json.loads(body or b"null"), sort_keys=True)
    except (ValueError, RecursionError):
        return repr(body)


@define(eq=False, kw_only=True)
class _Start:
    """A run that was started. `known` and `listed` are when its client learned of it."""

    run: Run
    is_lost: bool = False
    known: int | None = None
    listed: int | None = None
    is_followed: bool = False


class DuplicateRunDetector:
    """Detects runs that were started twice."""

    def __init__(self, log: ViolationLog, platform: Platform) -> None:
        self._log = log
        self._platform = platform
        self._starts: defaultdict[tuple[str, str, str], list[_Start]] = defaultdict(list)
        self._pending: dict[Exchange, _Start] = {}
        self._lost: defaultdict[str, dict[str, _Start]] = defaultdict(dict)

    def handled(self, exchange: Exchange) -> None:
        """The handler has been called, or a fault prevented it."""
        response = exchange.handler_response
        if exchange.operation not in _STARTS or response is None or response.status != 202:
            return
        connection_id, run_id = ids_in_location(response)
        run = self._platform.run(connection_id, run_id)
        assert run is not None, "it was started just now"
        if len(self._starts) >= _MAX_KEYS:  # pragma: no cover - a bound of memory
            del self._starts[next(iter(self._starts))]
        earlier = self._starts[exchange.operation, connection_id, _canonical(exchange.request.body)]
        for start in earlier:
            if self._is_duplicate(start, exchange):
                message = (
                    f"run {run.id} was started although the client knew run {start.run.id}, "
                    "which an equal request had started and which has not failed"
                )
                self._log.record("run started twice", exchange, message, start.run.id)
        self._pending[exchange] = _Start(run=run)
        earlier.append(self._pending[exchange])

    def delivered(self, exchange: Exchange, order: int) -> None:
        """The client has the answer."""
        start = self._pending.pop(exchange, None)
        if start is not None:
            start.known = order
            self._settle(start.run.connection_id, exchange)
        elif self._lost and exchange.operation in _NAMES_RUNS:
            self._learn(exchange, order)

    def lost(self, exchange: Exchange) -> None:
        """The client will not get the answer."""
        start = self._pending.pop(exchange, None)
        if start is not None:
            start.is_lost = True
            self._lost[start.run.connection_id][start.run.id] = start

    def _is_duplicate(self, start: _Start, exchange: Exchange) -> bool:
        run = start.run
        if not run.is_active(exchange.at) and run.result not in HAS_OUTPUT:
            return False
        if self._platform.settings.forbid_repeat_runs:
            return start.known is not None and start.known < exchange.sent
        was_listed = start.listed is not None and start.listed < exchange.sent
        return start.is_lost and was_listed and not start.is_followed

    def _settle(self, connection_id: str, exchange: Exchange) -> None:
        """The client has its run: runs that equal requests lost before do not matter any more."""
        body = _canonical(exchange.request.body)
        for start in self._starts[exchange.operation, connection_id, body]:
            if start.is_lost:
                start.is_followed = True

    def _learn(self, exchange: Exchange, order: int) -> None:
        """The answer may name runs that the client lost."""
        answer = exchange.answer
        assert answer is not None
        assert exchange.context is not None
        if answer.status == 303 and exchange.handler_response is not None:
            connection_id, run_id = ids_in_location(exchange.handler_response)
            lost_start = self._lost.get(connection_id, {}).get(run_id)
            named = [] if lost_start is None else [lost_start]
        else:
            lost = self._lost.get(next(iter(exchange.context.ids), ""), {})
            named = [lost[run_id] for run_id in lost if run_id.encode() in answer.body]
        for start in named:
            start.known = start.known or order
            if exchange.operation in _LISTS:
                start.listed = start.listed or order
            elif exchange.operation in _POLLS:
                start.is_followed = True


@define(eq=False, kw_only=True)
class _Creation:
    """A connection that was created.

    `at` and `lost` are positions in the order of events. Lists show it from `visible_at` on.
    """

    connection_id: str
    at: int
    visible_at: float
    lost: int | None = None


class DuplicateConnectionDetector:
    """Detects connections that were created twice."""

    def __init__(self, log: ViolationLog, platform: Platform) -> None:
        self._log = log
        self._platform = platform
        self._lost: defaultdict[str, list[_Creation]] = defaultdict(list)
        self._pending: dict[Exchange, _Creation] = {}
        self._lists: defaultdict[str, deque[int]] = defaultdict(lambda: deque(maxlen=_MAX_LISTS))

    def handled(self, exchange: Exchange, order: int) -> None:
        """The handler has been called, or a fault prevented it."""
        response = exchange.handler_response
        if exchange.operation != "create_connection" or response is None or response.status != 201:
            return
        connection = json.loads(response.body)["connection"]
        lists = self._lists[connection["iModelId"]]
        listed = lists.popleft() if lists else None  # each creation needs a list of its own
        for created in self._lost[_canonical(exchange.request.body)]:
            exists = created.connection_id in self._platform.exports.connections
            was_visible = exchange.at >= created.visible_at
            listed_before = listed is not None and listed < created.at
            was_under_way = created.lost is None or exchange.sent < created.lost
            if exists and was_visible and not was_under_way and not listed_before:
                message = (
                    f"connection {connection['id']} was created although {created.connection_id}, "
                    "of an equal request before, was in the list"
                )
                self._log.record("connection made twice", exchange, message, created.connection_id)
        delay = self._platform.settings.connection_visibility_delay
        self._pending[exchange] = _Creation(
            connection_id=connection["id"], at=order, visible_at=exchange.at + delay
        )

    def delivered(self, exchange: Exchange, order: int) -> None:
        """The client has the answer."""
        if self._pending.pop(exchange, None) is not None:
            self._lost.pop(_canonical(exchange.request.body), None)
        elif exchange.operation == "list_connections" and exchange.context is not None:
            self._lists[exchange.context.query.get("imodelid", "")].append(order)

    def lost(self, exchange: Exchange, order: int) -> None:
        """The client will not get the answer."""
        created = self._pending.pop(exchange, None)
        if created is not None:
            created.lost = order
            self._lost[_canonical(exchange.request.body)].append(created)
