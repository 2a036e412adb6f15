"""What goes wrong in the work itself: consent, files, runs."""

from typing import Literal

from attrs import define, field

from itwin_export_async._errors.http import ExportError
from itwin_export_async._models import Run, Task
from itwin_export_async._redaction import redacted


@define(eq=False, kw_only=True, slots=False)
class AuthorizationRequired(ExportError):
    """The user has to consent to background work first, on the page `url` (None if not told)."""

    url: str | None = None

    def __str__(self) -> str:
        page = self.url or "the page that get_authorization names"
        return f"the user has not yet agreed to exports in their name; they can at {page}"


DownloadFailure = Literal[
    "not_finished", "no_output", "not_available", "refused", "incomplete", "mismatch", "disk"
]


@define(eq=False, kw_only=True, slots=False)
class DownloadError(ExportError):
    """A file could not be fetched whole. Nothing stands under its final name.

    `reason` classifies the failure: `not_finished` (the run is still active), `no_output` (the run
    produced no file), `not_available` (the file is not readable, or not yet), `refused` (the blob
    store denies access), `incomplete` (the bytes could not be read to the end), `mismatch` (length,
    version or digest differ) or `disk` (the file cannot be written). `file_id` is the Storage id,
    `destination` the path. `is_transient`: whether a later download may succeed.
    """

    message: str = field(converter=redacted)
    reason: DownloadFailure = "incomplete"
    file_id: str = ""
    destination: str = ""
    is_transient: bool = False

    def __str__(self) -> str:
        return f"{self.destination or self.file_id}: {self.message}"


@define(eq=False, kw_only=True, slots=False)
class UploadError(ExportError):
    """A file could not be sent whole. Storage does not show what came of it.

    `source` is the path of the file.
    """

    message: str = field(converter=redacted)
    source: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.message}" if self.source else self.message


@define(eq=False, kw_only=True, slots=False)
class LedgerError(ExportError):
    """A ledger cannot be used, or does not fit what is asked for.

    `path` is the path of its file. `key` is that of the request that it is about, None where it
    is about the whole.
    """

    message: str
    path: str = ""
    key: str | None = None

    def __str__(self) -> str:
        about = "" if self.key is None else f"{self.key!r}: "
        return f"ledger {self.path}: {about}{self.message}"


@define(eq=False, kw_only=True, slots=False)
class StartTimeout(ExportError, TimeoutError):
    """The time for an export was over before it had a run.

    `seconds`: how long it was. A run may exist all the same, if one was being started.
    """

    imodel_id: str
    seconds: float

    def __str__(self) -> str:
        return (
            f"the export of iModel {self.imodel_id} had no run after {self.seconds:g} s; one that "
            "was being started goes on: a ledger finds it, and if_active='join' joins it"
        )


@define(eq=False, kw_only=True, slots=False)
class RunError(ExportError):
    """The run, or the following of it, ended badly.

    `run` is what was last seen of it, None when nothing was. `resume_token` lets
    `client.resume(resume_token)` take the run up again, in any process.
    """

    message: str = ""
    connection_id: str
    run_id: str
    run: Run | None = field(default=None, repr=False)
    resume_token: str = field(default="", repr=False)

    def __str__(self) -> str:
        return _line(f"run {self.run_id} of connection {self.connection_id} {self.message}")


def _line(text: str) -> str:
    """The text in one line: what the service says does not begin another one."""
    return " ".join(text.split())


def _told(task: Task) -> str:
    """One failed task as a sentence: what, why, and whether the user can mend it."""
    result = task.result.value if task.result else "no result"
    error = task.error
    if error is None:
        return _line(f"task {task.id} ended with {result}, without an explanation")
    why = redacted(": ".join(filter(None, (error.error_code, error.description or error.message))))
    hints = []
    if error.can_user_fix is not None:
        hints.append(f"{'can' if error.can_user_fix else 'cannot'} be fixed by the user")
    if error.kb_article_link:
        hints.append(f"see {error.kb_article_link}")
    told = f"task {task.id} ended with {result}: {why or 'no description'}"
    return _line(f"{told} ({'; '.join(hints)})" if hints else told)


class RunFailed(RunError):
    """The run ended, and not well: `run.outcome` says how; the text names each failed task."""

    def __str__(self) -> str:
        lines = [super().__str__()]
        if self.run is not None and (fault := self.run.error) is not None:
            told = redacted(": ".join(filter(None, (fault.error_key, fault.description))))
            if fault.error_key == "UserNotAuthenticated":
                told += " (get_authorization() names the page where the user can agree)"
            lines.append(_line(told))
        if self.run is not None:
            lines += map(_told, self.run.failed_tasks)
        return "\n  ".join(filter(None, lines))


class RunPartlyFailed(RunFailed):
    """The run ended with some tasks done and some failed; what was done can be downloaded."""


@define(eq=False, kw_only=True, slots=False)
class RunTimeout(RunError, TimeoutError):
    """The time for waiting is over. The run may well go on: `client.resume(error.resume_token)`."""


class RunUnreachable(RunError):
    """The run's state could not be read for longer than the outage allowance."""
