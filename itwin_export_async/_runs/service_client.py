"""What the Export API and the Synchronization API offer alike: they differ in their paths."""

from typing import Generic, TypeVar

from itwin_export_async._http.pager import AsyncPager, list_runs
from itwin_export_async._models import AuthorizationInformation, Connection, Run
from itwin_export_async._protocol.connections import check_deleted, delete_connection_request
from itwin_export_async._protocol.runs import (
    Service,
    get_connection_request,
    get_run_request,
    parse_connection,
    parse_run,
)
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.handle import RunContext, RunHandle

C = TypeVar("C", bound=Connection)


class ServiceClient(Generic[C]):
    """Connections and runs of one service."""

    _service: Service
    _connection_type: type[C]
    _context: RunContext
    _consent: Consent

    async def get_connection(self, connection_id: str) -> C:
        """Read a connection. Raises `NotFound`.

        https://developer.bentley.com/apis/export/operations/get-export-connection/
        https://developer.bentley.com/apis/synchronization/operations/get-storage-connection/
        """
        request = get_connection_request(self._service, connection_id)
        response = await self._context.session.send(request)
        connection = parse_connection(response, self._connection_type)
        self._context.session.remember_imodel(connection_id, connection.imodel_id)
        return connection

    async def delete_connection(self, connection_id: str) -> None:
        """Delete a connection. Raises `NotFound`, and `Conflict` while a run of it is active.

        https://developer.bentley.com/apis/export/operations/delete-export-connection/
        https://developer.bentley.com/apis/synchronization/operations/delete-storage-connection/
        """
        request = delete_connection_request(self._service, connection_id)
        check_deleted(await self._context.session.send(request))

    async def get_run(self, connection_id: str, run_id: str) -> Run:
        """Read a run once: a snapshot. Raises `NotFound`.

        https://developer.bentley.com/apis/export/operations/get-export-connection-run/
        https://developer.bentley.com/apis/synchronization/operations/get-storage-connection-run/
        """
        request = get_run_request(self._service, connection_id, run_id)
        return parse_run(await self._context.session.send(request), connection_id)

    def list_runs(self, connection_id: str, *, page_size: int | None = None) -> AsyncPager[Run]:
        """List the runs of a connection, in no particular order.

        `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/export/operations/get-export-connection-runs/
        https://developer.bentley.com/apis/synchronization/operations/get-storage-connection-runs/
        """
        return list_runs(self._context.session, self._service, connection_id, page_size)

    def attach(self, connection_id: str, run_id: str) -> RunHandle:
        """Return a handle of a run by its ids, without a request."""
        return self._context.attach(self._service, connection_id, run_id)

    async def get_authorization(self, redirect_url: str) -> AuthorizationInformation:
        """Read whether the user has consented to background work, and the page where they can.

        `redirect_url`: an absolute URL, where that page sends the user afterwards. Consent lives 30
        days.

        https://developer.bentley.com/apis/export/operations/get-authorizationinformation/
        https://developer.bentley.com/apis/synchronization/operations/get-authorization-information/
        """
        return await self._consent.fetch(self._service, redirect_url)
