"""The Synchronization API: files in Storage are synchronized into an iModel.

https://developer.bentley.com/apis/synchronization/
"""

from collections.abc import AsyncIterator, Iterable

from itwin_export_async._errors import ProtocolError
from itwin_export_async._http.pager import AsyncPager
from itwin_export_async._http.session import Session
from itwin_export_async._models import (
    AuthenticationType,
    DiagnosticReport,
    Run,
    SourceFile,
    StorageConnection,
)
from itwin_export_async._protocol import connections, reports, runs, source_files
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.handle import RunContext, RunHandle
from itwin_export_async._runs.service_client import ServiceClient
from itwin_export_async._runs.starter import JOIN_BY_DEFAULT, IfActive, RunStarter


class SynchronizationClient(ServiceClient[StorageConnection]):
    """Synchronizes files in Storage into iModels. It is `client.synchronization`.

    A storage connection belongs to one iModel and has source files, each with the connector that
    reads it. A run synchronizes what changed in them; its handle is a `RunHandle`, as for exports.
    """

    _service = Service.SYNCHRONIZATION
    _connection_type = StorageConnection

    def __init__(self, context: RunContext, consent: Consent) -> None:
        self._context = context
        self._session = context.session
        self._consent = consent

    async def create_connection(
        self,
        imodel_id: str,
        source_files: Iterable[SourceFile],
        *,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
    ) -> StorageConnection:
        """Create a storage connection of an iModel, with at least one source file.

        `authentication_type`: the identity its runs use, None leaves it to the service (which uses
        the user's). Raises `Conflict` if a file is already mapped to the iModel. Sent once: after
        an error whose `may_have_been_processed` is True the connection may exist.

        https://developer.bentley.com/apis/synchronization/operations/create-storage-connection/
        """
        request = connections.create_storage_connection_request(
            imodel_id, source_files, display_name, authentication_type
        )
        response = await self._session.send(request)
        connection = connections.parse_created_connection(response, StorageConnection)
        self._session.remember_new_connection(connection.id)
        return connection

    def list_connections(
        self, imodel_id: str | None = None, *, page_size: int | None = None
    ) -> AsyncPager[StorageConnection]:
        """List the storage connections of an iModel; None lists those of all visible iModels.

        `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/synchronization/operations/get-storage-connections/
        """
        return AsyncPager(
            self._session,
            page_size,
            lambda size, offset: connections.list_connections_request(
                Service.SYNCHRONIZATION, imodel_id, page_size=size, offset=offset
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
        """Change a storage connection. A value that is None is not changed.

        https://developer.bentley.com/apis/synchronization/operations/update-storage-connection/
        """
        request = connections.update_connection_request(
            connection_id, display_name, authentication_type
        )
        return runs.parse_connection(await self._session.send(request), StorageConnection)

    async def add_source_file(self, connection_id: str, source_file: SourceFile) -> SourceFile:
        """Add a file and return it with its id. Raises `Conflict` if it is already mapped.

        Sent once: after an error whose `may_have_been_processed` is True it may have been added.

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
        """List the source files of a connection. `page_size` None leaves it to the service.

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
        """Map another file, or use another connector, under the same `id`.

        https://developer.bentley.com/apis/synchronization/operations/update-storage-connection-sourcefile/
        """
        request = source_files.update_source_file_request(connection_id, source_file)
        return source_files.parse_source_file(await self._session.send(request))

    async def delete_source_file(self, connection_id: str, source_file_id: str) -> None:
        """Remove a file from a connection. The file stays in Storage.

        https://developer.bentley.com/apis/synchronization/operations/delete-storage-connection-sourcefile/
        """
        request = source_files.delete_source_file_request(connection_id, source_file_id)
        connections.check_deleted(await self._session.send(request))

    def list_reports(self, run: Run | RunHandle) -> AsyncPager[DiagnosticReport]:
        """List the connectors' reports on a run, one for each task that has ended.

        It also reads the connection, for its iModel. `client.storage.download_blob(report.sas_uri,
        destination)` downloads a report.

        https://developer.bentley.com/apis/synchronization/operations/get-diagnostic-reports/
        """
        run_id = run.run_id if isinstance(run, RunHandle) else run.id
        return _ReportPager(self._session, run.connection_id, run_id)

    async def start_run(
        self,
        connection_id: str,
        *,
        if_active: IfActive = JOIN_BY_DEFAULT,
        timeout: float | None = None,
    ) -> RunHandle:
        """Start a synchronization and return the handle of its run.

        `if_active` and `timeout` as for `ExportClient.start_run`.

        https://developer.bentley.com/apis/synchronization/operations/run-storage-connection/
        """
        starter = RunStarter(
            context=self._context,
            service=self._service,
            connection_id=connection_id,
            request=runs.create_synchronization_run_request(connection_id),
            if_active=if_active,
        )
        return await starter.start(timeout)


class _ReportPager(AsyncPager[DiagnosticReport]):
    """The reports of a run, which the service lists by iModel and run: on one page."""

    def __init__(self, session: Session, connection_id: str, run_id: str) -> None:
        get_connection = runs.get_connection_request(Service.SYNCHRONIZATION, connection_id)
        super().__init__(session, None, lambda *_: get_connection, reports.parse_reports)
        self._run_id = run_id

    async def pages(self) -> AsyncIterator[tuple[DiagnosticReport, ...]]:
        """The page, if it has a report."""
        response = await self._session.send(self._request)
        imodel_id = runs.parse_connection(response, StorageConnection).imodel_id
        if imodel_id is None:
            raise ProtocolError(
                message="is missing",
                method=response.method,
                url=response.url,
                path="connection.iModelId",
            )
        request = reports.list_reports_request(imodel_id, self._run_id)
        items = reports.parse_reports(await self._session.send(request)).items
        if items:
            yield items
