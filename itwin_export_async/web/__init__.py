"""Exports behind your own web endpoint. Framework-free; `.fastapi` and `.aiohttp` build on it.

- `ExportService` does what the endpoints do: start, describe, stream events, open the file.
- `http_error` turns any error into an HTTP answer (RFC 9457), `describe_run` a run into JSON,
  `event_stream` a run into server-sent events.
- `SignedIds` turns resume tokens into ids that belong to one owner.
- `example_page` is a small page that starts an export and shows its progress.

The service application's rights are used for every visitor, so `may_export(owner, imodel_id)` has
to decide for which iModels; `allow_all` says that every owner may export every iModel.
"""

from itwin_export_async.web._describe import describe_health, describe_run
from itwin_export_async.web._events import EVENT_HEADERS, event_stream
from itwin_export_async.web._ids import SignedIds
from itwin_export_async.web._page import example_page
from itwin_export_async.web._problems import (
    HttpError,
    InvalidBody,
    StartPending,
    UnknownExport,
    http_error,
)
from itwin_export_async.web._ranges import FileAnswer
from itwin_export_async.web._service import (
    ExportService,
    MayExport,
    OpenFile,
    StartedExport,
    allow_all,
)

__all__ = [
    "EVENT_HEADERS",
    "ExportService",
    "FileAnswer",
    "HttpError",
    "InvalidBody",
    "MayExport",
    "OpenFile",
    "SignedIds",
    "StartPending",
    "StartedExport",
    "UnknownExport",
    "allow_all",
    "describe_health",
    "describe_run",
    "event_stream",
    "example_page",
    "http_error",
]
