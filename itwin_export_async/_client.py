"""`ExportClient`: what users program against."""

import asyncio
from collections.abc import AsyncIterable, Collection, Iterable
from contextlib import suppress
from functools import cached_property
from os import PathLike, environ, fspath
from typing import TYPE_CHECKING, Self
from weakref import WeakValueDictionary

import aiohttp

from itwin_export_async._batch.outcomes import ExportOutcomes, ItwinVersion, OnStart
from itwin_export_async._errors import PermissionDenied
from itwin_export_async._files.download import Downloader, Progress
from itwin_export_async._files.outputs import Outputs
from itwin_export_async._files.storage import StorageClient
from itwin_export_async._http.credentials import Auth, auth_from_env, normalize_auth
from itwin_export_async._http.limiter import RateLimitLike
from itwin_export_async._http.pager import AsyncPager
from itwin_export_async._http.rate_limit import RateLimit
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._http.session import BASE_URL, Session
from itwin_export_async._http.transport import Transport
from itwin_export_async._models import (
    AccessReport,
    AuthenticationType,
    ClientHealth,
    Connection,
    ExportOptions,
    ExportOutcome,
    ExportRequest,
)
from itwin_export_async._models.validators import parse_authentication_type
from itwin_export_async._polling.poller import RunPoller
from itwin_export_async._polling.schedule import PollSchedule, validate_schedule
from itwin_export_async._protocol.connections import (
    create_connection_request,
    parse_created_connection,
)
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.connections import find_or_create_connection, list_connections
from itwin_export_async._runs.consent import Consent
from itwin_export_async._runs.deadline import DEFAULT_TIMEOUT
from itwin_export_async._runs.handle import OnUpdate, RunContext, RunHandle
from itwin_export_async._runs.run_store import OnceStarter, RunStore
from itwin_export_async._runs.service_client import ServiceClient
from itwin_export_async._runs.starter import (
    JOIN_BY_DEFAULT,
    IfActive,
    export_starter,
    validate_if_active,
)
from itwin_export_async.webhooks import WebhookEvent

if TYPE_CHECKING:  # loaded at their first use: an import of the client stays cheap
    from itwin_export_async._batch.context import BatchContext
    from itwin_export_async._imodels import IModelsClient
    from itwin_export_async._synchronization import SynchronizationClient

REDIRECT_URL = "https://developer.bentley.com/"


class ExportClient(ServiceClient[Connection]):
    """A client of the iTwin Export API.

    Open it with `async with`, or with `await client.open()` and `await client.aclose()`, in the
    event loop that uses it. Used while closed, or from another loop, it raises a `RuntimeError`.

    `auth`: a token, an object with `async get_token()`, or a callable that returns either.
    `session`: an open `Session` to use instead; it stays open. `base_url`: the API's address.
    `rate_limit`: calls that the subscription allows; `RedisRateLimit` shares them between
    processes. `retry`: how requests are retried. `schedule`: when runs are polled, None for
    `AdaptiveSchedule()`. `request_timeout`: seconds for one request. `max_outage`: seconds without
    an answer after which `wait`, and a step of an export, give up. `redirect_url`: where the
    consent page sends the user. `http`: your own `aiohttp.ClientSession`; it stays open.
    `transport`: what carries requests instead of aiohttp, such as an emulator.
    """

    _service = Service.EXPORT
    _connection_type = Connection

    def __init__(
        self,
        auth: Auth | None = None,
        *,
        session: Session | None = None,
        base_url: str = BASE_URL,
        rate_limit: RateLimitLike = RateLimit.STANDARD,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        schedule: PollSchedule | None = None,
        request_timeout: float = 30.0,
        max_outage: float = 900.0,
        redirect_url: str = REDIRECT_URL,
        http: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
    ) -> None:
        if auth is not None:
            auth = normalize_auth(auth)  # first: frames with locals must not show a plain token
        if not max_outage >= 0:
            raise ValueError(f"max_outage must be at least 0 seconds, not {max_outage}")
        own = {
            "auth": auth is not None,
            "base_url": base_url != BASE_URL,
            "rate_limit": rate_limit is not RateLimit.STANDARD,
            "retry": retry != RetryPolicy(),
            "request_timeout": request_timeout != 30.0,
            "http": http is not None,
            "transport": transport is not None,
        }
        if session is None and auth is None:
            raise TypeError("ExportClient needs auth (a token, credentials) or a session")
        if session is not None and any(own.values()):
            names = ", ".join(name for name, is_given in own.items() if is_given)
            raise TypeError(f"session and {names} exclude each other")
        self._owns_session = session is None
        self._session = session or Session(
            auth,  # type: ignore[arg-type] # checked above
            base_url=base_url,
            rate_limit=rate_limit,
            retry=retry,
            request_timeout=request_timeout,
            http=http,
            transport=transport,
        )
        self._max_outage = max_outage
        self._poller = RunPoller(self._session, validate_schedule(schedule), max_outage)
        self._downloader = Downloader(self._session)
        self.storage = StorageClient(self._session, self._downloader)
        """iTwin Storage, which holds the exported files."""
        outputs = Outputs(self._session, self._downloader)
        self._start_locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = (
            WeakValueDictionary()
        )
        self._context = RunContext(session=self._session, poller=self._poller, outputs=outputs)
        self._consent = Consent(self._session, redirect_url)

    @classmethod
    def from_env(
        cls,
        *,
        base_url: str | None = None,
        rate_limit: RateLimitLike = RateLimit.STANDARD,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        schedule: PollSchedule | None = None,
        request_timeout: float = 30.0,
        max_outage: float = 900.0,
        redirect_url: str = REDIRECT_URL,
        http: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
    ) -> Self:
        """Return a client with the credentials of the environment.

        `ITWIN_ACCESS_TOKEN`, or `ITP_SERVICE_CLIENT_ID` and `ITP_SERVICE_CLIENT_SECRET` (with
        `ITP_ISSUER_URL`); `ITP_API_URL` is the default of `base_url`. The options are those of the
        class. Raises a `ValueError` that names what is missing.
        """
        if base_url is None:
            base_url = environ.get("ITP_API_URL", "").strip() or BASE_URL
        return cls(
            auth_from_env(),
            base_url=base_url,
            rate_limit=rate_limit,
            retry=retry,
            schedule=schedule,
            request_timeout=request_timeout,
            max_outage=max_outage,
            redirect_url=redirect_url,
            http=http,
            transport=transport,
        )

    def __repr__(self) -> str:
        session = getattr(self, "_session", None)  # a traceback may show it half-built
        return f"<ExportClient of {getattr(session, 'base_url', None)}>"

    async def open(self) -> Self:
        """Open the client, as `async with` does, and return it."""
        if self._owns_session:
            await self._session.open()
        else:
            self._session.check_open()
        self._poller.is_closed = False
        self._consent.reset()
        return self

    async def aclose(self) -> None:
        """Close the client, as the end of `async with` does. Runs continue at the service."""
        try:
            await self._poller.close()
        finally:
            self._downloader.close()
            if self._owns_session:
                await self._session.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def session(self) -> Session:
        """The session that sends this client's requests."""
        return self._session

    @cached_property
    def imodels(self) -> "IModelsClient":
        """iModels and their versions, read only."""
        from itwin_export_async import IModelsClient

        return IModelsClient(self._session)

    @cached_property
    def synchronization(self) -> "SynchronizationClient":
        """The Synchronization API, which brings files into iModels."""
        from itwin_export_async import SynchronizationClient

        return SynchronizationClient(self._context, self._consent)

    def notify(self, event: WebhookEvent) -> None:
        """Poll the runs that a webhook event is about, now. An event is a hint, so they are read.

        Runs without a `wait` or `updates` are not polled. A `Retry-After` is respected.
        """
        if not isinstance(event, WebhookEvent):
            raise TypeError(f"event must be a WebhookEvent, not {type(event).__name__}")
        connection_id, run_id = (event.content.get(name) for name in ("connectionId", "runId"))
        if connection_id is not None or run_id is not None:
            self._poller.poll_now(connection_id=connection_id, run_id=run_id)

    def health(self) -> ClientHealth:
        """Return the state of the client, without a request."""
        session = self._session
        outages = filter(None, (session.outage_since, self._poller.outage_since))
        return ClientHealth(
            is_open=session.is_open,
            token_expires_at=session.token_expires_at,
            last_response_at=session.last_response_at,
            outage_since=min(outages, default=None),
            remaining_calls=session.remaining_calls,
            runs_polled=self._poller.runs_polled,
        )

    async def create_connection(
        self,
        imodel_id: str,
        *,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
    ) -> Connection:
        """Create an export connection of an iModel.

        `authentication_type`: the identity its runs use, None leaves it to the service. Sent once:
        after an error whose `may_have_been_processed` is True the connection may exist;
        `find_or_create_connection` handles that.

        https://developer.bentley.com/apis/export/operations/create-export-connection/
        """
        request = create_connection_request(imodel_id, display_name, authentication_type)
        connection = parse_created_connection(await self._session.send(request), Connection)
        self._session.remember_new_connection(connection.id)
        self._session.remember_imodel(connection.id, imodel_id)
        return connection

    async def find_or_create_connection(
        self,
        imodel_id: str,
        *,
        display_name: str,
        authentication_type: AuthenticationType | str | None = None,
    ) -> Connection:
        """Return the iModel's connection with this name; create it if there is none.

        `authentication_type`: the connection must also have this type, None for any. Names are
        compared without outer blanks and in Unicode's composed form. Of several connections the
        first of the service's list is returned. After an uncertain creation the list is read
        again, 4 times over about 10 s, before another one is created.
        """
        kind = parse_authentication_type(authentication_type)
        connection = await find_or_create_connection(self._session, imodel_id, display_name, kind)
        self._session.remember_imodel(connection.id, imodel_id)
        return connection

    def list_connections(
        self, imodel_id: str, *, page_size: int | None = None
    ) -> AsyncPager[Connection]:
        """List the connections of an iModel. `page_size` None leaves it to the service.

        https://developer.bentley.com/apis/export/operations/get-export-connections/
        """
        return list_connections(self._session, imodel_id, page_size)

    async def start_run(
        self,
        connection_id: str,
        options: ExportOptions | None = None,
        *,
        if_active: IfActive = JOIN_BY_DEFAULT,
        timeout: float | None = None,
    ) -> RunHandle:
        """Start an export and return the handle of its run. `options` None is `ExportOptions()`.

        An iModel has one active run. `if_active`: what to do if one is active, which may belong to
        another connection and have other options. `"join"` returns its handle (`origin` is
        `JOINED`), `"wait"` follows it to its end and starts then, `"raise"` raises `Conflict` with
        its handle. A run whose start got no answer is recovered (`RECOVERED`). `timeout`: seconds
        for all of it, None for no limit; then `StartTimeout`.

        https://developer.bentley.com/apis/export/operations/create-export-connection-run/
        """
        starter = export_starter(self._context, connection_id, options, if_active=if_active)
        return await starter.start(timeout)

    async def start_once(
        self,
        key: str,
        connection_id: str,
        options: ExportOptions | None = None,
        *,
        store: RunStore,
        if_active: IfActive = JOIN_BY_DEFAULT,
    ) -> RunHandle:
        """Start an export once for `key`, and return the handle of its run.

        Called again with the key, in any process and after a crash at any moment, it returns the
        same run. `store` keeps a note of the start, which is written before each request. A call
        waits for an earlier one of this client with the same store object and key, whose
        `if_active` may be `"wait"`. The other arguments as for `start_run`.
        """
        if not isinstance(key, str) or not key:
            raise ValueError(f"key must be a text that is not empty, not {key!r}")
        starter = OnceStarter(
            context=self._context,
            store=store,
            key=key,
            connection_id=connection_id,
            options=ExportOptions() if options is None else options,
            if_active=validate_if_active(if_active),
        )
        async with self._start_locks.setdefault((id(store), key), asyncio.Lock()):
            return await starter.start()

    def resume(self, resume_token: str | RunHandle) -> RunHandle:
        """Return a handle from `run.resume_token` or an unpickled handle, without a request.

        A 404 of a run that was just started or joined passes in a `wait`'s first minute. Raises a
        `ValueError` for a text that is no resume token.
        """
        return self._context.resume(resume_token)

    async def check_access(self, imodel_id: str) -> AccessReport:
        """Read the caller's permissions in an iModel and its iTwin, and the user's consent.

        `report.missing` names what an export would lack; `report.ok`: nothing. Starts nothing.
        """
        permissions = await self.imodels.get_permissions(imodel_id)
        itwin_id, in_itwin = None, frozenset[str]()
        with suppress(PermissionDenied):  # then the caller may not know the iTwin either
            itwin_id = (await self.imodels.get(imodel_id)).itwin_id
        if itwin_id is not None:
            in_itwin = await self.imodels.get_itwin_permissions(itwin_id)
        consent = await self._consent.fetch(Service.EXPORT, self._consent.redirect_url)
        return AccessReport(
            imodel_id=imodel_id,
            itwin_id=itwin_id,
            imodel_permissions=tuple(sorted(permissions)),
            itwin_permissions=tuple(sorted(in_itwin)),
            is_user_authorized=consent.is_user_authorized,
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
        on_start: OnStart | None = None,
        on_update: OnUpdate | None = None,
        on_progress: Progress | None = None,
    ) -> ExportOutcome:
        """Export an iModel and download the output: connection, run, wait, download.

        `destination`: as for `run.download`. `display_name`: as for `ExportRequest`. `timeout`:
        seconds for all of it, None for no limit; then `RunTimeout`, or `StartTimeout` before there
        is a run. `on_start(run)` gets the handle as soon as there is a run, `on_update` each
        `RunUpdate`, `on_progress(done, total)` the bytes downloaded; all may be async. Raises
        instead of returning an error.
        """
        from itwin_export_async._batch.pipeline import ExportPipeline

        request = ExportRequest(
            imodel_id=imodel_id, destination=destination, options=options, display_name=display_name
        )
        pipeline = ExportPipeline(
            context=self._batch_context(authentication_type, if_active),
            request=request,
            on_start=on_start,
            on_update=on_update,
            on_progress=on_progress,
        )
        return await pipeline.run(timeout)

    def export_many(
        self,
        requests: Iterable[ExportRequest] | AsyncIterable[ExportRequest],
        *,
        concurrency: int = 20,
        ledger: str | PathLike[str] | None = None,
        authentication_type: AuthenticationType | str | None = None,
        if_active: IfActive = "wait",
        timeout: float | None = DEFAULT_TIMEOUT,
        on_start: OnStart | None = None,
        on_update: OnUpdate | None = None,
    ) -> ExportOutcomes:
        """Export many iModels and yield each outcome as it completes; failures are outcomes too.

        `requests`: any iterable or async iterable, even an infinite one; it is consumed lazily.
        `concurrency`: exports at once, one run at a time for each iModel. `ledger`: a SQLite file
        from which the same call continues after any end; one process uses it at a time, and any may
        read it. `timeout`: seconds for each export, None for no limit. `on_start`, `on_update`: as
        for `export_imodel`; `RunUpdate.request` is the request. What `requests` or a callback
        raises, and the `LedgerError` of a ledger that cannot be used, is raised here. The result is
        also an async context manager. Leaving early never ends a run.
        """
        from itwin_export_async._batch.batch import export_many

        return export_many(
            self._batch_context(authentication_type, if_active),
            requests,
            concurrency=concurrency,
            timeout=timeout,
            ledger=ledger,
            on_start=on_start,
            on_update=on_update,
        )

    def export_itwin(
        self,
        itwin_id: str,
        destination: str | PathLike[str],
        *,
        version: ItwinVersion = "latest",
        name: str | None = None,
        search: str | None = None,
        filename: str = "{imodel_name}.ifc",
        options: ExportOptions | None = None,
        display_name: str | None = None,
        expected: int | Collection[str] | None = None,
        concurrency: int = 20,
        ledger: str | PathLike[str] | None = None,
        authentication_type: AuthenticationType | str | None = None,
        if_active: IfActive = "wait",
        timeout: float | None = DEFAULT_TIMEOUT,
        on_start: OnStart | None = None,
        on_update: OnUpdate | None = None,
    ) -> ExportOutcomes:
        """Export every iModel of an iTwin that the caller may see, into the folder `destination`.

        `version`: `"latest"` exports the newest changeset, `"named"` the last visible named version
        by position in the history; an iModel without one is an outcome with `NothingToExport`.
        With a `ledger` only what changed is exported. `name` (exact), `search` (a part): filters of
        the list. `filename`: a template with `{imodel_name}`, `{imodel_id}`, `{version_name}` and
        `{date}`; without the last two a new file replaces that of the earlier revision, also where
        the iModel was renamed. `expected`: how many iModels, or which ids, must be listed at least;
        otherwise a `ValueError` is raised before anything is started. The rest as for
        `export_many`.
        """
        from itwin_export_async._batch.batch import export_many
        from itwin_export_async._batch.itwin import ItwinSource

        source = ItwinSource(
            imodels=self.imodels,
            itwin_id=itwin_id,
            destination=fspath(destination),
            version=version,
            name=name,
            search=search,
            filename=filename,
            options=options,
            display_name=display_name,
            expected=expected,
        )
        return export_many(
            self._batch_context(authentication_type, if_active),
            source,
            concurrency=concurrency,
            timeout=timeout,
            ledger=ledger,
            on_start=on_start,
            on_update=on_update,
        )

    def _batch_context(
        self, authentication_type: AuthenticationType | str | None, if_active: IfActive
    ) -> "BatchContext":
        from itwin_export_async._batch.context import BatchContext
        from itwin_export_async._batch.outage import OutageRetrier

        return BatchContext(
            runs=self._context,
            consent=self._consent,
            outage=OutageRetrier(self._max_outage),
            authentication_type=authentication_type,
            if_active=if_active,
        )
