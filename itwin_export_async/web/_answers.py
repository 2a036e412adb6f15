"""The parts of answers that the adapters share."""

from typing import Any

from itwin_export_async import ExportError
from itwin_export_async.web._problems import StartPending
from itwin_export_async.web._service import ExportService, StartedExport

ANSWERED = (ExportError, LookupError, ValueError, StartPending)
"""The exceptions that `http_error` turns into an answer; others are bugs."""

EVENT_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx would collect events otherwise
}


def started_body(started: StartedExport, url: str) -> dict[str, Any]:
    """The body of a 202. `url`: the path of the started export."""
    return {
        "id": started.id,
        "status_url": url,
        "events_url": f"{url}/events",
        "file_url": f"{url}/file",
        "joined": started.joined,
    }


def health_body(service: ExportService) -> tuple[int, dict[str, Any]]:
    """The status and body of `GET health`: 503 while the service has not answered of late."""
    health = service.health()
    ok = health.is_open and health.outage_since is None
    body = {
        "ok": ok,
        "outage_since": health.outage_since and health.outage_since.isoformat(),
        "last_response_at": health.last_response_at and health.last_response_at.isoformat(),
        "runs_polled": health.runs_polled,
    }
    return 200 if ok else 503, body
