"""The error of a task whose export failed."""

from collections.abc import Iterator
from contextlib import contextmanager

from itwin_export_async._errors import ExportError, RunError


class TaskFailed(ExportError):
    """The export of a task failed; the `error` of the task's result.

    `kind` is the name of the error's class, such as `"RunFailed"`. `resume_token` resumes the run, None
    without a run. All fields are text, so that any result backend can store them.
    """

    def __init__(self, kind: str, text: str, resume_token: str | None = None) -> None:
        super().__init__(kind, text, resume_token)
        self.kind, self.text, self.resume_token = kind, text, resume_token

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@contextmanager
def failing_as_text() -> Iterator[None]:
    """Raise `TaskFailed` in place of the errors of an export."""
    try:
        yield
    except TaskFailed:
        raise
    except (ExportError, OSError, ValueError, TypeError) as error:
        token = error.resume_token if isinstance(error, RunError) else None
        raise TaskFailed(type(error).__name__, str(error), token) from error
