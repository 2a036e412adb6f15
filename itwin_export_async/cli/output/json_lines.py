"""What is told to programs: one JSON object for each export, on a line of its own."""

import json
from datetime import datetime
from typing import Any

from attrs import asdict

from itwin_export_async import ResponseError, RunFailed
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.resume_token import ResumeToken
from itwin_export_async.cli.errors import failed_tasks, headline, remedy
from itwin_export_async.cli.export_record import Record


def line_of(record: Record) -> str:
    """What came of an export. Members that are not known are null."""
    run = record.run
    return json.dumps(
        {
            "key": record.key,
            "imodel_id": record.imodel_id,
            "destination": record.destination,
            "ok": record.ok,
            "connection_id": record.connection_id,
            "run_id": record.run_id,
            "result": run.outcome.value if run is not None else None,
            "run_started": _moment(run.start_date_time if run is not None else None),
            "run_ended": _moment(run.end_date_time if run is not None else None),
            "files": [{"path": str(file.path), "size": file.size} for file in record.files],
            "error": None if record.error is None else _error(record, record.error),
        }
    )


def _error(record: Record, error: Exception) -> dict[str, Any]:
    told: dict[str, Any] = {
        "type": type(error).__name__,
        "message": headline(error),
        "remedy": remedy(error),
    }
    if isinstance(error, ResponseError):
        told |= {"status": error.status, "code": error.code}
    if isinstance(error, RunFailed):
        told["tasks"] = [asdict(task) for task in failed_tasks(error)]
    elif record.connection_id is not None and record.run_id is not None:
        told["token"] = _token(record.connection_id, record.run_id)
    return told


def _token(connection_id: str, run_id: str) -> str:
    """What takes the run up again, without a deadline."""
    token = ResumeToken(service=Service.EXPORT, connection_id=connection_id, run_id=run_id)
    return token.to_string()


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
