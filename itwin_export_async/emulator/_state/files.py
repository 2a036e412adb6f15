"""Storage: folders, files, pending uploads, and the blobs that hold the contents."""

from collections.abc import Callable, Iterator
from math import inf
from random import Random

from attrs import define, evolve, field, frozen

from itwin_export_async.emulator._state.blobs import BlobStore, Content
from itwin_export_async.emulator._state.ids import decode_storage_id, encode_storage_id, new_guid


@frozen(kw_only=True)
class Folder:
    """A folder. The root folder of an iTwin has the iTwin's own GUID and no parent."""

    guid: str
    itwin_id: str
    name: str = ""
    description: str = ""
    parent_id: str | None = None
    created_at: float = 0.0

    @property
    def id(self) -> str:
        """Its id in Storage."""
        return encode_storage_id(self.itwin_id, self.guid)


@frozen(kw_only=True)
class StoredFile:
    """A file that exists from `created_at` until `gone_at`; `blob` is the path of its content.

    `imodel_id` names the iModel that it was exported from, None for other files.
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
        """Its id in Storage."""
        return encode_storage_id(self.itwin_id, self.guid)

    def exists(self, now: float) -> bool:
        """Whether it can be read."""
        return self.created_at <= now < self.gone_at


@define(kw_only=True, eq=False)
class FileStore:
    """The files and folders of all iTwins, by GUID.

    `uploads` holds files as they will be once their contents are complete.
    """

    blobs: BlobStore
    id_rng: Random
    itwins: set[str] = field(factory=set)
    folders: dict[str, Folder] = field(factory=dict)
    files: dict[str, StoredFile] = field(factory=dict)
    uploads: dict[str, StoredFile] = field(factory=dict)

    def copied(self) -> "FileStore":
        """Return a copy that later changes do not affect."""
        return evolve(
            self,
            blobs=self.blobs.copied(),
            itwins=set(self.itwins),
            folders=dict(self.folders),
            files=dict(self.files),
            uploads=dict(self.uploads),
        )

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
        """Add a file that exists from `since` on, in the root folder unless one is given."""
        stored = StoredFile(
            guid=guid,
            itwin_id=itwin_id,
            name=name,
            description=description,
            folder_id=folder_id or encode_storage_id(itwin_id, itwin_id),
            created_at=since,
            modified_at=since,
            blob=f"/{itwin_id}/{guid}",
            imodel_id=imodel_id,
        )
        self.itwins.add(itwin_id)
        self.files[guid] = stored
        self.blobs.put(stored.blob, write, since=since)
        return stored

    def remove_file(self, stored: StoredFile) -> None:
        """Delete a file and its content."""
        del self.files[stored.guid]
        self.blobs.remove(stored.blob)

    def add_folder(self, parent: Folder, *, name: str, description: str, now: float) -> Folder:
        """Add a folder to another."""
        folder = Folder(
            guid=new_guid(self.id_rng),
            itwin_id=parent.itwin_id,
            name=name,
            description=description,
            parent_id=parent.id,
            created_at=now,
        )
        self.folders[folder.guid] = folder
        return folder

    def replace_outputs(self, newer: StoredFile) -> None:
        """Delete older outputs of the same iModel and folder once the newer one exists."""
        for older in list(self.files.values()):
            same = (older.imodel_id, older.folder_id) == (newer.imodel_id, newer.folder_id)
            if same and older is not newer and older.gone_at > newer.created_at:
                self.files[older.guid] = evolve(older, gone_at=newer.created_at)

    def remove_folder(self, folder: Folder) -> None:
        """Delete a folder and everything in it."""
        for inner in self.folders_in(folder):
            self.remove_folder(inner)
        for stored in [file for file in self.files.values() if file.folder_id == folder.id]:
            self.remove_file(stored)
        del self.folders[folder.guid]

    def file(self, file_id: str) -> StoredFile | None:
        """Return the file with this Storage id, None if there is none."""
        guids = decode_storage_id(file_id)
        stored = self.files.get(guids[1]) if guids else None
        return stored if stored is not None and stored.id == file_id else None

    def folder(self, folder_id: str) -> Folder | None:
        """Return the folder with this Storage id, None if there is none."""
        container, own = decode_storage_id(folder_id) or ("", "")
        if container == own:
            return Folder(guid=own, itwin_id=own) if own in self.itwins else None
        folder = self.folders.get(own)
        return folder if folder is not None and folder.id == folder_id else None

    def folders_in(self, folder: Folder) -> list[Folder]:
        """Return the folders directly in this one."""
        return [inner for inner in self.folders.values() if inner.parent_id == folder.id]

    def files_in(self, folder: Folder, *, now: float) -> list[StoredFile]:
        """Return the files directly in this folder that can be read now."""
        return [f for f in self.files.values() if f.folder_id == folder.id and f.exists(now)]

    def below(self, folder: Folder, *, now: float) -> Iterator[Folder | StoredFile]:
        """Yield all folders and files in this folder, at any depth."""
        for inner in self.folders_in(folder):
            yield inner
            yield from self.below(inner, now=now)
        yield from self.files_in(folder, now=now)

    def path(self, item: Folder | StoredFile) -> str:
        """Return the names of the folders above it and its own, from the root folder on."""
        parent_id = item.parent_id if isinstance(item, Folder) else item.folder_id
        parent = self.folder(parent_id) if parent_id else None
        return f"{self.path(parent)}/{item.name}".lstrip("/") if parent else item.name
