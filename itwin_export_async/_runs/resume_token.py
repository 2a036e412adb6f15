"""The resume token: which run, and until when it is waited for. It holds no secret."""

import json
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

from itwin_export_async._protocol.runs import Service
from itwin_export_async._protocol.urls import validate_id

VERSION = 1


@frozen(kw_only=True)
class ResumeToken:
    """What a resume token says. `deadline` is None where there is none.

    `fresh`: the service had just named the run, and not all of its parts may know it yet.
    """

    service: Service
    connection_id: str
    run_id: str
    deadline: datetime | None = None
    fresh: bool = False


def write_token(resumption: ResumeToken) -> str:
    """The token: a line of JSON, with its version."""
    told: dict[str, Any] = {
        "v": VERSION,
        "service": resumption.service.value,
        "connection": resumption.connection_id,
        "run": resumption.run_id,
    }
    if resumption.deadline is not None:
        told["deadline"] = resumption.deadline.isoformat()
    if resumption.fresh:
        told["fresh"] = True
    return json.dumps(told, separators=(",", ":"))


def read_token(token: Any) -> ResumeToken:
    """What the token says; a `ValueError` for a text that is none."""
    try:
        told = json.loads(token)
        if told["v"] != VERSION:
            raise ValueError(f"version {told['v']!r} is not known")
        deadline = told.get("deadline")
        return ResumeToken(
            service=Service(told["service"]),
            connection_id=validate_id("connection", told["connection"]),
            run_id=validate_id("run", told["run"]),
            deadline=deadline and datetime.fromisoformat(deadline).astimezone(UTC),
            fresh=told.get("fresh") is True,
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ValueError(f"this is no resume token of this release: {exc}") from exc
