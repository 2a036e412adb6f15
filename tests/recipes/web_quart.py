"""Exports in a Quart application."""

import os
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, request

from itwin_export_async import ExportError
from itwin_export_async.web import EVENT_HEADERS, ExportService, allow_all, http_error

exports = ExportService(secret=os.environ["EXPORT_SECRET"], may_export=allow_all)
app = Quart(__name__)
app.config["RESPONSE_TIMEOUT"] = None  # a stream lasts as long as its run


@app.while_serving  # type: ignore[type-var]
async def lifespan() -> AsyncIterator[None]:
    async with exports.lifespan():
        yield


@app.post("/exports")
async def start() -> Any:
    started = await exports.start(request.headers["X-User"], await request.get_data())
    return started.body(f"/exports/{started.id}"), 202


@app.get("/exports/<id>")
async def state(id: str) -> Any:
    return await exports.describe(request.headers["X-User"], id)


@app.get("/exports/<id>/events")
async def events(id: str) -> Any:
    return exports.events(request.headers["X-User"], id), dict(EVENT_HEADERS)


@app.get("/exports/<id>/file")
async def file(id: str) -> Any:
    file = await exports.open_file(request.headers["X-User"], id)
    return file.chunks, file.answer.headers


@app.errorhandler(ExportError)
async def refuse(error: ExportError) -> Any:
    answer = http_error(error)
    return answer.body, answer.status, answer.headers
