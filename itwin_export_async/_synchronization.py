"""The Synchronization API: files in Storage that are brought into an iModel.

https://developer.bentley.com/apis/synchronization/
"""

from collections.abc import Iterable

from itwin_export_async._http.pager import AsyncPager, list_runs
from itwin_export_async._models import (
    AuthenticationType,
    AuthorizationInformation,
    Run,
    SourceFile,
    StorageConnection,
)
from itwin_export_async._protocol import connections, runs, source_files
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.handle import RunContext, RunHandle
from itwin_export_async._runs.starter import IfActive, RunStarter

_SERVICE = Service.SYNCHRONIZATION


class SynchronizationClient:
    """Brings files in Storage into iModels: `ExportClient.synchronization`.

    A storage connection belongs to one iModel and has source files, each with the connector that
    reads it. A run brings in what changed in them; its handle is that of exports.
    """

    def __init__(self, desk: RunContext, consent: Consent) -> None:
        self._desk = desk
        self._session = desk.session
        self._consent = consent

    async def create_connection(
        self,
        imodel_id: str,
        source_files: Iterable[SourceFile],
        *,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
    ) -> StorageConnection:
        """Make a storage connection of an iModel, with at least one source file.

        `authentication_type`: in whose name its runs work, None leaves it to the service (which
        takes the user's). Raises `Conflict` when a file is mapped to the iModel already. Sent once:
        when no answer comes it may have been made, unless `TransportError.sent` is False.

        https://developer.bentley.com/apis/synchronization/operations/create-storage-connection/
        """
        request = connections.create_storage_connection_request(
            imodel_id, source_files, display_name, authentication_type
        )
        response = await self._session.send(request)
        return connections.parse_created_connection(response, StorageConnection)

    async def get_connection(self, connection_id: str) -> StorageConnection:
        """Read a storage connection. Raises `NotFound`.

        https://developer.bentley.com/apis/synchronization/operations/get-storage-connection/
        """
        response = await self._session.send(runs.get_connection_request(_SERVICE, connection_id))
        return runs.parse_connection(response, StorageConnection)

    def list_connections(
        self, imodel_id: str | None = None, *, page_size: int | None = None
    ) -> AsyncPager[StorageConnection]:
        """The storage connections of an iModel, None for those of all iModels that you can see.

        `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/synchronization/operations/get-storage-connections/
        """
        return AsyncPager(
            self._session,
            page_size,
            lambda size, offset: connections.list_connections_request(
                _SERVICE, imodel_id, page_size=size, offset=offset
            ),
            lambda response: connections.parse_connections(response, StorageConnection),
        )

    async def update_connection(
        self,
        connection_id: str,
        *,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
    ) -> StorageConnection:
        """Change a storage connection; what is None stays as it is.

        https://developer.bentley.com/apis/synchronization/operations/update-storage-connection/
        """
        request = connections.update_connection_request(
            connection_id, display_name, authentication_type
        )
        return runs.parse_connection(await self._session.send(request), StorageConnection)

    async def delete_connection(self, connection_id: str) -> None:
        """Delete a storage connection.

        https://developer.bentley.com/apis/synchronization/operations/delete-storage-connection/
        """
        request = connections.delete_connection_request(_SERVICE, connection_id)
        connections.check_deleted(await self._session.send(request))

    async def add_source_file(self, connection_id: str, source_file: SourceFile) -> SourceFile:
        """Add a file, and get it with its id. Raises `Conflict` when it is mapped already.

        Sent once: when no answer comes it may have been added, unless `TransportError.sent` is
        False.

        https://developer.bentley.com/apis/synchronization/operations/add-storage-connection-sourcefile/
        """
        request = source_files.add_source_file_request(connection_id, source_file)
        return source_files.parse_source_file(await self._session.send(request))

    async def get_source_file(self, connection_id: str, source_file_id: str) -> SourceFile:
        """Read a source file. Raises `NotFound`.

        https://developer.bentley.com/apis/synchronization/operations/get-storage-connection-sourcefile/
        """
        request = source_files.get_source_file_request(connection_id, source_file_id)
        return source_files.parse_source_file(await self._session.send(request))

    def list_source_files(
        self, connection_id: str, *, page_size: int | None = None
    ) -> AsyncPager[SourceFile]:
        """The source files of a connection. `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/synchronization/operations/get-storage-connection-sourcefiles/
        """
        return AsyncPager(
            self._session,
            page_size,
            lambda size, offset: source_files.list_source_files_request(
                connection_id, page_size=size, offset=offset
            ),
            source_files.parse_source_files,
        )

    async def update_source_file(self, connection_id: str, source_file: SourceFile) -> SourceFile:
        """Map another file, or read it by another connector, under the `id` that it has.

        https://developer.bentley.com/apis/synchronization/operations/update-storage-connection-sourcefile/
        """
        request = source_files.update_source_file_request(connection_id, source_file)
        return source_files.parse_source_file(await self._session.send(request))

    async def delete_source_file(self, connection_id: str, source_file_id: str) -> None:
        """Take a file out of a connection. It stays in Storage.

        https://developer.bentley.com/apis/synchronization/operations/delete-storage-connection-sourcefile/
        """
        request = source_files.delete_source_file_request(connection_id, source_file_id)
        connections.check_deleted(await self._session.send(request))

    async def start_run(self, connection_id: str, *, if_active: IfActive = "join") -> RunHandle:
        """Start a synchronization, and hold its run. `if_active` is that of `ExportClient`.

        https://developer.bentley.com/apis/synchronization/operations/run-storage-connection/
        """
        starter = RunStarter(
            desk=self._desk,
            service=_SERVICE,
            connection_id=connection_id,
            request=runs.create_synchronization_run_request(connection_id),
            if_active=if_active,
        )
        return await starter.start()

    async def get_run(self, connection_id: str, run_id: str) -> Run:
        """Look at a run, once. Raises `NotFound`.

        https://developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/
        """
        request = runs.get_run_request(_SERVICE, connection_id, run_id)
        return runs.parse_run(await self._session.send(request), connection_id)

    def list_runs(self, connection_id: str, *, page_size: int | None = None) -> AsyncPager[Run]:
        """The runs of a connection, in no order. `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/synchronization/operations/get-storage-connection-runs/
        """
        return list_runs(self._session, _SERVICE, connection_id, page_size)

    def run(self, connection_id: str, run_id: str) -> RunHandle:
        """A handle of a run that you know by its ids. Asks nothing."""
        return self._desk.attach(_SERVICE, connection_id, run_id)

    async def get_authorization(self, redirect_url: str) -> AuthorizationInformation:
        """Whether the user has agreed to background work in their name, and where they can.

        `redirect_url`: where that page sends them afterwards, an absolute address.

        https://developer.bentley.com/apis/synchronization/operations/get-authorization-information/
        """
        return await self._consent.ask(_SERVICE, redirect_url)
