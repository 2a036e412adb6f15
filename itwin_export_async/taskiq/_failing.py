"""What a task ends with when its export failed."""

from collections.abc import Iterator
from contextlib import contextmanager

from itwin_export_async._errors import ExportError, RunError


class TaskFailed(ExportError):
    """What a task ends with when its export failed; the `error` of its result.

    `kind` is the name of the error's class, such as `"RunFailed"`; `resume_token` resumes the run, None
    where there is none. All of it is text, so that it passes through any result backend.
    """

    def __init__(self, kind: str, text: str, resume_token: str | None = None) -> None:
        super().__init__(kind, text, resume_token)
        self.kind, self.text, self.resume_token = kind, text, resume_token

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@contextmanager
def told_as_text() -> Iterator[None]:
    try:
        yield
    except TaskFailed:
        raise
    except (ExportError, OSError, ValueError, TypeError) as error:
        token = error.resume_token if isinstance(error, RunError) else None
        raise TaskFailed(type(error).__name__, str(error), token) from error
