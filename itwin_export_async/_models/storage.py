"""Files and folders in iTwin Storage."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen

from itwin_export_async._models.reprs import short_repr


@frozen(kw_only=True)
class StoredFile:
    """A file or folder in Storage. A member that the service leaves out is None.

    `type` is `file` or `folder`. `size` is in bytes; folders have none. `path` is the path below
    the iTwin's root folder.
    """

    id: str
    display_name: str = ""
    type: str = "file"
    description: str | None = None
    path: str | None = None
    size: int | None = None
    last_modified_by_display_name: str | None = None
    created_date_time: datetime | None = None
    last_modified_date_time: datetime | None = None
    parent_folder_id: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder."""
        return self.type == "folder"
