"""Export exactly the changeset of each new named version, once."""

import asyncio
import os
from collections.abc import AsyncIterator

from aiohttp import web
from sqlite_store import SqliteRunStore

from itwin_export_async import ExportClient, ExportOptions, InputOptions
from itwin_export_async.webhooks import InvalidSignature, NamedVersionCreated, read_event

CLIENT = web.AppKey("client", ExportClient)
STORE = web.AppKey("store", SqliteRunStore)
EXPORTS = web.AppKey("exports", set[asyncio.Task[None]])


async def receive(request: web.Request) -> web.Response:
    try:
        event = read_event(os.environ["WEBHOOK_SECRET"], await request.read(), request.headers)
    except InvalidSignature:
        return web.Response(status=401)
    request.app[CLIENT].notify(event)
    if isinstance(event, NamedVersionCreated) and event.changeset_id is not None:
        task = asyncio.create_task(export(request.app, event))
        request.app[EXPORTS].add(task)
        task.add_done_callback(request.app[EXPORTS].discard)
    return web.Response()  # within 5 seconds, or the event is sent again


async def export(app: web.Application, event: NamedVersionCreated) -> None:
    """An event that is sent again finds the run, and the file, that are there already."""
    client = app[CLIENT]
    options = ExportOptions(input=InputOptions(changeset_id=event.changeset_id))
    connection = await client.find_or_create_connection(
        event.imodel_id, display_name="named versions"
    )
    run = await client.start_once(
        event.message_id, connection.id, options, store=app[STORE], if_active="wait"
    )
    await run.wait()
    await run.download(f"exports/{event.imodel_id}/{event.named_version_id}.ifc")


async def open_client(app: web.Application) -> AsyncIterator[None]:
    app[EXPORTS] = set()
    app[STORE] = SqliteRunStore("starts.db")
    async with ExportClient.from_env() as app[CLIENT]:
        yield


def create_app() -> web.Application:
    app = web.Application()
    app.router.add_post("/events", receive)
    app.cleanup_ctx.append(open_client)
    return app


if __name__ == "__main__":
    web.run_app(create_app(), port=8080)
