"""What a served emulator tells of itself: a page for people, and the same as JSON.

Both are read-only, need no token, and are no requests of the service's own. Nothing in them opens
anything: no token, no secret, no signed address.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from heapq import nlargest
from itertools import islice
from typing import Any, TypeAlias

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._audit.violations import Violation
from itwin_export_async.emulator._dashboard.page import page, policy, state_html
from itwin_export_async.emulator._handlers.serializers import run_detail
from itwin_export_async.emulator._http.pipeline import Gateway
from itwin_export_async.emulator._http.request_log import RequestRecord
from itwin_export_async.emulator._http.routes import ROUTES
from itwin_export_async.emulator._middleware.rate_limiter import TIERS
from itwin_export_async.emulator._state.connections import Connection, Service
from itwin_export_async.emulator._state.platform import Platform
from itwin_export_async.emulator._state.run_lifecycle import Run

State: TypeAlias = dict[str, Any]

_SHOWN, _SHOWN_REQUESTS = 50, 100
_COUNTED = frozenset(route.operation for route in ROUTES if route.service == "api")
_WINDOWS = {"lastMinute": 60.0, "lastHour": 3600.0}


def status_pages(gateway: Gateway) -> Mapping[str, Callable[[], Response]]:
    """What is to be had by GET, by the path where it is."""
    return {
        "/": lambda: _page(state_of(gateway)),
        "/emulator/state.json": lambda: _document(state_of(gateway)),
    }


def state_of(gateway: Gateway) -> State:
    """All that is shown, in the service's own words and forms; the newest first, long lists cut."""
    world, journal, violations = gateway.world, gateway.journal, gateway.judge.violations.found
    now = world.clock.now()
    runs = list(_runs(world))
    return {
        "service": {
            "address": world.addresses.api,
            "now": world.clock.stamp(now),
            "speed": world.settings.speed,
            "tier": gateway.limits and gateway.limits.tier,
        },
        "totals": {
            "runs": len(runs),
            "activeRuns": sum(run.is_active(now) for _, _, run in runs),
            "connections": sum(len(service.connections) for service in _services(world).values()),
            "imodels": len(world.imodels),
            "files": sum(file.is_there(now) for file in world.drive.files.values()),
            "requests": journal.counts.total(),
            "violations": len(violations),
        },
        "calls": _calls(gateway, now),
        "violations": [
            _violation(world, violation) for violation in islice(reversed(violations), _SHOWN)
        ],
        "runs": [
            _run(world, *found, now=now)
            for found in nlargest(_SHOWN, runs[::-1], key=lambda found: found[-1].starts_at)
        ],
        "connections": list(islice(_connections(world), _SHOWN)),
        "imodels": [
            {"id": i.id, "name": i.name, "iTwinId": i.itwin_id, "authorized": i.authorized}
            for i in islice(reversed(world.imodels.values()), _SHOWN)
        ],
        "files": _files(world, now),
        "requests": [
            _request(world, record) for record in islice(reversed(journal.records), _SHOWN_REQUESTS)
        ],
    }


def _services(world: Platform) -> dict[str, Service]:
    return {"export": world.exports, "synchronization": world.synchronizations}


def _runs(world: Platform) -> Iterator[tuple[str, Connection, Run]]:
    """All runs, with the service and the connection they belong to."""
    for name, service in _services(world).items():
        for connection in service.connections.values():
            for run in service.runs(connection).values():
                yield name, connection, run


def _run(world: Platform, service: str, connection: Connection, run: Run, *, now: float) -> State:
    """A run as the API shows it, and what the API keeps to itself: how long it will take."""
    seconds = run.ends_at - run.starts_at
    passed = min(now - run.starts_at, seconds)
    return {
        "service": service,
        "iModelId": connection.imodel.id,
        "iModelName": connection.imodel.name,
        "seconds": seconds,
        "progress": passed / seconds if seconds else 1.0,
        **run_detail(run, clock=world.clock, now=now),
    }


def _connections(world: Platform) -> Iterator[State]:
    for name, service in _services(world).items():
        for connection in reversed(service.connections.values()):
            yield {
                "id": connection.id,
                "service": name,
                "displayName": connection.display_name,
                "authenticationType": connection.authentication_type,
                "iModelId": connection.imodel.id,
                "iModelName": connection.imodel.name,
            }


def _files(world: Platform, now: float) -> list[State]:
    there = [file for file in world.drive.files.values() if file.is_there(now)]
    return [
        {
            "id": file.id,
            "name": file.name,
            "path": world.drive.path(file),
            "createdDateTime": world.clock.stamp(file.created_at),
        }
        for file in nlargest(_SHOWN, there[::-1], key=lambda file: file.created_at)
    ]


def _request(world: Platform, record: RequestRecord) -> State:
    """A request; `seconds` is how long its answer took, None when there was none."""
    return {
        "number": record.number,
        "at": world.clock.stamp(record.at),
        "seconds": None if record.answered_at is None else record.answered_at - record.at,
        "operation": record.operation,
        "method": record.method,
        "path": record.path,
        "status": record.status,
        "fault": record.fault,
    }


def _violation(world: Platform, violation: Violation) -> State:
    return {
        "at": world.clock.stamp(violation.at),
        "what": violation.kind,
        "words": violation.message,
        "operation": violation.operation,
        "method": violation.method,
        "path": violation.path,
    }


def _calls(gateway: Gateway, now: float) -> State:
    """How many calls there were in the windows of the rate limit, and how many it allows."""
    records = gateway.journal.records
    first = bisect_right(records, now - max(_WINDOWS.values()), key=lambda record: record.at)
    made = [record.at for record in islice(records, first, None) if _counts(record)]
    allowed = TIERS[gateway.limits.tier] if gateway.limits else {}
    return {
        name: {
            "made": len(made) - bisect_right(made, now - seconds),
            "allowed": allowed.get(seconds),
        }
        for name, seconds in _WINDOWS.items()
    }


def _counts(record: RequestRecord) -> bool:
    """Whether the rate limit counts it: a 429 only if it was a fault, not the limit's own."""
    return record.operation in _COUNTED and (record.status != 429 or record.fault is not None)


def _page(state: State) -> Response:
    return _answer("text/html; charset=utf-8", page(state))


def _document(state: State) -> Response:
    return _answer("application/json", json.dumps(state | {"html": state_html(state)}))


def _answer(content_type: str, text: str) -> Response:
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy(),
        "Content-Type": content_type,
        "X-Content-Type-Options": "nosniff",
    }
    return Response(status=200, headers=headers, body=text.encode())
