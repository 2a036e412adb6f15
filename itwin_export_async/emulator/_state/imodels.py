"""iModels: their changesets, their named versions, and the caller's permissions."""

from collections.abc import Iterable
from random import Random
from typing import Literal

from attrs import define, evolve, field, frozen

from itwin_export_async.emulator._state.ids import new_guid

ALL_PERMISSIONS = frozenset(
    {
        "imodels_webview",
        "imodels_read",
        "imodels_write",
        "imodels_manage",
        "storage_read",
        "storage_write",
        "webhooks_maintainer",
    }
)
IMODEL_STATES = ("initialized", "notInitialized")
VERSION_STATES = ("visible", "hidden")
PUSH_DATES = ("reported", "null", "missing")

PushDate = Literal["reported", "null", "missing"]
_SHORTEST_STEP = 1e-3  # seconds between two pushes of one iModel, so that their dates differ


@frozen(kw_only=True)
class Changeset:
    """One push of changes. `task_id` names the synchronization task that pushed it."""

    id: str
    index: int
    parent_id: str
    description: str
    pushed_at: float
    task_id: str | None = None
    changed_files: tuple[str, ...] = ()


@frozen(kw_only=True)
class NamedVersion:
    """A named version. It stands on a changeset, or on the baseline: None and index 0."""

    id: str
    name: str
    description: str | None
    changeset_id: str | None
    changeset_index: int
    created_at: float
    state: str


@define(kw_only=True, eq=False)
class IModel:
    """An iModel.

    `permissions` are the caller's in this iModel; None means those in its iTwin. `push_date` says
    how `lastChangesetPushDateTime` is reported: as it is, always null, or not at all.
    """

    id: str
    name: str
    itwin_id: str
    description: str = ""
    state: str = "initialized"
    created_at: float = 0.0
    push_date: PushDate = "reported"
    permissions: frozenset[str] | None = None
    named_versions: list[NamedVersion] = field(factory=list)
    _changesets: list[Changeset] = field(factory=list)
    _scheduled: list[Changeset] = field(factory=list)

    def copied(self, now: float) -> "IModel":
        """Return a copy that later changes do not affect, without pushes of the future."""
        return evolve(
            self,
            named_versions=list(self.named_versions),
            changesets=list(self.changesets(now)),
            scheduled=[],
        )

    def changesets(self, now: float) -> list[Changeset]:
        """Return the changesets that have been pushed by now, the oldest first."""
        for due in sorted(self._scheduled, key=lambda changeset: changeset.pushed_at):
            if due.pushed_at <= now:
                self._scheduled.remove(due)
                self._append(due)
        return self._changesets

    def push(self, changeset_id: str, *, description: str, now: float) -> Changeset:
        """Push a changeset now."""
        self.changesets(now)
        return self._append(_new_changeset(changeset_id, description, now))

    def schedule_push(
        self, changeset_id: str, *, at: float, task_id: str, changed_files: Iterable[str]
    ) -> None:
        """Let a synchronization task push a changeset at a moment in the future."""
        changeset = _new_changeset(changeset_id, "Synchronization", at)
        files = tuple(changed_files)
        self._scheduled.append(evolve(changeset, task_id=task_id, changed_files=files))

    def find_changeset(self, id_or_index: str, now: float) -> Changeset | None:
        """Return the changeset of this id or index, None if there is none."""
        for changeset in self.changesets(now):
            if id_or_index in (changeset.id, str(changeset.index)):
                return changeset
        return None

    def add_named_version(
        self,
        name: str,
        changeset_id: str | None,
        *,
        rng: Random,
        state: str,
        description: str | None,
        now: float,
    ) -> NamedVersion:
        """Add a named version. Raises `ValueError` for a name or a changeset that has one."""
        changeset = None if changeset_id is None else self.find_changeset(changeset_id, now)
        if changeset_id is not None and changeset is None:
            raise ValueError(f"iModel {self.id} has no changeset {changeset_id!r}")
        for other in self.named_versions:
            if other.name == name or other.changeset_id == changeset_id:
                raise ValueError(
                    f"iModel {self.id} has the named version {other.name!r} on changeset "
                    f"{other.changeset_id}: use another name and changeset"
                )
        version = NamedVersion(
            id=new_guid(rng),
            name=name,
            description=description,
            changeset_id=changeset.id if changeset else None,
            changeset_index=changeset.index if changeset else 0,
            created_at=now,
            state=state,
        )
        self.named_versions.append(version)
        return version

    def _append(self, changeset: Changeset) -> Changeset:
        parent = self._changesets[-1] if self._changesets else None
        earliest = parent.pushed_at + _SHORTEST_STEP if parent else changeset.pushed_at
        appended = evolve(
            changeset,
            index=parent.index + 1 if parent else 1,
            parent_id=parent.id if parent else "",
            pushed_at=max(changeset.pushed_at, earliest),
        )
        self._changesets.append(appended)
        return appended


def _new_changeset(changeset_id: str, description: str, at: float) -> Changeset:
    return Changeset(id=changeset_id, index=0, parent_id="", description=description, pushed_at=at)
