"""The error of a task whose export failed."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from itwin_export_async import ExportError, ResponseError, Run, RunError, RunFailed

log = logging.getLogger("itwin_export_async.taskiq")


class TaskFailed(ExportError):
    """The export of a task failed; the `error` of the task's result.

    `kind` is the name of the error's class, such as `"RunFailed"`, and `text` its sentence.
    `resume_token` resumes the run, None without a run. `details` has what else the error says:

    - `public`, a sentence for a visitor; `is_transient`, whether a later try may succeed
    - of a run: `connection_id`, `run_id`, `outcome`, and `failures`, a list of objects with `code`,
      `text`, `can_user_fix` and `link`
    - of a request: `status`, `code`, `request_id`

    All of it is JSON, so that any result backend can store it.
    """

    def __init__(
        self,
        kind: str,
        text: str,
        resume_token: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(kind, text, resume_token, details)
        self.kind, self.text, self.resume_token = kind, text, resume_token
        self.details = dict(details or {})
        self.is_transient = self.details.get("is_transient") is True

    @property
    def args(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The arguments from which a result backend makes the error again."""
        return self.kind, self.text, self.resume_token, self.details

    @property
    def public(self) -> str:
        """A sentence for a visitor: no URL, path, host or id."""
        return str(self.details.get("public", self._PUBLIC))

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


TaskFailed.__module__ = "itwin_export_async.taskiq"


def to_task_failed(error: Exception) -> TaskFailed:
    """The error of a task in place of the error of its export."""
    token = error.resume_token if isinstance(error, RunError) else None
    return TaskFailed(type(error).__name__, str(error), token, _details(error))


@contextmanager
def failing_as_text(task_id: str) -> Iterator[None]:
    """Raise `TaskFailed` in place of the errors of an export, and log it in one line."""
    try:
        yield
    except TaskFailed as stopped:
        _log(task_id, stopped)
        raise
    except (ExportError, OSError, ValueError, TypeError) as error:
        failed = to_task_failed(error)
        _log(task_id, failed, is_logged=isinstance(error, RunFailed))
        raise failed from None


def _log(task_id: str, failed: TaskFailed, *, is_logged: bool = False) -> None:
    """Log the failure. `is_logged`: the failure of a run has a warning of its own already."""
    level = logging.INFO if is_logged else logging.WARNING
    run_id = failed.details.get("run_id")
    extra = {"itwin": {} if run_id is None else {"run_id": run_id}}
    log.log(level, "task %s failed: %s", task_id, " ".join(str(failed).split()), extra=extra)


def _details(error: Exception) -> dict[str, Any]:
    if not isinstance(error, ExportError):
        return {"is_transient": False}
    details: dict[str, Any] = {"public": error.public, "is_transient": error.is_transient}
    if isinstance(error, RunError):
        details |= {"connection_id": error.connection_id, "run_id": error.run_id}
        if error.run is not None:
            details |= {"outcome": error.run.outcome.value, "failures": _failures(error.run)}
    elif isinstance(error, ResponseError):
        details |= {"status": error.status, "code": error.code, "request_id": error.request_id}
    return details


def _failures(run: Run) -> list[dict[str, Any]]:
    errors = [task.error for task in run.failed_tasks if task.error is not None]
    return [
        {
            "code": error.error_code,
            "text": error.description or error.message,
            "can_user_fix": error.can_user_fix,
            "link": error.kb_article_link or None,
        }
        for error in errors
    ]
