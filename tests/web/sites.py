"""Web applications with exports, behind real servers in the process of the test."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import uvicorn
from aiohttp import web
from fastapi import FastAPI, Header
from fastapi.exceptions import HTTPException

from itwin_export_async.web import allow_all
from itwin_export_async.web.aiohttp import ExportRoutes
from itwin_export_async.web.fastapi import ExportRouter

PREFIX = "/api/v1"
Site: TypeAlias = Callable[..., AbstractAsyncContextManager[str]]
DEFAULTS: dict[str, Any] = {"secret": "s" * 32, "may_export": allow_all}


async def owner_by_header(x_owner: str = Header("me")) -> str:
    """The owner that a test names; without a right to be here where that is empty."""
    if not x_owner:
        raise HTTPException(401, "sign in")
    return x_owner


def owner_of_request(request: web.Request) -> str:
    """The same for aiohttp."""
    owner = request.headers.get("X-Owner", "me")
    if not owner:
        raise web.HTTPUnauthorized(text="sign in")
    return owner


async def owner_of_request_async(request: web.Request) -> str:
    """The same as a coroutine."""
    return owner_of_request(request)


@asynccontextmanager
async def served(app: Any, **config: Any) -> AsyncIterator[str]:
    """The URL of an ASGI application behind uvicorn."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="critical", ws="none", lifespan="on", **config)
    )
    with warnings.catch_warnings():
        task = asyncio.create_task(server.serve())
        while not server.started:
            assert not task.done(), "the server has not started"
            await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def served_aiohttp(app: web.Application, **options: Any) -> AsyncIterator[str]:
    """The URL of an aiohttp application behind its own runner."""
    runner = web.AppRunner(app, **options)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def fastapi_site(**options: Any) -> AsyncIterator[str]:
    """The URL below which the endpoints of a FastAPI application are."""
    exports = ExportRouter(**DEFAULTS | {"owner": owner_by_header} | options)
    app = FastAPI(lifespan=exports.lifespan)
    app.include_router(exports, prefix=PREFIX)
    async with served(app) as url:
        try:
            yield url + PREFIX
        finally:
            exports.service.stop()  # as a signal does


@asynccontextmanager
async def aiohttp_site(**options: Any) -> AsyncIterator[str]:
    """The URL below which the endpoints of an aiohttp application are."""
    exports = ExportRoutes(**DEFAULTS | {"owner": owner_of_request} | options)
    app = web.Application()
    exports.setup(app, prefix=PREFIX)
    async with served_aiohttp(app) as url:
        yield url + PREFIX
