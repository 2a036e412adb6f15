"""The applications that tests serve in processes of their own.

The environment leads to the emulator. `WEB_LOG` names a file with a line for each lifespan.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from fastapi import FastAPI

from itwin_export_async import ExportClient, FixedSchedule
from itwin_export_async.web import allow_all
from itwin_export_async.web.aiohttp import ExportRoutes
from itwin_export_async.web.fastapi import ExportRouter


def _note(text: str) -> None:
    with Path(os.environ["WEB_LOG"]).open("a") as file:
        file.write(f"{text}\n")


def _usage() -> dict[str, float]:
    """The memory in bytes and the number of tasks of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        "tasks": len(asyncio.all_tasks()),
    }


def _make_client() -> ExportClient:
    return ExportClient.from_env(
        schedule=FixedSchedule(float(os.environ.get("WEB_INTERVAL", "0.1")))
    )


def fastapi_app() -> FastAPI:
    """An application with a lifespan of its own."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        _note("begin")
        yield
        _note("end")

    exports = ExportRouter(
        secret="s" * 32, owner=lambda: "me", may_export=allow_all, client=_make_client
    )
    app = FastAPI(lifespan=exports.wrap_lifespan(lifespan))
    app.include_router(exports, prefix="/api/v1")

    @app.get("/usage")
    async def usage() -> dict[str, float]:
        return _usage()

    return app


async def aiohttp_app() -> web.Application:
    """The same with aiohttp."""

    async def lifespan(_: web.Application) -> AsyncIterator[None]:
        _note("begin")
        yield
        _note("end")

    exports = ExportRoutes(
        secret="s" * 32, owner=lambda _: "me", may_export=allow_all, client=_make_client
    )
    app = web.Application()
    app.cleanup_ctx.append(lifespan)
    exports.setup(app, prefix="/api/v1")

    async def usage(_: web.Request) -> web.Response:
        return web.json_response(_usage())

    app.router.add_get("/usage", usage)
    return app


if __name__ == "__main__":
    web.run_app(aiohttp_app(), path=os.environ["WEB_SOCKET"], print=None)
