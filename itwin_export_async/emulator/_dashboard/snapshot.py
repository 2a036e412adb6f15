"""A snapshot of an emulator in JSON types.

It contains nothing that grants access: no token, no secret, no signed URL.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from heapq import nlargest
from itertools import islice
from typing import Any, TypeAlias

from attrs import asdict

from itwin_export_async.emulator._audit.violations import Violation
from itwin_export_async.emulator._handlers import ROUTES
from itwin_export_async.emulator._handlers.serializers import run_detail
from itwin_export_async.emulator._http.pipeline import Pipeline
from itwin_export_async.emulator._http.request_log import RequestRecord
from itwin_export_async.emulator._middleware.rate_limiter import RateLimiter
from itwin_export_async.emulator._state.connections import Connection, ConnectionService
from itwin_export_async.emulator._state.imodels import IModel
from itwin_export_async.emulator._state.platform import Endpoints, Platform
from itwin_export_async.emulator._state.run_lifecycle import Run

State: TypeAlias = dict[str, Any]

_MAX_ITEMS, _MAX_REQUESTS = 50, 100
_COUNTED = frozenset(route.operation for route in ROUTES if route.service == "api")
_NAMES = {60.0: "lastMinute", 3600.0: "lastHour"}
_WINDOWS: Mapping[float, int | None] = {60.0: None, 3600.0: None}


def snapshot(pipeline: Pipeline, endpoints: Endpoints) -> State:
    """Return all that is shown. The newest items come first, and long lists are cut."""
    platform, log, auditor = pipeline.platform, pipeline.log, pipeline.auditor
    violations = auditor.log.violations
    now = platform.clock.now()
    runs = list(_runs(platform))
    services = _services(platform).values()
    limiter = pipeline.rate_limiter
    return {
        "service": {
            "address": endpoints.api,
            "now": platform.clock.stamp(now),
            "speed": platform.settings.speed,
            "tier": limiter and limiter.tier,
        },
        "totals": {
            "runs": len(runs),
            "activeRuns": sum(run.is_active(now) for _, _, run in runs),
            "connections": sum(len(service.connections) for service in services),
            "imodels": len(platform.imodels),
            "files": sum(file.exists(now) for file in platform.file_store.files.values()),
            "requests": log.counts.total(),
            "violations": len(violations),
        },
        "calls": _calls(log.records, limiter, now),
        "violations": [
            _violation(platform, violation)
            for violation in islice(reversed(violations), _MAX_ITEMS)
        ],
        "unmetFaults": pipeline.faults.unmet()[:_MAX_ITEMS],
        "runs": [
            _run(platform, *found, now=now)
            for found in nlargest(_MAX_ITEMS, runs[::-1], key=lambda found: found[-1].starts_at)
        ],
        "connections": list(islice(_connections(platform), _MAX_ITEMS)),
        "imodels": [
            _imodel(platform, imodel, now)
            for imodel in islice(reversed(platform.imodels.values()), _MAX_ITEMS)
        ],
        "files": _files(platform, now),
        "requests": [
            _request(platform, record) for record in islice(reversed(log.records), _MAX_REQUESTS)
        ],
    }


def _services(platform: Platform) -> dict[str, ConnectionService]:
    return {"export": platform.exports, "synchronization": platform.synchronizations}


def _runs(platform: Platform) -> Iterator[tuple[str, Connection, Run]]:
    """Yield all runs, each with its service and its connection."""
    for name, service in _services(platform).items():
        for connection in service.connections.values():
            for run in service.runs(connection).values():
                yield name, connection, run


def _run(
    platform: Platform, service: str, connection: Connection, run: Run, *, now: float
) -> State:
    """Return a run as the API shows it, with its duration and the changeset that it exports."""
    seconds = run.ends_at - run.starts_at
    elapsed = min(now - run.starts_at, seconds)
    body = _services(platform)[service].options.get(run.id, {})
    return {
        "service": service,
        "iModelId": connection.imodel.id,
        "iModelName": connection.imodel.name,
        "changesetId": body.get("inputOptions", {}).get("changesetId"),
        "seconds": seconds,
        "progress": elapsed / seconds if seconds else 1.0,
        **run_detail(run, clock=platform.clock, now=now),
    }


def _connections(platform: Platform) -> Iterator[State]:
    for name, service in _services(platform).items():
        for connection in reversed(service.connections.values()):
            yield {
                "id": connection.id,
                "service": name,
                "displayName": connection.display_name,
                "authenticationType": connection.authentication_type,
                "iModelId": connection.imodel.id,
                "iModelName": connection.imodel.name,
            }


def _imodel(platform: Platform, imodel: IModel, now: float) -> State:
    return {
        "id": imodel.id,
        "name": imodel.name,
        "iTwinId": imodel.itwin_id,
        "authorized": platform.may_read(imodel),
        "state": imodel.state,
        "changesets": len(imodel.changesets(now)),
        "namedVersions": [version.name for version in imodel.named_versions],
    }


def _files(platform: Platform, now: float) -> list[State]:
    existing = [file for file in platform.file_store.files.values() if file.exists(now)]
    return [
        {
            "id": file.id,
            "name": file.name,
            "path": platform.file_store.path(file),
            "createdDateTime": platform.clock.stamp(file.created_at),
        }
        for file in nlargest(_MAX_ITEMS, existing[::-1], key=lambda file: file.created_at)
    ]


def _request(platform: Platform, record: RequestRecord) -> State:
    """Return a request; `seconds` is how long its answer took, None without an answer."""
    answered_at = record.answered_at
    seconds = None if answered_at is None else answered_at - record.at
    members = asdict(record) | {"at": platform.clock.stamp(record.at), "seconds": seconds}
    del members["answered_at"]
    return members


def _violation(platform: Platform, violation: Violation) -> State:
    return asdict(violation) | {"at": platform.clock.stamp(violation.at)}


def _calls(records: list[RequestRecord], limiter: RateLimiter | None, now: float) -> State:
    """Return how many calls there were in each window, and how many the tier allows in it."""
    windows = _WINDOWS if limiter is None else {**_WINDOWS, **limiter.windows}
    first = bisect_right(records, now - max(windows), key=lambda record: record.at)
    calls = [record.at for record in islice(records, first, None) if _counts(record)]
    return {
        _NAMES.get(seconds, f"last{seconds:g}s"): {
            "made": len(calls) - bisect_right(calls, now - seconds),
            "allowed": limit,
        }
        for seconds, limit in sorted(windows.items())
    }


def _counts(record: RequestRecord) -> bool:
    """Whether the rate limit counts it: a 429 only if it is a fault, not the limit's own."""
    return record.operation in _COUNTED and (record.status != 429 or record.fault is not None)
