"""What Storage holds: folders, files, uploads not yet completed, and the blobs behind them."""

from collections.abc import Callable, Iterator
from math import inf
from random import Random

from attrs import define, evolve, field, frozen

from itwin_export_async.emulator._state.blobs import BlobStore
from itwin_export_async.emulator._state.contents import Content
from itwin_export_async.emulator._state.ids import composite, new_guid, pair


@frozen(kw_only=True)
class Folder:
    """A folder; the root folder of an iTwin has the iTwin's own id, and no parent."""

    guid: str
    itwin_id: str
    name: str = ""
    description: str = ""
    parent_id: str | None = None
    created_at: float = 0.0

    @property
    def id(self) -> str:
        """The id under which Storage knows it."""
        return composite(self.itwin_id, self.guid)


@frozen(kw_only=True)
class StoredFile:
    """A file, there from `created_at` until `gone_at`; `blob` is the path of its content.

    `imodel_id` names the iModel that it was exported from, if it was.
    """

    guid: str
    itwin_id: str
    name: str
    description: str
    folder_id: str
    created_at: float
    modified_at: float
    blob: str
    imodel_id: str | None = None
    gone_at: float = inf

    @property
    def id(self) -> str:
        """The id under which Storage itself knows it."""
        return composite(self.itwin_id, self.guid)

    def is_there(self, now: float) -> bool:
        """Whether it can be read."""
        return self.created_at <= now < self.gone_at


@define(kw_only=True, eq=False)
class FileStore:
    """The storage of all iTwins; everything in it goes by its plain GUID.

    `uploads` are the files as they will be once their contents are complete.
    """

    blobs: BlobStore
    ids: Random
    itwins: set[str] = field(factory=set)
    folders: dict[str, Folder] = field(factory=dict)
    files: dict[str, StoredFile] = field(factory=dict)
    uploads: dict[str, StoredFile] = field(factory=dict)

    def add_file(
        self,
        write: Callable[[], Content],
        *,
        guid: str,
        itwin_id: str,
        name: str,
        since: float,
        description: str = "",
        folder_id: str | None = None,
        imodel_id: str | None = None,
    ) -> StoredFile:
        """A new file of this content, there from then on, in the root folder if none is given."""
        stored = StoredFile(
            guid=guid,
            itwin_id=itwin_id,
            name=name,
            description=description,
            folder_id=folder_id or composite(itwin_id, itwin_id),
            created_at=since,
            modified_at=since,
            blob=f"/{itwin_id}/{guid}",
            imodel_id=imodel_id,
        )
        self.itwins.add(itwin_id)
        self.files[guid] = stored
        self.blobs.put(stored.blob, write, since=since)
        return stored

    def add_folder(self, parent: Folder, *, name: str, description: str, now: float) -> Folder:
        """A new folder in another."""
        folder = Folder(
            guid=new_guid(self.ids),
            itwin_id=parent.itwin_id,
            name=name,
            description=description,
            parent_id=parent.id,
            created_at=now,
        )
        self.folders[folder.guid] = folder
        return folder

    def replace_outputs(self, newer: StoredFile) -> None:
        """Let the older files of the same iModel in the same folder go when the newer one comes."""
        for older in list(self.files.values()):
            same = (older.imodel_id, older.folder_id) == (newer.imodel_id, newer.folder_id)
            if same and older is not newer and older.gone_at > newer.created_at:
                self.files[older.guid] = evolve(older, gone_at=newer.created_at)

    def remove_folder(self, folder: Folder) -> None:
        """Forget a folder and all in it."""
        for inner in self.folders_in(folder):
            self.remove_folder(inner)
        for guid in [guid for guid, file in self.files.items() if file.folder_id == folder.id]:
            del self.files[guid]
        del self.folders[folder.guid]

    def file(self, file_id: str) -> StoredFile | None:
        """The file of this composite id, or None."""
        both = pair(file_id)
        stored = self.files.get(both[1]) if both else None
        return stored if stored is not None and stored.id == file_id else None

    def folder(self, folder_id: str) -> Folder | None:
        """The folder of this composite id, or None."""
        container, own = pair(folder_id) or ("", "")
        if container == own:
            return Folder(guid=own, itwin_id=own) if own in self.itwins else None
        folder = self.folders.get(own)
        return folder if folder is not None and folder.id == folder_id else None

    def folders_in(self, folder: Folder) -> list[Folder]:
        """The folders right in this one."""
        return [inner for inner in self.folders.values() if inner.parent_id == folder.id]

    def files_in(self, folder: Folder, *, now: float) -> list[StoredFile]:
        """The files right in this one that can be read now."""
        return [f for f in self.files.values() if f.folder_id == folder.id and f.is_there(now)]

    def below(self, folder: Folder, *, now: float) -> Iterator[Folder | StoredFile]:
        """All folders and files in this one and in those inside it."""
        for inner in self.folders_in(folder):
            yield inner
            yield from self.below(inner, now=now)
        yield from self.files_in(folder, now=now)

    def path(self, thing: Folder | StoredFile) -> str:
        """The names of the folders around it and its own, from the root folder on."""
        parent_id = thing.parent_id if isinstance(thing, Folder) else thing.folder_id
        parent = self.folder(parent_id) if parent_id else None
        return f"{self.path(parent)}/{thing.name}".lstrip("/") if parent else thing.name
