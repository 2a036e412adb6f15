"""The recipe that exports the changeset of each new named version."""

import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from itwin_export_async.emulator import Emulator, ServerAddress
from itwin_export_async.transport import Request
from tests.support.batches import started
from tests.support.processes import until

SECRET = "s" * 32


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    finally:
        await runner.cleanup()


def subscribe(emulator: Emulator, callback_url: str) -> None:
    headers = {
        "Accept": "application/vnd.bentley.itwin-platform.v2+json",
        "Authorization": f"Bearer {emulator.token()}",
        "User-Agent": "test",
    }

    def ask(method: str, path: str, body: dict[str, object]) -> Any:
        url = f"https://api.bentley.com{path}"
        request = Request(method=method, url=url, headers=headers, body=json.dumps(body).encode())
        return json.loads(emulator.handle(request).body)

    body: dict[str, object] = {
        "callbackUrl": callback_url,
        "scope": "Account",
        "eventTypes": ["iModels.namedVersionCreated.v1"],
        "secret": SECRET,
    }
    webhook = ask("POST", "/webhooks/", body)
    ask("PATCH", f"/webhooks/{webhook['id']}", {"active": True})


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, recipes: Path) -> Any:
    monkeypatch.chdir(recipes)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)

    def set_service(emulator: Emulator, served: ServerAddress) -> None:
        monkeypatch.setenv("ITWIN_ACCESS_TOKEN", emulator.token())
        monkeypatch.setenv("ITP_API_URL", served.base_url)

    return set_service


@pytest.mark.usefixtures("integration")
async def test_each_named_version_is_exported_once_at_its_changeset(
    recipes: Path, environment: Any
) -> None:
    emulator = Emulator(seed=1, run_seconds=0.3, webhook_repeats=2)
    imodel_id = emulator.add_imodel("Bridge")
    async with emulator.serve() as served:
        environment(emulator, served)
        module = import_module("named_versions")
        app = module.create_app()
        async with serving(app) as url:
            subscribe(emulator, url)
            versions = {}
            for name in ("first", "second"):
                changeset_id = emulator.push_changeset(imodel_id)
                emulator.push_changeset(imodel_id)  # a later one, which is not exported
                versions[emulator.add_named_version(imodel_id, name, changeset_id)] = changeset_id
            emulator.add_named_version(emulator.add_imodel(), "on the baseline")
            files = [recipes / f"exports/{imodel_id}/{version}.ifc" for version in versions]
            await until(lambda: all(file.exists() for file in files) and not app[module.EXPORTS])
            async with aiohttp.ClientSession() as http:
                body = b'{"eventType": "x", "messageId": "y"}'
                forged = {"Signature": f"sha256={hmac.digest(b'other', body, sha256).hex()}"}
                async with http.post(url, data=body, headers=forged) as response:
                    assert response.status == 401
    changesets = [run["changesetId"] for run in emulator.state()["runs"]]
    assert sorted(changesets) == sorted(versions.values())
    assert started(emulator) == 2
