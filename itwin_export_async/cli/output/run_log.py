"""The log that a failed run wrote to a blob of the user: its errors, for summary and report."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from itwin_export_async import ExportClient, ExportError, ExportRequest
from itwin_export_async._redaction import redacted  # no public name yet
from itwin_export_async.cli.errors import UsageError, user_input

MAX_ERRORS = 3
_MAX_BYTES = 1024 * 1024  # of the log, that are searched


async def read_log_errors(client: ExportClient, request: ExportRequest) -> tuple[str, ...]:
    """The first lines with ERROR; none for a run whose log cannot be read."""
    url = request.options.output.logs_sas_url
    if url is None:
        return ()
    with TemporaryDirectory(prefix="itwin-export-") as folder:
        try:
            with user_input():
                path = await client.storage.download_blob(url, Path(folder, "run.log"))
            text = await asyncio.to_thread(_read, path)
        except (ExportError, UsageError, OSError):
            return ()  # the failure itself is reported anyway
    return tuple(redacted(line) for line in text.splitlines() if "ERROR" in line)[:MAX_ERRORS]


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES).decode(errors="replace")
