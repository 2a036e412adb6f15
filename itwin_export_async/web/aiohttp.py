"""Exports as routes of an aiohttp application.

exports = ExportRoutes(secret=SECRET, owner=current_user, may_export=may_export)
exports.setup(app, prefix="/api/v1")
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from inspect import isawaitable
from typing import Any, TypeAlias

from aiohttp import web

from itwin_export_async import AuthenticationType, ExportClient, ExportError
from itwin_export_async.web._body import check_content_type
from itwin_export_async.web._describe import describe_health
from itwin_export_async.web._events import EVENT_HEADERS
from itwin_export_async.web._page import PAGE_HEADERS, example_page
from itwin_export_async.web._problems import http_error
from itwin_export_async.web._service import ExportService, MayExport

OwnerOf: TypeAlias = "Callable[[web.Request], str | Awaitable[str]]"
"""Called with the request; returns the owner, or raises an `HTTPException`. May be async."""

NO_STORE = {"Cache-Control": "no-store"}
CHECK_INTERVAL = 1.0  # seconds between two checks for closed connections


class ExportRoutes:
    """The export endpoints of an aiohttp application.

    `owner(request)`: the owner of what this request starts or reads. `page`: whether
    `/exports/page` is the example page. The other arguments are those of `ExportService`.
    """

    def __init__(
        self,
        *,
        secret: str | bytes | Iterable[str | bytes],
        owner: OwnerOf,
        may_export: MayExport,
        client: Callable[[], ExportClient] = ExportClient.from_env,
        display_name: str = "itwin-export",
        authentication_type: AuthenticationType | str | None = None,
        start_timeout: float = 10.0,
        heartbeat: float = 15.0,
        max_age: float | None = None,
        page: bool = False,
    ) -> None:
        self.service = ExportService(
            secret=secret,
            may_export=may_export,
            client=client,
            display_name=display_name,
            authentication_type=authentication_type,
            start_timeout=start_timeout,
            heartbeat=heartbeat,
            max_age=max_age,
        )
        self._owner = owner
        self._has_page = page
        self._streams: dict[asyncio.Task[Any], web.Request] = {}

    def setup(self, app: web.Application, prefix: str = "") -> None:
        """Add the routes below `prefix`, and keep a client open while the application runs."""
        base = f"{prefix.rstrip('/')}/exports"
        app.router.add_post(base, self._start)
        app.router.add_get(f"{base}/health", self._health)
        if self._has_page:
            app.router.add_get(f"{base}/page", self._page)
        app.router.add_get(f"{base}/{{id}}", self._status)
        app.router.add_get(f"{base}/{{id}}/events", self._events, allow_head=False)
        app.router.add_get(f"{base}/{{id}}/file", self._file)  # and HEAD
        app.cleanup_ctx.append(self._lifespan)
        app.on_shutdown.append(self._on_shutdown)

    async def _lifespan(self, _: web.Application) -> AsyncIterator[None]:
        async with self.service.lifespan():
            watcher = asyncio.create_task(self._end_closed_streams())
            try:
                yield
            finally:
                watcher.cancel()

    async def _on_shutdown(self, _: web.Application) -> None:
        self.service.stop()  # before the server waits for open streams

    async def _owner_of(self, request: web.Request) -> str:
        owner = self._owner(request)
        return await owner if isawaitable(owner) else owner

    async def _start(self, request: web.Request) -> web.Response:
        owner = await self._owner_of(request)
        try:
            check_content_type(request.headers.get("Content-Type", ""))
            started = await self.service.start(owner, await request.read())
        except ExportError as error:
            return _problem(error)
        # one slash in front, or it would be the address of a host
        url = f"/{request.rel_url.raw_path.strip('/')}/{started.id}"
        return web.json_response(started.body(url), status=202, headers={"Location": url})

    async def _status(self, request: web.Request) -> web.Response:
        owner = await self._owner_of(request)
        try:
            body = await self.service.describe(owner, request.match_info["id"])
        except ExportError as error:
            return _problem(error)
        return web.json_response(body, headers=NO_STORE)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        owner = await self._owner_of(request)
        try:
            events = self.service.events(
                owner,
                request.match_info["id"],
                last_event_id=request.headers.get("Last-Event-ID"),
            )
        except ExportError as error:
            return _problem(error)
        task = asyncio.current_task()
        assert task is not None
        self._streams[task] = request
        response = web.StreamResponse(headers=EVENT_HEADERS)
        try:
            with suppress(ConnectionError):  # the visitor has left
                await response.prepare(request)
                async for event in events:
                    await response.write(event)
        finally:
            del self._streams[task]
            await events.aclose()
        return response

    async def _end_closed_streams(self) -> None:
        """Cancel the handlers of closed connections: aiohttp does so only if configured."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            for task, request in self._streams.items():
                if request.transport is None:
                    task.cancel()

    async def _file(self, request: web.Request) -> web.StreamResponse:
        owner = await self._owner_of(request)
        try:
            file = await self.service.open_file(
                owner,
                request.match_info["id"],
                range_header=request.headers.get("Range"),
                if_range=request.headers.get("If-Range"),
                is_head=request.method == "HEAD",
            )
        except ExportError as error:
            return _problem(error)
        async with aclosing(file):
            response = web.StreamResponse(status=file.answer.status, headers=file.answer.headers)
            with suppress(ConnectionError):  # the visitor has left
                await response.prepare(request)
                async for chunk in file.chunks:
                    await response.write(chunk)
            return response

    async def _health(self, _: web.Request) -> web.Response:
        body = describe_health(self.service.health())
        return web.json_response(body, status=200 if body["ok"] else 503, headers=NO_STORE)

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=example_page(), headers=PAGE_HEADERS)


def _problem(error: ExportError) -> web.Response:
    answer = http_error(error)
    return web.Response(status=answer.status, headers=answer.headers, body=json.dumps(answer.body))
