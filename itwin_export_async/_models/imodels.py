"""iModels, their named versions and changesets.

https://developer.bentley.com/apis/imodels-v2/operations/
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from itwin_export_async._models.reprs import short_repr


@frozen(kw_only=True)
class IModel:
    """An iModel of an iTwin.

    A short list has `id` and `display_name` only; what is missing is None. `state` is `initialized`
    or `notInitialized`. `last_changeset_push_date_time` is None without a changeset, and where the
    service does not report it (see `reports_last_push`).
    """

    id: str
    display_name: str = ""
    name: str | None = None
    description: str | None = None
    state: str | None = None
    created_date_time: datetime | None = None
    last_changeset_push_date_time: datetime | None = None
    itwin_id: str | None = None
    data_center_location: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr

    @property
    def is_initialized(self) -> bool:
        """Whether it can be exported; an unknown state counts as initialized."""
        return self.state is None or self.state.casefold() == "initialized"

    @property
    def reports_last_push(self) -> bool:
        """Whether the service reports the latest push at all: then None means no changeset."""
        return "lastChangesetPushDateTime" in self.raw


@frozen(kw_only=True)
class NamedVersion:
    """A named version of an iModel.

    `changeset_id` None is the baseline, before the first changeset. `changeset_index` is its
    position in the history. `state` is `visible` or `hidden`.
    """

    id: str
    display_name: str = ""
    name: str | None = None
    description: str | None = None
    changeset_id: str | None = None
    changeset_index: int = 0
    created_date_time: datetime | None = None
    state: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr

    @property
    def is_baseline(self) -> bool:
        """Whether it names the state before the first changeset, which cannot be exported."""
        return not self.changeset_id


@frozen(kw_only=True)
class Changeset:
    """A changeset of an iModel. `index` is its position in the history, from 1."""

    id: str
    display_name: str = ""
    description: str | None = None
    index: int = 0
    parent_id: str | None = None
    creator_id: str | None = None
    push_date_time: datetime | None = None
    state: str | None = None
    file_size: int | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr
