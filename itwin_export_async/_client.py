"""The client: what people write against."""

from collections.abc import AsyncGenerator
from functools import partial
from os import PathLike, environ
from typing import Any, Self

import aiohttp

from itwin_export_async._batch.batch import Requests, export_many
from itwin_export_async._batch.pipeline import Export, Terms, parse_authentication_type
from itwin_export_async._files.outputs import Outputs
from itwin_export_async._files.storage import StorageClient
from itwin_export_async._http.credentials import Auth, auth_from_env, normalize_auth
from itwin_export_async._http.limiter import RateLimitLike
from itwin_export_async._http.pager import AsyncPager, list_runs
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._http.session import Session
from itwin_export_async._http.transport import Transport
from itwin_export_async._models import (
    AuthenticationType,
    AuthorizationInformation,
    Connection,
    ExportOptions,
    ExportOutcome,
    ExportRequest,
    Run,
    RunOrigin,
)
from itwin_export_async._polling.poller import RunPoller
from itwin_export_async._polling.schedule import PollSchedule, checked_schedule
from itwin_export_async._protocol import connections, runs
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.connections import find_or_create, list_connections
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.deadline import DEFAULT_TIMEOUT
from itwin_export_async._runs.handle import OnUpdate, RunContext, RunHandle
from itwin_export_async._runs.resume_token import read_token
from itwin_export_async._runs.starter import IfActive, start_export
from itwin_export_async._synchronization import SynchronizationClient

REDIRECT_URL = "https://developer.bentley.com/"


class ExportClient:
    """The iTwin Export API. Open it with `async with`, in the event loop that uses it.

    `auth`: a token, an object with `async get_token()`, or a callable that gives either; or
    `session`, an open `Session` that is used instead and stays open. `base_url`: where the API is,
    Bentley's by default. `rate_limit`: how many calls the subscription allows, by default
    `RateLimit.STANDARD`, or a `RedisRateLimit`. `retry`: how often requests are repeated.
    `schedule`: when runs are looked at. `request_timeout`: seconds for one request, 30 by default.
    `max_outage`: seconds for which looks at a run may fail before its `wait` gives up.
    `redirect_url`: where the page on which a user agrees to exports sends them afterwards. `http`:
    your own `aiohttp.ClientSession`, which stays open. `transport`: what carries the requests
    instead of aiohttp, such as an emulator.
    """

    def __init__(
        self,
        auth: Auth | None = None,
        *,
        session: Session | None = None,
        base_url: str | None = None,
        rate_limit: RateLimitLike | None = None,
        retry: RetryPolicy | None = None,
        schedule: PollSchedule | None = None,
        request_timeout: float | None = None,
        max_outage: float = 900.0,
        redirect_url: str = REDIRECT_URL,
        http: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
    ) -> None:
        auth = None if auth is None else normalize_auth(auth)  # no plain token in this frame
        own = {
            "base_url": base_url,
            "rate_limit": rate_limit,
            "retry": retry,
            "request_timeout": request_timeout,
            "http": http,
            "transport": transport,
        }
        given: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
        if session is None:
            if auth is None:
                raise TypeError("ExportClient needs auth (a token, credentials) or a session")
            self._session = Session(auth, **given)
        elif auth is not None or given:
            names = ", ".join([*(["auth"] if auth is not None else []), *given])
            raise TypeError(f"session and {names} exclude each other")
        else:
            self._session = session
        if not max_outage >= 0:
            raise ValueError(f"max_outage must be at least 0, not {max_outage}")
        self._owns_session = session is None
        self._following = RunPoller(self._session, checked_schedule(schedule), max_outage)
        self.storage = StorageClient(self._session)
        """iTwin Storage: where the exported files are."""
        outputs = Outputs(self._session, self.storage)
        self._desk = RunContext(session=self._session, following=self._following, outputs=outputs)
        self._consent = Consent(self._session, redirect_url)
        self._terms = partial(Terms, desk=self._desk, consent=self._consent)
        self.synchronization = SynchronizationClient(self._desk, self._consent)
        """The Synchronization API: what brings files into iModels."""

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """A client with what the environment says; `options` are those of the class.

        `ITWIN_ACCESS_TOKEN`, or `ITP_SERVICE_CLIENT_ID` and `ITP_SERVICE_CLIENT_SECRET` (with
        `ITP_ISSUER_URL`), and `ITP_API_URL` for the base address. Raises a `ValueError` that names
        what is missing.
        """
        if url := environ.get("ITP_API_URL", "").strip():
            options.setdefault("base_url", url)
        return cls(auth_from_env(), **options)

    async def __aenter__(self) -> Self:
        if self._owns_session:
            await self._session.__aenter__()
        else:
            self._session.check_open()
        self._following.is_closed = False
        self._consent.forget()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._following.close()
        finally:
            if self._owns_session:
                await self._session.__aexit__()

    @property
    def session(self) -> Session:
        """The session that carries this client's requests."""
        return self._session

    async def create_connection(
        self,
        imodel_id: str,
        *,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
    ) -> Connection:
        """Make an export connection of an iModel.

        `authentication_type`: in whose name its runs work, None leaves it to the service. Sent
        once: without an answer it may have been made; `find_or_create_connection` sees to that.

        https://developer.bentley.com/apis/export/operations/create-export-connection/
        """
        request = connections.create_connection_request(
            imodel_id, display_name, authentication_type
        )
        response = await self._session.send(request)
        return connections.parse_created_connection(response, Connection)

    async def find_or_create_connection(
        self,
        imodel_id: str,
        *,
        display_name: str,
        authentication_type: AuthenticationType | str | None = None,
    ) -> Connection:
        """The iModel's connection of this name (and authentication type, where one is given); it
        is made if there is none: one, however many ask this client, and though answers are lost.
        """
        kind = parse_authentication_type(authentication_type)
        return await find_or_create(self._session, imodel_id, display_name, kind)

    async def get_connection(self, connection_id: str) -> Connection:
        """Read a connection. Raises `NotFound`.

        https://developer.bentley.com/apis/export/operations/get-export-connection/
        """
        request = runs.get_connection_request(Service.EXPORT, connection_id)
        return runs.parse_connection(await self._session.send(request), Connection)

    def list_connections(
        self, imodel_id: str, *, page_size: int | None = None
    ) -> AsyncPager[Connection]:
        """The connections of an iModel. `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/export/operations/get-export-connections/
        """
        return list_connections(self._session, imodel_id, page_size)

    async def delete_connection(self, connection_id: str) -> None:
        """Delete a connection. Raises `Conflict` while a run of it is active.

        https://developer.bentley.com/apis/export/operations/delete-export-connection/
        """
        request = connections.delete_connection_request(Service.EXPORT, connection_id)
        connections.check_deleted(await self._session.send(request))

    async def start_run(
        self,
        connection_id: str,
        options: ExportOptions | None = None,
        *,
        if_active: IfActive = "join",
    ) -> RunHandle:
        """Start an export, and hold its run. `options` None is `ExportOptions()`.

        An iModel has one active run. `if_active` says what to do when there is one already, which
        may be another connection's and have other options: `"join"` holds that run (`origin` is
        `JOINED`), `"wait"` sees it end and starts then, `"raise"` raises `Conflict` with its
        handle. An answer that was lost is found again (`RECOVERED`).

        https://developer.bentley.com/apis/export/operations/create-export-connection-run/
        """
        return await start_export(self._desk, connection_id, options, if_active=if_active)

    async def get_run(self, connection_id: str, run_id: str) -> Run:
        """Look at a run, once. Raises `NotFound`.

        https://developer.bentley.com/apis/export/operations/get-export-connection-run/
        """
        request = runs.get_run_request(Service.EXPORT, connection_id, run_id)
        return runs.parse_run(await self._session.send(request), connection_id)

    def list_runs(self, connection_id: str, *, page_size: int | None = None) -> AsyncPager[Run]:
        """The runs of a connection, in no order. `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/export/operations/get-export-connection-runs/
        """
        return list_runs(self._session, Service.EXPORT, connection_id, page_size)

    def attach(self, connection_id: str, run_id: str) -> RunHandle:
        """A handle of a run that you know by its ids. Asks nothing."""
        return self._desk.attach(Service.EXPORT, connection_id, run_id)

    def resume(self, token: str | RunHandle) -> RunHandle:
        """A handle from `run.resume_token`, or from a handle that was pickled. Asks nothing.

        Where that was of a run just started or joined, a 404 may pass in a `wait`'s first minute.
        Raises a `ValueError` for a text that is no such token.
        """
        if isinstance(token, RunHandle):
            return RunHandle(**token.__getstate__(), desk=self._desk)
        told = read_token(token)
        return RunHandle(
            service=told.service,
            connection_id=told.connection_id,
            run_id=told.run_id,
            deadline=told.deadline,
            fresh=told.fresh,
            origin=RunOrigin.ATTACHED,
            desk=self._desk,
        )

    async def export_imodel(
        self,
        imodel_id: str,
        destination: str | PathLike[str],
        options: ExportOptions | None = None,
        *,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
        if_active: IfActive = "wait",
        timeout: float | None = DEFAULT_TIMEOUT,
        on_update: OnUpdate | None = None,
    ) -> ExportOutcome:
        """Export an iModel and bring the output to disk, as `run.download` does.

        `display_name`: as in `ExportRequest`. `timeout` bounds all of it, in seconds, None not at
        all: `RunTimeout`, or `StartTimeout` before there is a run.
        """
        request = ExportRequest(
            imodel_id=imodel_id, destination=destination, options=options, display_name=display_name
        )
        terms = self._terms(authentication_type=authentication_type, if_active=if_active)
        return await Export(terms=terms, request=request, on_update=on_update).within(timeout)

    def export_many(
        self,
        requests: Requests,
        *,
        concurrency: int = 20,
        ledger: str | PathLike[str] | None = None,
        authentication_type: AuthenticationType | str | None = None,
        if_active: IfActive = "wait",
        timeout: float | None = DEFAULT_TIMEOUT,
        on_update: OnUpdate | None = None,
    ) -> AsyncGenerator[ExportOutcome, None]:
        """The outcomes of many exports, each as soon as it is there; failures among them.

        `requests` may be endless or asynchronous: they are read as needed. `concurrency`: how many
        go on at once, those of one iModel one after another; each has `timeout` seconds. `ledger`:
        a file from which the same call goes on after any end. `on_update` gets a `RunUpdate` with
        its `request`. What `requests` or `on_update` raise, and the `LedgerError` of a ledger that
        cannot be used, comes out here. Leaving early never ends the runs.
        """
        terms = self._terms(authentication_type=authentication_type, if_active=if_active)
        return export_many(terms, requests, concurrency, timeout, ledger, on_update)

    async def get_authorization(self, redirect_url: str) -> AuthorizationInformation:
        """Whether the user has agreed to background work in their name, and where they can.

        `redirect_url`: where that page sends them afterwards, an absolute address.

        https://developer.bentley.com/apis/export/operations/get-authorizationinformation/
        """
        return await self._consent.ask(Service.EXPORT, redirect_url)
