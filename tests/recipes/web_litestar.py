"""Exports in a Litestar application."""

import os
from typing import Any

from litestar import Litestar, Request, Response, get, post
from litestar.response import Stream

from itwin_export_async import ExportError
from itwin_export_async.web import EVENT_HEADERS, ExportService, allow_all, http_error

exports = ExportService(secret=os.environ["EXPORT_SECRET"], may_export=allow_all)


def owner(request: Request[Any, Any, Any]) -> str:
    return request.headers["X-User"]  # your session or token


@post("/exports", status_code=202)
async def start(request: Request[Any, Any, Any]) -> dict[str, Any]:
    started = await exports.start(owner(request), await request.body())
    return started.body(f"/exports/{started.id}")


@get("/exports/{id:str}")
async def state(request: Request[Any, Any, Any], id: str) -> dict[str, Any]:
    return await exports.describe(owner(request), id)


@get("/exports/{id:str}/events")
async def events(request: Request[Any, Any, Any], id: str) -> Stream:
    return Stream(exports.events(owner(request), id), headers=dict(EVENT_HEADERS))


@get("/exports/{id:str}/file")
async def file(request: Request[Any, Any, Any], id: str) -> Stream:
    file = await exports.open_file(owner(request), id)
    return Stream(file.chunks, headers=file.answer.headers)


def refuse(_: Any, error: ExportError) -> Response[dict[str, Any]]:
    answer = http_error(error)
    return Response(answer.body, status_code=answer.status, headers=answer.headers)


handlers: Any = {ExportError: refuse}
views = [start, state, events, file]
app = Litestar(views, exception_handlers=handlers, lifespan=[exports.lifespan])
