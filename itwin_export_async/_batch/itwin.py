"""Every iModel of an iTwin as requests of a batch, each at one revision.

With a ledger an unchanged iModel costs nothing beyond the list: the list reports when its latest
changeset was pushed (`lastChangesetPushDateTime`), and that text is compared with the one noted at
the last success, never with a clock. Where the list does not report it, or reports null, the newest
changeset is requested. A named version is always requested: it can be created without a push.
"""

import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from attrs import evolve, field, frozen

from itwin_export_async._batch.entries import (
    Entry,
    EntryState,
    fingerprint,
    new_entry,
    with_error,
)
from itwin_export_async._batch.file_names import FileNames, has_revision, validate_template
from itwin_export_async._batch.ledger import Ledger
from itwin_export_async._batch.ledger_rows import HistoryLine
from itwin_export_async._batch.outage import OutageRetrier
from itwin_export_async._batch.outcomes import ItwinVersion
from itwin_export_async._errors import ExportError, NothingToExport
from itwin_export_async._http.pager import AsyncPager
from itwin_export_async._models import ExportOptions, ExportOutcome, ExportRequest
from itwin_export_async._models.imodels import Changeset, IModel, NamedVersion

log = logging.getLogger("itwin_export_async.batch")

InThread: TypeAlias = Callable[[Callable[[], list[str]]], Awaitable[list[str]]]
"""Does work on the disk in a thread."""


class IModels(Protocol):
    """What is needed of `client.imodels`."""

    def list(
        self, itwin_id: str, *, name: str | None = None, search: str | None = None
    ) -> AsyncPager[IModel]:
        """List the iModels of an iTwin."""
        ...

    async def latest_named_version(self, imodel_id: str) -> NamedVersion | None:
        """Return the last visible named version."""
        ...

    async def latest_changeset(self, imodel_id: str) -> Changeset | None:
        """Return the newest changeset."""
        ...


@frozen(kw_only=True)
class ItwinRequest(ExportRequest):
    """A request for one iModel of an iTwin.

    `imodel_name`: its display name. `pushed_at`: its `lastChangesetPushDateTime` as listed, None
    where the list does not report it. `replaces_files`: whether the files of an earlier revision
    are removed once those of this one are whole, also where their names differ.
    """

    imodel_name: str = ""
    pushed_at: str | None = None
    replaces_files: bool = False


@frozen(kw_only=True)
class _Revision:
    """The state of a model that is exported: `id` None without any changeset."""

    id: str | None
    name: str


def _version(value: str) -> ItwinVersion:
    if value == "latest":
        return "latest"
    if value == "named":
        return "named"
    raise ValueError(f"version must be 'latest' or 'named', not {value!r}")


def _expected(value: object) -> int | frozenset[str] | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str | bool) or not isinstance(value, Collection):
        raise TypeError(f"expected must be a number or a list of ids, not {value!r}")
    return frozenset(value)


def _options(options: ExportOptions | None) -> ExportOptions:
    options = ExportOptions() if options is None else options
    if not isinstance(options, ExportOptions):
        raise TypeError(f"options must be ExportOptions, not {type(options).__name__}")
    if options.input.changeset_id is not None:
        raise ValueError("options.input.changeset_id is set by version; leave it out")
    return options


@frozen(kw_only=True)
class ItwinSource:
    """The requests of one `export_itwin` call.

    `expected`: how many iModels, or which ids, the list must have at least. `name`, `search`:
    filters of the list.
    """

    imodels: IModels
    itwin_id: str
    destination: str
    version: ItwinVersion = field(converter=_version)
    filename: str = field(converter=validate_template)
    options: ExportOptions = field(converter=_options)
    display_name: str | None = None
    name: str | None = None
    search: str | None = None
    expected: int | frozenset[str] | None = field(default=None, converter=_expected)

    def __attrs_post_init__(self) -> None:
        self.imodels.list(self.itwin_id, name=self.name, search=self.search)  # checks all three

    async def items(
        self, ledger: Ledger | None, outage: OutageRetrier, in_thread: InThread
    ) -> AsyncGenerator[ExportRequest | ExportOutcome, None]:
        """Requests, and outcomes of iModels that have nothing to export."""
        imodels = await outage.run(self._list)
        ready = [imodel for imodel in imodels if imodel.is_initialized]
        self._check(imodels, ready)
        entries: dict[str, Entry | None] = {}
        for imodel in ready:
            entries[imodel.id] = None if ledger is None else await ledger.entry(self._key(imodel))
        paths = FileNames(Path(self.destination), self.filename, await in_thread(self._existing))
        for imodel_id, entry in entries.items():
            if entry is not None:
                paths.reserve(entry, imodel_id)
        for imodel in ready:
            entry = entries[imodel.id]
            try:
                revision = await outage.run(partial(self._revision, imodel, entry))
            except ExportError as error:
                request = self._request(imodel, None, paths, entry)
                if ledger is not None:
                    await _note_error(ledger, request, error)
                yield ExportOutcome(request=request, error=error)
                continue
            yield self._request(imodel, revision, paths, entry)

    def _existing(self) -> list[str]:
        """The names in the destination, without those of an export they are never replaced."""
        try:
            return os.listdir(self.destination)
        except OSError:  # there is no such folder yet, or the first export reports it
            return []

    async def _list(self) -> Sequence[IModel]:
        listed = await self.imodels.list(self.itwin_id, name=self.name, search=self.search)
        return sorted(listed, key=lambda imodel: imodel.id)  # so that file names are repeatable

    def _check(self, imodels: Sequence[IModel], ready: Sequence[IModel]) -> None:
        """Log what the list has; raise a `ValueError` if it has less than expected."""
        missing = self._missing(imodels)
        if missing:
            raise ValueError(
                f"iTwin {self.itwin_id} lists {len(imodels)} iModels: {missing}; iModels that the "
                "caller may not see are not listed. Nothing was started"
            )
        fields = {"itwin": {"itwin_id": self.itwin_id}}
        if not imodels:
            log.warning(
                "iTwin %s lists no iModel; a service application has to be a member of the iTwin",
                self.itwin_id,
                extra=fields,
            )
        for imodel in imodels:
            if not imodel.is_initialized:
                log.info("iModel %s skipped: it is not initialized", imodel.id, extra=fields)
        log.info(
            "iTwin %s: %d iModels, %d of them initialized",
            self.itwin_id,
            len(imodels),
            len(ready),
            extra=fields,
        )

    def _missing(self, imodels: Sequence[IModel]) -> str:
        if self.expected is None:
            return ""
        if isinstance(self.expected, int):
            return f"at least {self.expected} expected" * (len(imodels) < self.expected)
        missing = sorted(self.expected - {imodel.id for imodel in imodels})
        return f"{', '.join(missing[:5])}{' ...' * (len(missing) > 5)} missing" if missing else ""

    async def _revision(self, imodel: IModel, entry: Entry | None) -> _Revision:
        """What is to be exported. Raises `NothingToExport` without such a version."""
        if self.version == "named":
            version = await self.imodels.latest_named_version(imodel.id)
            if version is None:
                raise NothingToExport(
                    imodel_id=imodel.id, message="has no visible named version; create one"
                )
            if version.is_baseline:
                raise NothingToExport(
                    imodel_id=imodel.id,
                    message=f"has its last named version, {version.display_name!r}, on the "
                    "baseline, which cannot be exported; create one on a changeset",
                )
            return _Revision(id=version.changeset_id, name=version.display_name)
        if entry is not None and self._is_unchanged(entry, _pushed_at(imodel)):
            return _Revision(id=entry.revision, name="")
        changeset = await self.imodels.latest_changeset(imodel.id)
        if changeset is None:  # made from a file, perhaps a whole model
            return _Revision(id=None, name="baseline")
        return _Revision(id=changeset.id, name=str(changeset.index or changeset.id))

    def _is_unchanged(self, entry: Entry, pushed_at: str | None) -> bool:
        return (
            pushed_at is not None
            and entry.state is EntryState.IN_PLACE
            and entry.pushed_at == pushed_at
            and entry.options == fingerprint(self._options_at(entry.revision))
        )

    def _request(
        self,
        imodel: IModel,
        revision: _Revision | None,
        paths: FileNames,
        entry: Entry | None,
    ) -> ItwinRequest:
        id = None if revision is None else revision.id
        options = self._options_at(id)
        if entry is not None and entry.revision == id and entry.options == fingerprint(options):
            destination = entry.destination  # the file that is there already
        else:
            destination = paths.path(imodel, "" if revision is None else revision.name)
        return ItwinRequest(
            imodel_id=imodel.id,
            imodel_name=imodel.display_name,
            destination=destination,
            options=options,
            display_name=self.display_name,
            key=self._key(imodel),
            revision=id,
            pushed_at=_pushed_at(imodel),
            replaces_files=not has_revision(self.filename),
        )

    def _options_at(self, changeset_id: str | None) -> ExportOptions:
        return evolve(self.options, input=evolve(self.options.input, changeset_id=changeset_id))

    def _key(self, imodel: IModel) -> str:
        return f"{imodel.id} {self.version} {os.path.normpath(self.destination)}"


async def _note_error(ledger: Ledger, request: ExportRequest, error: ExportError) -> None:
    entry = with_error(new_entry(request), error)
    line = HistoryLine.of(entry, type(error).__name__)
    await ledger.write_unclaimed(entry, line)


def _pushed_at(imodel: IModel) -> str | None:
    value: Any = imodel.raw.get("lastChangesetPushDateTime")
    return value if isinstance(value, str) else None
