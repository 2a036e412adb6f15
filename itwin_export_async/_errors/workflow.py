"""What goes wrong in the workflow: consent, files, the ledger, runs."""

from collections.abc import Iterator
from typing import Literal, TypeAlias

from attrs import define, field
from attrs.validators import in_

from itwin_export_async._errors.http import ExportError, to_message
from itwin_export_async._models import Run, Task
from itwin_export_async._redaction import redacted

DownloadFailure: TypeAlias = Literal[
    "not_finished", "no_output", "not_available", "refused", "incomplete", "mismatch", "disk"
]
"""Why a download failed: the run is not finished, it made no output, Storage does not show the file
yet, the service refused it, the transfer broke off, size or MD5 do not match, the disk failed."""

_DOWNLOAD_PUBLIC: dict[DownloadFailure, str] = {
    "not_finished": "the export is not finished",
    "no_output": "the export made no file",
    "not_available": "the exported file is not available yet",
    "refused": "access to the exported file was refused",
    "incomplete": "the exported file could not be transferred completely",
    "mismatch": "the exported file is damaged",
    "disk": "the exported file could not be saved",
}


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class AuthorizationRequired(ExportError):
    """The user has to consent to background work first, on the page `url` (None if unknown)."""

    url: str | None = None
    _PUBLIC = "the user has to authorize exports first"

    def __str__(self) -> str:
        page = self.url or "the page that get_authorization() returns"
        return f"the user has not authorized exports in their name; they can at {page}"


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class DownloadError(ExportError):
    """A file could not be downloaded. No file is left under its final name.

    `reason` says why, one of `DownloadFailure`. `file_id` is the Storage id, `destination` the path
    of the file. `is_transient` is True where a later download may succeed.
    """

    message: str = field(converter=to_message)
    reason: DownloadFailure = field(default="incomplete", validator=in_(_DOWNLOAD_PUBLIC))
    file_id: str = ""
    destination: str = ""
    is_transient: bool = False

    @property
    def public(self) -> str:
        """A sentence for a visitor: no URL, path, host or id."""
        return _DOWNLOAD_PUBLIC[self.reason]

    def __str__(self) -> str:
        name = self.destination or self.file_id
        return f"{name}: {self.message}" if name else self.message


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class UploadError(ExportError):
    """A file could not be uploaded. Storage shows no part of it.

    `source` is the path of the file.
    """

    message: str = field(converter=to_message)
    source: str = ""
    _PUBLIC = "the file could not be uploaded"

    def __str__(self) -> str:
        return f"{self.source}: {self.message}" if self.source else self.message


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class LedgerError(ExportError):
    """A ledger cannot be used, or does not fit the request.

    `path` is the path of its file. `key` is the request's key, None where the error is about the
    whole ledger.
    """

    message: str = field(converter=to_message)
    path: str = ""
    key: str | None = None
    _PUBLIC = "the record of the exports cannot be used"

    def __str__(self) -> str:
        about = "" if self.key is None else f"{self.key!r}: "
        return f"ledger {self.path}: {about}{self.message}"


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class NothingToExport(ExportError):
    """The iModel does not have the version that was requested."""

    imodel_id: str
    message: str = field(default="has no visible named version", converter=to_message)
    _PUBLIC = "the model does not have the requested version"

    def __str__(self) -> str:
        return f"iModel {self.imodel_id} {self.message}"


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class StartTimeout(ExportError, TimeoutError):
    """The timeout passed before there was a run.

    `seconds` is that timeout. `imodel_id` is the iModel of an export, `connection_id` the
    connection of a start; the other is empty. A start may have been in flight.
    """

    seconds: float
    imodel_id: str = ""
    connection_id: str = ""
    is_transient = True
    may_have_been_processed = True
    _PUBLIC = "the export could not be started in time"

    def __str__(self) -> str:
        about = f"iModel {self.imodel_id}" if self.imodel_id else f"connection {self.connection_id}"
        return (
            f"timed out after {self.seconds:g} s before a run was started for {about}. If a start "
            "was in flight, that run continues; find it with a ledger or if_active='join'"
        )


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class RunError(ExportError):
    """The run failed, or its state could not be followed.

    `run` is the latest snapshot, None without one. `client.resume(resume_token)` takes the run up
    again, in any process.
    """

    message: str = field(default="", converter=to_message)
    connection_id: str
    run_id: str
    run: Run | None = field(default=None, repr=False)
    resume_token: str = field(default="", repr=False)
    may_have_been_processed = True

    def __str__(self) -> str:
        text = f"run {self.run_id} of connection {self.connection_id} {self.message}"
        return redacted(text.rstrip(), limit=len(text))


class RunFailed(RunError):
    """The run finished without success: `run.outcome` says how, the text names each failed task."""

    @property
    def public(self) -> str:
        """A sentence for a visitor: no URL, path, host or id."""
        return "; ".join([self._PUBLIC, *self.hints])

    @property
    def hints(self) -> tuple[str, ...]:
        """What to do about the known causes of the failed tasks, each once."""
        tasks = () if self.run is None else self.run.failed_tasks
        hints = (task.error.hint for task in tasks if task.error is not None)
        return tuple(dict.fromkeys(hint for hint in hints if hint is not None))

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *_reasons(self.run)])


class RunPartlyFailed(RunFailed):
    """Some tasks of the run succeeded, others failed; the files made can be downloaded."""

    _PUBLIC = "a part of the export failed"


@define(eq=False, kw_only=True, slots=False, auto_exc=False)
class RunTimeout(RunError, TimeoutError):
    """The timeout of a wait has passed. The run continues: `client.resume(error.resume_token)`."""

    is_transient = True
    _PUBLIC = "the export takes longer than expected; it may still finish"


class RunUnreachable(RunError):
    """The run's state could not be read for longer than `max_outage`."""

    is_transient = True
    _PUBLIC = "the state of the export cannot be read at the moment"


def _reasons(run: Run | None) -> Iterator[str]:
    """Why a run failed, one line each: the run's own error, then each failed task."""
    if run is None:
        return
    if run.error is not None:
        reason = ": ".join(filter(None, (run.error.error_key, run.error.description)))
        if run.error.error_key == "UserNotAuthenticated":
            reason += " (get_authorization() returns the page where the user can consent)"
        if reason:
            yield redacted(reason)
    yield from map(_describe, run.failed_tasks)


def _describe(task: Task) -> str:
    """One failed task: error code and description, whether the user can fix it, the article."""
    result = task.result.value if task.result else "no result"
    error = task.error
    if error is None:
        return redacted(f"task {task.id} finished with {result} and no explanation")
    reason = ": ".join(filter(None, (error.error_code, error.description or error.message)))
    notes = []
    if error.can_user_fix is not None:
        notes.append(f"{'can' if error.can_user_fix else 'cannot'} be fixed by the user")
    if error.hint is not None:
        notes.append(error.hint)
    if error.kb_article_link:
        notes.append(f"see {redacted(error.kb_article_link)}")
    text = redacted(f"task {task.id} finished with {result}: {reason or 'no description'}")
    return f"{text} ({'; '.join(notes)})" if notes else text
