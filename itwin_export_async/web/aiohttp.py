"""Exports as routes of an aiohttp application. See `ExportRoutes`."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from itwin_export_async.web._problems import http_error
from itwin_export_async.web._service import ExportService

OwnerOf = Callable[[web.Request], "str | Awaitable[str]"]
"""Called with the request; returns who owns the export, or raises an `HTTPException`."""


class ExportRoutes:
    """The export endpoints of an aiohttp application.

        exports = ExportRoutes(secret=SECRET, owner=current_user, may_export=may_export)
        exports.setup(app, prefix="/api/v1")

    `owner(request)`: the visitor, sync or async. The other arguments are those of `ExportService`.
    """

    def __init__(self, *, owner: OwnerOf, **options: Any) -> None:
        self.service = ExportService(**options)
        self._owner = owner

    def setup(self, app: web.Application, prefix: str = "") -> None:
        """Add the routes below `prefix`, and open the client while the application runs."""
        base = f"{prefix.rstrip('/')}/exports"
        app.add_routes(
            [
                web.post(base, self._start),
                web.get(f"{base}/health", self._health),
                web.get(f"{base}/{{id}}", self._status),
                web.get(f"{base}/{{id}}/events", self._events),
                web.get(f"{base}/{{id}}/file", self._file),  # HEAD too
            ]
        )
        app.cleanup_ctx.append(self._lifespan)
        app.on_shutdown.append(self._on_shutdown)

    async def _lifespan(self, _: web.Application) -> AsyncIterator[None]:
        async with self.service.lifespan():
            yield

    async def _on_shutdown(self, _: web.Application) -> None:
        self.service.stop()

    async def _start(self, request: web.Request) -> web.Response:
        owner = await self._owner_of(request)
        try:
            body = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            return _problem(http_error(ValueError("the body is not JSON")))
        try:
            started = await self.service.start(owner, body)
        except _ANSWERED as error:
            return _problem(http_error(error))
        url = f"{request.path.rstrip('/')}/{started.id}"
        return web.json_response(
            started_body(started.id, url, joined=started.joined),
            status=202,
            headers={"Location": url},
        )

    async def _status(self, request: web.Request) -> web.Response:
        owner = await self._owner_of(request)
        try:
            return web.json_response(await self.service.describe(owner, request.match_info["id"]))
        except _ANSWERED as error:
            return _problem(http_error(error))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        owner = await self._owner_of(request)
        last_event_id = request.headers.get("Last-Event-ID")
        try:
            events = self.service.events(
                owner, request.match_info["id"], last_event_id=last_event_id
            )
        except _ANSWERED as error:
            return _problem(http_error(error))
        response = web.StreamResponse(headers=EVENT_HEADERS)
        try:
            await response.prepare(request)
            async for event in events:
                await response.write(event)
        except ConnectionError:
            pass  # the visitor has left
        finally:
            await events.aclose()
        return response

    async def _file(self, request: web.Request) -> web.StreamResponse:
        owner = await self._owner_of(request)
        opening = self.service.open_file(
            owner,
            request.match_info["id"],
            range_header=request.headers.get("Range"),
            if_range=request.headers.get("If-Range"),
        )
        try:
            file = await opening.__aenter__()
        except _ANSWERED as error:
            return _problem(http_error(error))
        try:
            response = web.StreamResponse(status=file.answer.status, headers=file.answer.headers)
            await response.prepare(request)
            if request.method != "HEAD":
                with suppress(ConnectionError):  # the visitor has left
                    async for chunk in file.chunks:
                        await response.write(chunk)
            return response
        finally:
            await opening.__aexit__(None, None, None)

    async def _health(self, _: web.Request) -> web.Response:
        body, status = health_body(self.service)
        return web.json_response(body, status=status)
