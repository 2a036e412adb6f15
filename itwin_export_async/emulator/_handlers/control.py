"""The control of a served emulator over HTTP, by tests in any language.

The members of a body are the arguments of the method of `Emulator`, in snake_case or camelCase.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import Attribute, asdict

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.messages import error, json_response

if TYPE_CHECKING:  # the emulator passes itself
    from itwin_export_async.emulator._emulator import Emulator

_MAX_REQUESTS = 1000
_MAX_TIMES = 10_000
_FAILURES: Mapping[str, type[ConnectionError | TimeoutError]] = {
    "reset": ConnectionResetError,
    "refused": ConnectionRefusedError,
    "timeout": TimeoutError,
}
_PLAN = ("imodel_id", "result", "task_result", "duration", "service", "times")
_FAULT = (
    *("operation", "status", "headers", "body", "failure", "times"),
    *("apply_effect", "truncate_after", "delay"),
)
_IMODEL = ("name", "itwin_id", "authorized", "description", "state", "last_changeset_push")
_CHANGESET = ("imodel_id", "description")
_VERSION = ("imodel_id", "name", "changeset_id", "state", "description")
_PERMISSIONS = ("scope_id", "permissions")
READS = ("/emulator/violations", "/emulator/requests")
WRITES = (
    *("/emulator/plans", "/emulator/faults", "/emulator/imodels", "/emulator/changesets"),
    *("/emulator/namedversions", "/emulator/permissions"),
)


def read(emulator: "Emulator", path: str) -> Response:
    """Return the violations or the latest requests."""
    match path:
        case "/emulator/violations":
            violations = [asdict(violation) for violation in emulator.violations]
            unmet = emulator.unmet_faults
            return json_response(200, {"violations": violations, "unmetFaults": unmet})
        case _:
            latest = emulator.requests[-_MAX_REQUESTS:]
            requests = [asdict(record, filter=_is_shown) for record in latest]
            return json_response(200, {"requests": requests})


def write(emulator: "Emulator", path: str, body: bytes) -> Response:
    """Answer a POST of the control. A mistake is a 422 with a sentence."""
    try:
        match path:
            case "/emulator/plans":
                emulator.plan_next_run(**_members(body, _PLAN, required=["imodel_id"]))
            case "/emulator/faults":
                _inject(emulator, _members(body, _FAULT, required=["operation"]))
            case "/emulator/imodels":
                return _created(emulator.add_imodel(**_members(body, _IMODEL)))
            case "/emulator/changesets":
                members = _members(body, _CHANGESET, required=["imodel_id"])
                return _created(emulator.push_changeset(**members))
            case "/emulator/namedversions":
                members = _members(body, _VERSION, required=["imodel_id", "name"])
                return _created(emulator.add_named_version(**members))
            case _:
                emulator.set_permissions(**_members(body, _PERMISSIONS, required=_PERMISSIONS))
    except (TypeError, ValueError, RecursionError) as exc:
        return error(422, "InvalidControlRequest", str(exc))
    return Response(status=204)


def _is_shown(attribute: "Attribute[Any]", _: object) -> bool:
    return attribute.name != "answered_at"


def _created(new_id: str) -> Response:
    return json_response(201, {"id": new_id})


def _members(body: bytes, known: Sequence[str], *, required: Sequence[str] = ()) -> dict[str, Any]:
    """Return the members of a JSON object as arguments."""
    parsed = json.loads(body or b"{}")
    if not isinstance(parsed, dict):
        raise TypeError("the body must be a JSON object")
    names = {name.replace("_", ""): name for name in known}
    members = {}
    for name, value in parsed.items():
        argument = names.get(name.replace("_", "").lower())
        if argument is None:
            raise ValueError(f"unknown member {name!r}: use any of {', '.join(known)}")
        members[argument] = value
    missing = [name for name in required if name not in members]
    if missing:
        raise ValueError(f"the body lacks {', '.join(missing)}")
    return members


def _inject(emulator: "Emulator", members: Mapping[str, Any]) -> None:
    times = members.get("times", 1)
    if isinstance(times, bool) or not isinstance(times, int) or not 1 <= times <= _MAX_TIMES:
        raise ValueError(f"times must be an integer from 1 to {_MAX_TIMES}, got {times!r}")
    options = {
        name: members[name]
        for name in ("apply_effect", "truncate_after", "delay")
        if name in members
    }
    faults = [_fault(members) for _ in range(times)]
    emulator.inject(members["operation"], *faults, **options)


def _fault(members: Mapping[str, Any]) -> Response | ConnectionError | TimeoutError | None:
    failure = members.get("failure")
    if failure is not None:
        if failure not in _FAILURES:
            raise ValueError(f"failure must be one of {', '.join(_FAILURES)}, got {failure!r}")
        return _FAILURES[failure]()
    status = members.get("status")
    if status is None:
        return None
    headers, body = members.get("headers", {}), members.get("body", "")
    if not isinstance(headers, dict):
        raise TypeError(f"headers must be an object, got {headers!r}")
    if not isinstance(body, str):
        headers, body = {"Content-Type": "application/json", **headers}, json.dumps(body)
    return Response(
        status=status,
        headers={name: str(value) for name, value in headers.items()},
        body=body.encode(),
    )
