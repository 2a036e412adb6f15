"""Exports as routes of an aiohttp application.

exports = ExportRoutes(secret=SECRET, owner=current_user, may_export=may_export)
exports.setup(app, prefix="/api/v1")
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from inspect import isawaitable
from typing import TypeAlias

from aiohttp import web

from itwin_export_async import AuthenticationType, ExportClient
from itwin_export_async.web._answers import ANSWERED, EVENT_HEADERS, health_body, started_body
from itwin_export_async.web._problems import http_error
from itwin_export_async.web._service import ExportService, MayExport

OwnerOf: TypeAlias = "Callable[[web.Request], str | Awaitable[str]]"
"""Called with the request; returns the owner, or raises an `HTTPException`. May be async."""


class ExportRoutes:
    """The export endpoints of an aiohttp application.

    `owner(request)`: who owns what this request starts or reads. The other arguments are those of
    `ExportService`.
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

    def setup(self, app: web.Application, prefix: str = "") -> None:
        """Add the routes below `prefix`, and keep a client open while the application runs."""
        base = f"{prefix.rstrip('/')}/exports"
        app.add_routes(
            [
                web.post(base, self._start),
                web.get(f"{base}/health", self._health),
                web.get(f"{base}/{{id}}", self._status),
                web.get(f"{base}/{{id}}/events", self._events),
                web.get(f"{base}/{{id}}/file", self._file),  # and HEAD
            ]
        )
        app.cleanup_ctx.append(self._lifespan)
        app.on_shutdown.append(self._on_shutdown)

    async def _lifespan(self, _: web.Application) -> AsyncIterator[None]:
        async with self.service.lifespan():
            yield

    async def _on_shutdown(self, _: web.Application) -> None:
        self.service.stop()  # before the server waits for open streams

    async def _owner_of(self, request: web.Request) -> str:
        owner = self._owner(request)
        return await owner if isawaitable(owner) else owner

    async def _start(self, request: web.Request) -> web.Response:
        owner = await self._owner_of(request)
        try:
            started = await self.service.start(owner, await _json(request))
        except ANSWERED as error:
            return _problem(error)
        url = f"{request.path.rstrip('/')}/{started.id}"
        body = started_body(started, url)
        return web.json_response(body, status=202, headers={"Location": url})

    async def _status(self, request: web.Request) -> web.Response:
        owner = await self._owner_of(request)
        try:
            body = await self.service.describe(owner, request.match_info["id"])
        except ANSWERED as error:
            return _problem(error)
        return web.json_response(body, headers={"Cache-Control": "no-store"})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        owner = await self._owner_of(request)
        last_event_id = request.headers.get("Last-Event-ID")
        try:
            events = self.service.events(
                owner, request.match_info["id"], last_event_id=last_event_id
            )
        except ANSWERED as error:
            return _problem(error)
        response = web.StreamResponse(headers=EVENT_HEADERS)
        try:
            with suppress(ConnectionError):  # the visitor has left
                await response.prepare(request)
                async for event in events:
                    await response.write(event)
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
        except ANSWERED as error:
            return _problem(error)
        try:
            response = web.StreamResponse(status=file.answer.status, headers=file.answer.headers)
            with suppress(ConnectionError):  # the visitor has left
                await response.prepare(request)
                if request.method != "HEAD":
                    async for chunk in file.chunks:
                        await response.write(chunk)
            return response
        finally:
            await opening.__aexit__(None, None, None)

    async def _health(self, _: web.Request) -> web.Response:
        status, body = health_body(self.service)
        return web.json_response(body, status=status, headers={"Cache-Control": "no-store"})


async def _json(request: web.Request) -> object:
    try:
        return json.loads(await request.read())
    except ValueError:
        raise ValueError("the body is not JSON; send {imodel_id, options?}") from None


def _problem(error: Exception) -> web.Response:
    answer = http_error(error)
    return web.Response(status=answer.status, headers=answer.headers, body=json.dumps(answer.body))
