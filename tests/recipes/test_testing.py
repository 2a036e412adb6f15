"""The recipe for tests of an own web application: milliseconds for an export of hours."""

import json

import httpx
from fastapi import FastAPI

from itwin_export_async import ExportClient
from itwin_export_async.emulator import Emulator, run_virtual
from itwin_export_async.web import allow_all
from itwin_export_async.web.fastapi import ExportRouter


def test_an_export_of_two_hours_in_your_application() -> None:
    emulator = Emulator(seed=1, run_seconds=2 * 3600)

    async def owner() -> str:  # async: virtual time does not see FastAPI's threads
        return "me"

    exports = ExportRouter(
        secret="t" * 32,
        owner=owner,
        may_export=allow_all,
        client=lambda: ExportClient(emulator.token(lifetime=86400), transport=emulator),
    )
    app = FastAPI(lifespan=exports.lifespan)  # or: your application, with this `client`
    app.include_router(exports)

    async def scenario() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            exports.lifespan(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as visitor,
        ):
            body = {"imodel_id": emulator.add_imodel("Bridge")}
            started = (await visitor.post("/exports", json=body)).json()
            events = (await visitor.get(started["events_url"])).text
            assert json.loads(events.rpartition("data: ")[2])["outcome"] == "Success"
            file = await visitor.get(started["file_url"])
            assert file.content.startswith(b"ISO-10303-21;")

    run_virtual(scenario())
    emulator.assert_no_violations()
