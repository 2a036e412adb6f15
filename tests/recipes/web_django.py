"""Exports in a Django application, behind an ASGI server. `urlpatterns` go into your own."""

import json
import os
from typing import Any

from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

from itwin_export_async import ExportError
from itwin_export_async.web import EVENT_HEADERS, ExportService, allow_all, http_error

django = get_asgi_application()
exports = ExportService(secret=os.environ["EXPORT_SECRET"], may_export=allow_all)


async def export(request: HttpRequest, id: str = "", part: str = "") -> HttpResponse:
    owner = request.headers["X-User"]  # your session or token
    try:
        if request.method == "POST":
            started = await exports.start(owner, request.body)
            return JsonResponse(started.body(f"/exports/{started.id}"), status=202)
        if part == "events":
            return StreamingHttpResponse(exports.events(owner, id), headers=EVENT_HEADERS)
        if part == "file":
            file = await exports.open_file(owner, id)
            return StreamingHttpResponse(file.chunks, headers=file.answer.headers)
        return JsonResponse(await exports.describe(owner, id))
    except ExportError as error:
        answer = http_error(error)
        return HttpResponse(json.dumps(answer.body), status=answer.status, headers=answer.headers)


urlpatterns = [path(f"exports{rest}", export) for rest in ("", "/<id>", "/<id>/<part>")]


async def app(scope: Any, receive: Any, send: Any) -> Any:
    if scope["type"] != "lifespan":  # which Django does not know
        return await django(scope, receive, send)
    async with exports.lifespan():
        await send({"type": "lifespan.startup.complete"})
        _startup, _shutdown = await receive(), await receive()
    return await send({"type": "lifespan.shutdown.complete"})
