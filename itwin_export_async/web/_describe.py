"""A run, and the state of the client, as JSON for visitors."""

from typing import Any
from urllib.parse import urlsplit

from itwin_export_async import ClientHealth, Estimate, Run, Task
from itwin_export_async.web._public_text import public_text


def describe_run(run: Run, estimate: Estimate | None = None) -> dict[str, Any]:
    """The state of a run for a visitor: no ids, paths or addresses but those of help pages.

    `failures` lists the failed tasks, or the error of the whole run: `code`, `text`, `can_user_fix`
    and `link` (an https page, or None). `remaining` has the seconds left as `low`, `median` and
    `high`, None without an estimate.
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
        "failures": _failures(run),
    }


def describe_health(health: ClientHealth) -> dict[str, Any]:
    """The state of the client: `ok` is False while it is closed or the service does not answer."""
    return {
        "ok": health.is_open and health.outage_since is None,
        "outage_since": health.outage_since and health.outage_since.isoformat(),
        "last_response_at": health.last_response_at and health.last_response_at.isoformat(),
        "runs_polled": health.runs_polled,
    }


def _failures(run: Run) -> list[dict[str, Any]]:
    failures = [_failure_of(task) for task in run.failed_tasks]
    if not failures and run.error is not None:
        failures.append(_failure(run.error.error_key, run.error.description))
    return failures


def _failure_of(task: Task) -> dict[str, Any]:
    error = task.error
    if error is None:
        return _failure("", "")
    return _failure(
        error.error_code,
        error.description or error.message,
        can_user_fix=error.can_user_fix,
        link=_safe_link(error.kb_article_link),
    )


def _failure(
    code: str, text: str, *, can_user_fix: bool | None = None, link: str | None = None
) -> dict[str, Any]:
    return {
        "code": public_text(code),
        "text": public_text(text),
        "can_user_fix": can_user_fix,
        "link": link,
    }


def _safe_link(url: str) -> str | None:
    """The URL if a page may link to it: https, with a host and without a user."""
    if not url.isprintable() or any(char in url for char in ' \\"<>'):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    is_safe = parts.scheme == "https" and parts.hostname and parts.username is None
    return url if is_safe else None
