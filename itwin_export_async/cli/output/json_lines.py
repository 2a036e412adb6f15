"""Results for programs: one JSON object a line, in UTF-8."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import asdict

from itwin_export_async import (
    Connection,
    ExportError,
    IModel,
    NamedVersion,
    ResponseError,
    Run,
    RunFailed,
    StoredFile,
)
from itwin_export_async.cli.errors import failed_tasks, hint, summary_line
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.console import CONTROLS, echo


def print_json(value: Mapping[str, Any]) -> None:
    """Print an object on a line of its own."""
    echo(to_line(value))


def to_line(value: Mapping[str, Any]) -> str:
    """An object as one line. What could act on a terminal is escaped."""
    text = json.dumps(value, ensure_ascii=False)
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def to_json_line(record: Record) -> str:
    """The line of an export."""
    return to_line(record_to_json(record))


def record_to_json(record: Record) -> dict[str, Any]:
    """An export. Members that are not known are null."""
    run = record.run
    queued, executing = record.phases(record.finished_at or datetime.now(UTC))
    return {
        "key": record.key,
        "name": record.name,
        "imodel_id": record.imodel_id,
        "destination": record.destination,
        "revision": record.revision,
        "columns": dict(record.columns),
        "ok": record.ok,
        "status": record.status.value,
        "connection_id": record.connection_id,
        "run_id": record.run_id,
        "result": run.outcome.value if run is not None else None,
        "run_started": moment(run.start_date_time if run is not None else None),
        "run_ended": moment(run.end_date_time if run is not None else None),
        "queued_seconds": queued,
        "executing_seconds": executing,
        "files": [{"path": str(file.path), "size": file.size} for file in record.files],
        "error": None if record.error is None else _error(record, record.error),
    }


def _error(record: Record, error: Exception) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": getattr(error, "recorded_type", type(error).__name__),
        "message": summary_line(error),
        "hint": hint(error),
        "is_transient": isinstance(error, ExportError) and error.is_transient,
    }
    if isinstance(error, ResponseError):
        value |= {
            "status": error.status,
            "code": error.code,
            "correlation_id": error.correlation_id,
        }
    if record.log_errors:
        value["log_errors"] = list(record.log_errors)
    if isinstance(error, RunFailed):
        value["tasks"] = [asdict(task) for task in failed_tasks(error)]
    elif record.resume_token is not None:
        value["resume_token"] = record.resume_token
    return value


def run_to_json(run: Run) -> dict[str, Any]:
    """A run."""
    return {
        "run_id": run.id,
        "connection_id": run.connection_id,
        "state": run.state.value,
        "result": run.outcome.value if run.is_completed else None,
        "run_started": moment(run.start_date_time),
        "run_ended": moment(run.end_date_time),
        "output_file_ids": list(run.output_file_ids),
    }


def connection_to_json(connection: Connection) -> dict[str, Any]:
    """A connection."""
    kind = connection.authentication_type
    return {
        "connection_id": connection.id,
        "imodel_id": connection.imodel_id,
        "display_name": connection.display_name,
        "authentication_type": kind and kind.value,
    }


def imodel_to_json(imodel: IModel) -> dict[str, Any]:
    """An iModel."""
    return {
        "imodel_id": imodel.id,
        "display_name": imodel.display_name,
        "state": imodel.state,
        "last_changeset_pushed": moment(imodel.last_changeset_push_date_time),
        "itwin_id": imodel.itwin_id,
    }


def version_to_json(version: NamedVersion) -> dict[str, Any]:
    """A named version."""
    return {
        "named_version_id": version.id,
        "display_name": version.display_name,
        "state": version.state,
        "changeset_id": version.changeset_id,
        "changeset_index": version.changeset_index,
        "created": moment(version.created_date_time),
    }


def file_to_json(file: StoredFile) -> dict[str, Any]:
    """A file or folder in Storage."""
    return {
        "id": file.id,
        "display_name": file.display_name,
        "type": file.type,
        "size": file.size,
        "path": file.path,
        "modified": moment(file.last_modified_date_time),
    }


def moment(value: datetime | None) -> str | None:
    """A date in ISO 8601, None for none."""
    return None if value is None else value.isoformat()
