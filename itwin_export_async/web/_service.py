"""What the endpoints do, for any web framework.

A start that takes longer than `start_timeout` continues in the background, and the same request
joins it. Streams end when the server is stopped. All that goes wrong is an `ExportError`, for
`http_error`; other exceptions are bugs.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, TypeAlias

from attrs import frozen

from itwin_export_async import (
    AuthenticationType,
    AuthorizationRequired,
    BlobReader,
    ClientHealth,
    Estimate,
    ExportClient,
    ExportError,
    ExportOptions,
    PermissionDenied,
    RunHandle,
    RunUnreachable,
)
from itwin_export_async.web._body import parse_start
from itwin_export_async.web._describe import describe_run
from itwin_export_async.web._events import event_stream
from itwin_export_async.web._ids import SignedIds
from itwin_export_async.web._problems import InvalidBody, StartPending, UnknownExport
from itwin_export_async.web._ranges import (
    WHOLE,
    FileAnswer,
    file_answer,
    parse_range,
    unsatisfiable,
)
from itwin_export_async.web._signals import on_stop_signal

MayExport: TypeAlias = Callable[[str, str], "bool | Awaitable[bool]"]
"""Called with the owner and the iModel's id, before anything is sent; may be async."""

STATUS_TIMEOUT = 10.0  # seconds for a poll, whose failures are retried meanwhile
ESTIMATE_TIMEOUT = 2.0  # seconds; an estimate is useful, not needed
UNREAD_FOR = 60.0  # seconds for which the result of a start waits for the request that joins it

_Start: TypeAlias = "asyncio.Task[StartedExport]"


def allow_all(owner: str, imodel_id: str) -> bool:
    """Let every owner export every iModel that the service application may export."""
    return True


@frozen(kw_only=True)
class StartedExport:
    """A run for an owner: its `id`, and whether an active run was joined."""

    id: str
    joined: bool

    def body(self, url: str) -> dict[str, Any]:
        """The body of a 202. `url`: the path of this export, where its state is."""
        return {
            "id": self.id,
            "status_url": url,
            "events_url": f"{url}/events",
            "file_url": f"{url}/file",
            "joined": self.joined,
        }


class OpenFile:
    """A file that is open: the head of the answer, and its bytes.

    `chunks` is an async generator that closes the file at its end. A caller that may not read it
    closes the file with `aclose()`.
    """

    def __init__(
        self, answer: FileAnswer, reader: BlobReader | None, stack: AsyncExitStack
    ) -> None:
        self.answer = answer
        self.chunks = self._read(reader)
        self._stack = stack

    async def aclose(self) -> None:
        """Close the file. A second call does nothing."""
        await self.chunks.aclose()
        await self._stack.aclose()

    async def _read(self, reader: BlobReader | None) -> AsyncGenerator[bytes, None]:
        if reader is not None:
            async with self._stack:
                async for chunk in reader:
                    yield chunk


class ExportService:
    """Exports for the visitors of a web application.

    `secret`: signs ids, see `SignedIds`. `may_export(owner, imodel_id)`: whether this owner may
    export that iModel with the service's rights; `allow_all` waives it. `client`: makes the
    `ExportClient`, in the event loop of the server. `display_name`, `authentication_type`: of the
    connections. `start_timeout`: seconds after which a start continues in the background.
    `heartbeat`, `max_age`: see `event_stream`. The service works inside its `lifespan()`.
    """

    def __init__(
        self,
        *,
        secret: str | bytes | Iterable[str | bytes],
        may_export: MayExport,
        client: Callable[[], ExportClient] = ExportClient.from_env,
        display_name: str = "itwin-export",
        authentication_type: AuthenticationType | str | None = None,
        start_timeout: float = 10.0,
        heartbeat: float = 15.0,
        max_age: float | None = None,
    ) -> None:
        if not callable(may_export):
            raise TypeError("may_export must be callable: may_export(owner, imodel_id) -> bool")
        self._ids = SignedIds(secret)
        self._may_export = may_export
        self._make_client = client
        self._display_name = display_name
        self._authentication_type = authentication_type
        self._start_timeout = start_timeout
        self._heartbeat = heartbeat
        self._max_age = max_age
        self._client: ExportClient | None = None
        self._stopping = asyncio.Event()
        self._starts: dict[object, _Start] = {}
        self._estimating = asyncio.Lock()

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Keep a client open while the server runs, and end the streams when it is stopped.

        Inside another lifespan of the service this one does nothing. `app` is not used.
        """
        if self._client is not None:
            yield
            return
        self._stopping, self._estimating = asyncio.Event(), asyncio.Lock()
        async with self._make_client() as self._client:
            try:
                with on_stop_signal(self.stop):
                    yield
            finally:
                self.stop()
                self._client = None
                await self._cancel_starts()

    def stop(self) -> None:
        """End all event streams, and what waits for a start or for a state."""
        self._stopping.set()

    def health(self) -> ClientHealth:
        """The state of the client, for `describe_health`."""
        return self._open_client.health()

    async def start(self, owner: str, body: Any) -> StartedExport:
        """Start an export for an owner. `body`: `{imodel_id, options?}`, as bytes or parsed JSON.

        Raises `InvalidBody` for a wrong field, `PermissionDenied` where `may_export` returns False,
        and `StartPending` while the start continues in the background.
        """
        imodel_id, options = parse_start(body)
        allowed = self._may_export(owner, imodel_id)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if not allowed:
            raise PermissionDenied(status=403, message=f"no right to export iModel {imodel_id}")
        key = (owner, imodel_id, options)
        task = self._starts.get(key)
        if task is None:
            task = self._starts[key] = asyncio.create_task(self._start(owner, imodel_id, options))
            task.add_done_callback(lambda done: self._on_started(key, done))
        if not await self._is_done(task, self._start_timeout):
            raise StartPending
        self._forget(key, task)
        return task.result()

    def run(self, owner: str, id: str) -> RunHandle:
        """The handle of an owner's run. Raises `UnknownExport` for any other id."""
        resume_token = self._ids.verify(id, owner)
        try:
            return self._open_client.resume(resume_token)
        except ValueError as exc:  # of another release
            raise UnknownExport from exc

    async def describe(self, owner: str, id: str) -> dict[str, Any]:
        """The state of a run, as `describe_run`. It shares the polls of the run's streams."""
        handle = self.run(owner, id)
        async with aclosing(handle.updates()) as updates:
            first = asyncio.ensure_future(anext(updates))
            try:
                if not await self._is_done(first, STATUS_TIMEOUT):
                    raise RunUnreachable(
                        message="could not be polled in time",
                        connection_id=handle.connection_id,
                        run_id=handle.run_id,
                    )
            finally:
                if first.cancel():
                    await asyncio.wait([first])
            run = first.result().run
            return describe_run(run, None if run.is_final else await self._estimate(handle))

    def events(
        self, owner: str, id: str, *, last_event_id: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The server-sent events of a run; `EVENT_HEADERS` are the headers for them."""
        return event_stream(
            self.run(owner, id),
            heartbeat=self._heartbeat,
            max_age=self._max_age,
            last_event_id=last_event_id,
            stop=self._stopping,
        )

    async def open_file(
        self,
        owner: str,
        id: str,
        *,
        range_header: str | None = None,
        if_range: str | None = None,
        is_head: bool = False,
    ) -> OpenFile:
        """The file of a finished run, straight from the blob store. Raises `DownloadError`.

        `is_head`: for a HEAD request, which has no range and no bytes.
        """
        output = (await self.run(owner, id).outputs())[0]
        wanted = WHOLE if is_head else parse_range(range_header, output.size)
        if_range = None if wanted is WHOLE else if_range
        stack = AsyncExitStack()
        if wanted.is_empty and if_range is None:
            return OpenFile(unsatisfiable(output.size), None, stack)
        part = WHOLE if wanted.is_empty else wanted
        opening = output.open(start=part.start, stop=part.stop, if_range=if_range)
        reader = await stack.enter_async_context(opening)
        fits = if_range in (None, reader.etag)
        if is_head or (wanted.is_empty and fits):
            await stack.aclose()
        if wanted.is_empty and fits:
            return OpenFile(unsatisfiable(output.size), None, stack)
        answer = file_answer(
            name=output.name,
            size=reader.size,
            etag=reader.etag,
            start=reader.start,
            stop=reader.stop,
            is_range=wanted is not WHOLE and fits,
        )
        return OpenFile(answer, None if is_head else reader, stack)

    @property
    def _open_client(self) -> ExportClient:
        if self._client is None:
            raise RuntimeError("the exports have no client: add their lifespan to the application")
        return self._client

    async def _start(self, owner: str, imodel_id: str, options: ExportOptions) -> StartedExport:
        client = self._open_client
        try:
            connection = await client.find_or_create_connection(
                imodel_id,
                display_name=self._display_name,
                authentication_type=self._authentication_type,
            )
        except ValueError as exc:
            raise InvalidBody(str(exc)) from exc
        if connection.authentication_type == AuthenticationType.USER:
            consent = await client.get_authorization("https://developer.bentley.com/")
            if not consent.is_user_authorized:
                raise AuthorizationRequired(url=consent.authorization_url)
        run = await client.start_run(connection.id, options, if_active="join")
        return StartedExport(id=self._ids.sign(run.resume_token, owner), joined=run.joined)

    def _on_started(self, key: object, task: _Start) -> None:
        """Forget a start that failed at once, another one when no request has joined it."""
        if task.cancelled() or task.exception() is not None:
            self._forget(key, task)
        else:
            asyncio.get_running_loop().call_later(UNREAD_FOR, self._forget, key, task)

    def _forget(self, key: object, task: _Start) -> None:
        if self._starts.get(key) is task:
            del self._starts[key]

    async def _cancel_starts(self) -> None:
        tasks = [task for task in self._starts.values() if task.cancel()]
        self._starts.clear()
        if tasks:
            await asyncio.wait(tasks)

    async def _is_done(self, task: "asyncio.Future[Any]", seconds: float) -> bool:
        """Whether it is done in time, and before the server is stopped."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait(
                (task, stopped), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopped.cancel()
        return task.done()

    async def _estimate(self, handle: RunHandle) -> Estimate | None:
        """The estimate, if it is known soon. The earlier runs are loaded once for all visitors."""
        try:
            async with asyncio.timeout(ESTIMATE_TIMEOUT), self._estimating:
                return await handle.estimate()
        except (ExportError, TimeoutError):
            return None
