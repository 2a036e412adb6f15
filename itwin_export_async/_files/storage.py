"""The Storage client: metadata, folders, streams, and whole files in either direction."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from itwin_export_async._files.blob_reader import BlobReader, BlobSource
from itwin_export_async._files.download import Downloader, Progress, blob_source
from itwin_export_async._http.pager import AsyncPager
from itwin_export_async._http.session import Session
from itwin_export_async._models import StoredFile
from itwin_export_async._protocol.files import (
    create_file_request,
    get_file_request,
    is_usable_signed_url,
    list_folder_request,
    list_root_folder_request,
    parse_file,
    parse_items,
    parse_root_folder,
)


class StorageClient:
    """iTwin Storage, as far as exports and synchronizations need it: `ExportClient.storage`."""

    def __init__(self, session: Session, downloader: Downloader) -> None:
        self._session = session
        self._downloader = downloader

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
        """The files and folders in an iTwin's root folder. `page_size` as for `list_folder`.

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

    @asynccontextmanager
    async def open(
        self, file_id: str, *, start: int = 0, stop: int | None = None, if_range: str | None = None
    ) -> AsyncIterator[BlobReader]:
        """A file's content as a stream. Nothing touches a disk.

            async with client.storage.open(file_id) as file:
                async for chunk in file: ...

        `start` and `stop` are offsets in bytes; `stop` None is the end of the file. With
        `if_range`, an ETag, they count only for that version of the file; of another version all is
        read (the reader's `start` says which of the two it is). Broken connections and expired URLs
        are resumed within the iteration. Raises `NotFound`, and `DownloadError` where the bytes
        cannot be read to the end or do not add up.

        https://developer.bentley.com/apis/storage/operations/download-file/
        """
        source = await self._downloader.described_file(file_id)
        async with self._downloader.reader(
            source, start=start, stop=stop, if_range=if_range
        ) as reader:
            yield reader

    async def upload(
        self,
        path: str | os.PathLike[str],
        folder_id: str,
        *,
        display_name: str | None = None,
        description: str | None = None,
        on_progress: Progress | None = None,
    ) -> StoredFile:
        """Send a file to a folder of Storage: one to be synchronized, or a mapping file.

        `display_name` is its name there, None for the one it has on disk. Storage lists the file
        only once all its bytes have arrived. An upload that outlives its signed URL continues with
        a new one. Raises `UploadError` when the file cannot be sent whole or changes meanwhile, the
        errors of Storage (`InvalidRequest` for a name that it rejects, `NotFound` for the folder),
        and the `OSError` of a file that cannot be read.

        https://developer.bentley.com/apis/storage/operations/create-file/
        """
        from itwin_export_async._files.upload import upload  # loaded here: no export uploads

        source = Path(path)
        request = create_file_request(folder_id, display_name or source.name, description)
        return await upload(self._session, self._downloader.threads, request, source, on_progress)

    async def download(
        self,
        file_id: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Download a file and return its path.

        `destination` is a folder if it exists as one, ends with a separator or has no suffix;
        otherwise it is the path of the file, and replaces what is there. In a folder the file gets
        the name it has in Storage, made safe, and a number where another file has that name; a file
        that this client put there is replaced.

        Raises a `ValueError` for a destination that can never be one (a URL, a device, a pipe),
        `NotFound`, and `DownloadError` when the file cannot be read whole or written; then nothing
        stands under the final name.

        https://developer.bentley.com/apis/storage/operations/download-file/
        """
        target = await self._downloader.target(destination)
        return await self._downloader.save(BlobSource(file_id=file_id), target, on_progress)

    async def download_blob(
        self,
        sas_url: str,
        destination: str | os.PathLike[str],
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Download a blob of your own, such as the output or the log of a run that wrote to
        `USER_BLOB_STORAGE`, and return its path. Its signature must allow reading.

        `destination` as for `download`; in a folder the file gets the blob's name. Raises
        `DownloadError`.
        """
        if not is_usable_signed_url(sas_url, base_url=self._session.base_url):
            raise ValueError(
                "sas_url must be an https URL without user and fragment (plain http only to this "
                "machine, for an API on this machine)"
            )
        target = await self._downloader.target(destination)
        return await self._downloader.save(blob_source(sas_url), target, on_progress)
