"""Storage: metadata, folders, and whole files in either direction."""

import asyncio
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from attrs import evolve

from itwin_export_async._errors import DownloadError
from itwin_export_async._files.download import Download
from itwin_export_async._files.progress import Progress
from itwin_export_async._files.temp_file import check_target, make_folder
from itwin_export_async._files.upload import upload
from itwin_export_async._http.pager import AsyncPager
from itwin_export_async._http.session import Session
from itwin_export_async._models import StoredFile
from itwin_export_async._protocol.blobs import create_file_request
from itwin_export_async._protocol.files import (
    download_file_request,
    get_file_request,
    parse_download,
    parse_file,
    safe_name,
)
from itwin_export_async._protocol.folders import (
    list_folder_request,
    list_root_folder_request,
    parse_items,
    parse_root_folder,
)
from itwin_export_async._protocol.urls import is_valid_signed_url


class StorageClient:
    """iTwin Storage, as far as exports and synchronizations need it: `ExportClient.storage`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get_file(self, file_id: str) -> StoredFile:
        """A file's metadata. Raises `NotFound` when Storage does not know the id.

        https://developer.bentley.com/apis/storage/operations/get-file/
        """
        return parse_file(await self._session.send(get_file_request(file_id)))

    def list_folder(
        self, folder_id: str, *, page_size: int | None = None
    ) -> AsyncPager[StoredFile]:
        """The files and folders in a folder. `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/storage/operations/get-folders-and-files-in-folder/
        """
        return AsyncPager(
            self._session,
            page_size,
            lambda size, offset: list_folder_request(folder_id, page_size=size, offset=offset),
            parse_items,
        )

    def list_root_folder(
        self, itwin_id: str, *, page_size: int | None = None
    ) -> AsyncPager[StoredFile]:
        """The files and folders in an iTwin's root folder.

        https://developer.bentley.com/apis/storage/operations/get-top-level-folders-and-files-by-project/
        """
        return AsyncPager(
            self._session,
            page_size,
            lambda size, offset: list_root_folder_request(itwin_id, page_size=size, offset=offset),
            parse_items,
        )

    async def get_root_folder_id(self, itwin_id: str) -> str:
        """The id of an iTwin's root folder, to upload to or to list."""
        request = list_root_folder_request(itwin_id, page_size=1, offset=0)
        return parse_root_folder(await self._session.send(request))

    async def upload(
        self,
        path: str | os.PathLike[str],
        folder_id: str,
        *,
        display_name: str | None = None,
        description: str | None = None,
        on_progress: Progress | None = None,
    ) -> StoredFile:
        """Bring a file into a folder of Storage: one to be synchronized, or a mapping file.

        `display_name` is its name there, None for the one it has on disk. The service says where
        the bytes go, they are sent there in pieces with their digests, and only then the file
        exists. Raises `UploadError` when they cannot be sent whole, what the service refuses
        (`InvalidRequest` for a name that it does not take, `NotFound` for the folder), and the
        `OSError` of a file that cannot be read.

        https://developer.bentley.com/apis/storage/operations/create-file/
        """
        source = Path(path)
        announcement = create_file_request(folder_id, display_name or source.name, description)
        return await upload(self._session, announcement, source, on_progress)

    async def download(
        self,
        file_id: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Bring a file to disk and say where it is.

        `destination` is the file's path, or a folder (one that exists, or ends with a separator)
        in which it gets the name it has in Storage. Raises `NotFound`, and `DownloadError` when it
        cannot be fetched whole, known to be whole, or written; then nothing stands under the final
        name.

        https://developer.bentley.com/apis/storage/operations/download-file/
        """
        path, size = Path(destination), None
        if is_folder(destination):
            stored = await self.get_file(file_id)
            path, size = path / safe_name(stored.display_name, fallback=file_id), stored.size
        return await fetch_file(self._session, file_id, path, size, on_progress)

    async def download_blob(
        self,
        sas_url: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Bring a blob of your own to disk, such as the output or the log of a run that wrote to
        `USER_BLOB_STORAGE`. Its signature must allow reading.

        `destination` as for `download`; in a folder the file gets the blob's name. Raises
        `DownloadError`.
        """
        if not is_valid_signed_url(sas_url):
            raise ValueError("sas_url must be an https address, without user and fragment")
        path = Path(destination)
        if is_folder(destination):
            path /= safe_name(unquote(urlsplit(sas_url).path), fallback="output")

        async def locate() -> str:
            return sas_url

        download = Download(self._session, locate, path, on_progress, can_renew=False)
        try:
            await download.fetch()
        except DownloadError as error:
            raise _named(error, "", path) from error.__cause__
        return path


async def fetch_file(
    session: Session, file_id: str, path: Path, size: int | None, on_progress: Progress | None
) -> Path:
    """Bring a file of Storage to this path. `size`: the bytes it has, None when not known yet.

    Raises as `StorageClient.download`. The `DownloadError` comes from a `NotFound` where Storage
    knows the file and the blob store does not, and is `SizeMismatch` where they know it differently.
    """

    async def locate() -> str:
        return parse_download(await session.send(download_file_request(file_id)))

    async def measure() -> int | None:
        return parse_file(await session.send(get_file_request(file_id))).size

    download = Download(session, locate, path, on_progress, size=size, measure=measure)
    try:
        await download.fetch()
    except DownloadError as error:
        raise _named(error, file_id, path) from error.__cause__
    return path


def _named(error: DownloadError, file_id: str, path: Path) -> DownloadError:
    place = error.destination or str(path)  # the folder, where that is the trouble
    return evolve(error, file_id=file_id, destination=place)


def is_folder(destination: str | os.PathLike[str]) -> bool:
    """Whether a destination means a folder: it is one, or ends with a separator."""
    text = os.fspath(destination)
    return text.endswith(("/", os.sep)) or os.path.isdir(text)


def check_destination(destination: str) -> None:
    """Raise a `DownloadError` if the destination is what no file may replace."""
    if not is_folder(destination):
        check_target(Path(destination))


async def prepare_folder(folder: Path) -> None:
    """Make the folder, or raise a `DownloadError` that says why it cannot be written."""
    await asyncio.to_thread(make_folder, folder)
