"""Exports in a Starlette application."""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from itwin_export_async import ExportError
from itwin_export_async.web import EVENT_HEADERS, ExportService, allow_all, http_error

exports = ExportService(secret=os.environ["EXPORT_SECRET"], may_export=allow_all)


def owner(request: Request) -> str:
    return request.headers["X-User"]  # your session or token


async def start(request: Request) -> Response:
    started = await exports.start(owner(request), await request.body())
    return JSONResponse(started.body(f"/exports/{started.id}"), 202)


async def state(request: Request) -> Response:
    return JSONResponse(await exports.describe(owner(request), request.path_params["id"]))


async def events(request: Request) -> Response:
    stream = exports.events(owner(request), request.path_params["id"])
    return StreamingResponse(stream, headers=EVENT_HEADERS)


async def file(request: Request) -> Response:
    file = await exports.open_file(owner(request), request.path_params["id"])
    return StreamingResponse(file.chunks, headers=file.answer.headers)


def refuse(request: Request, error: Exception) -> Response:
    answer = http_error(error)
    return JSONResponse(answer.body, answer.status, headers=answer.headers)


routes = [Route("/exports", start, methods=["POST"]), Route("/exports/{id}", state)]
routes += [Route("/exports/{id}/events", events), Route("/exports/{id}/file", file)]
handlers = {ExportError: refuse}
app = Starlette(routes=routes, exception_handlers=handlers, lifespan=exports.lifespan)
