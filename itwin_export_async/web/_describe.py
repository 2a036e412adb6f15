"""A run as JSON for a visitor."""

from typing import Any
from urllib.parse import urlsplit

from itwin_export_async import Estimate, Run, Task


def describe_run(run: Run, estimate: Estimate | None = None) -> dict[str, Any]:
    """The state of a run for a visitor: no ids, paths or addresses but those of help pages.

    `failures` lists the failed tasks: `code`, `text`, `can_user_fix` and `link` (an https page, or
    None). `remaining` has the seconds left as `low`, `median` and `high`, None without an estimate.
    """
    started_at, finished_at = run.start_date_time, run.end_date_time
    return {
        "state": run.state.value,
        "outcome": run.outcome.value if run.is_final else None,
        "is_final": run.is_final,
        "started_at": started_at and started_at.isoformat(),
        "finished_at": finished_at and finished_at.isoformat(),
        "remaining": None
        if estimate is None or run.is_final
        else {"low": estimate.low, "median": estimate.median, "high": estimate.high},
        "failures": [_describe_failure(task) for task in run.failed_tasks],
    }


def _describe_failure(task: Task) -> dict[str, Any]:
    error = task.error
    if error is None:
        return {"code": "", "text": "", "can_user_fix": None, "link": None}
    return {
        "code": error.error_code or "",
        "text": error.description or error.message or "",
        "can_user_fix": error.can_user_fix,
        "link": _safe_link(error.kb_article_link),
    }


def _safe_link(url: str | None) -> str | None:
    """The URL if a page may link to it: https, with a host and without a user."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return None
    is_safe = parts.scheme == "https" and parts.hostname and parts.username is None
    return url if is_safe else None
