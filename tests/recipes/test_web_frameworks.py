"""The recipes for other web frameworks, behind a real server."""

import ast
import importlib
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from itwin_export_async.emulator import Emulator
from tests.support.environment import environment
from tests.support.service import Service, serving
from tests.web.events import events_of
from tests.web.sites import served

pytestmark = pytest.mark.usefixtures("integration")

FRAMEWORKS = ("starlette", "litestar", "quart", "django")
HERE = Path(__file__).parent
MAX_LINES = 25
RUN_SECONDS = 1000.0
AFTER_RUN = RUN_SECONDS + 100.0


@pytest.fixture
def service(integration: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The emulator, served; the environment names it."""
    emulator = Emulator(seed=1, run_seconds=RUN_SECONDS)
    with serving(emulator) as service:
        for name, value in environment(emulator, service.served).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("EXPORT_SECRET", "a long random text")
        yield service


def load(framework: str) -> Any:
    """The application of a recipe. It is skipped where the framework is not installed."""
    pytest.importorskip(framework)
    name = f"tests.recipes.web_{framework}"
    sys.modules.pop(name, None)
    if framework == "django":
        _configure_django(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the frameworks
        return importlib.import_module(name).app


def _configure_django(urls: str) -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="x")


@pytest.fixture(params=FRAMEWORKS)
async def visitor(
    request: pytest.FixtureRequest, service: Service
) -> AsyncIterator[aiohttp.ClientSession]:
    """A visitor of the recipe's application."""
    app = load(request.param)
    async with (
        served(app) as url,
        aiohttp.ClientSession(url, headers={"X-User": "me"}) as visitor,
    ):
        yield visitor


async def test_recipe_starts_follows_and_serves_an_export(
    visitor: aiohttp.ClientSession, service: Service
) -> None:
    body = {"imodel_id": service.emulator.add_imodel("Bridge")}
    async with visitor.post("/exports", json=body) as response:
        assert response.status == 202, await response.text()
        started = await response.json()
    async with visitor.get(started["file_url"]) as response:
        assert (response.status, response.content_type) == (409, "application/problem+json")
    service.advance(AFTER_RUN)
    async with visitor.get(started["events_url"]) as response:
        events = [event async for event in events_of(response)]
    assert (events[-1].name, events[-1].data["outcome"]) == ("end", "Success")
    async with visitor.get(started["status_url"]) as response:
        assert await response.json() == events[-1].data
    async with visitor.get(started["file_url"]) as response:
        assert response.status == 200
        assert response.headers["Content-Disposition"] == 'attachment; filename="Bridge.ifc"'
        assert (await response.read()).startswith(b"ISO-10303-21;")
    async with visitor.get(started["status_url"], headers={"X-User": "you"}) as response:
        assert response.status == 404
    async with visitor.post("/exports", data=b"no json") as response:
        assert response.status == 422
        assert "not JSON" in (await response.json(content_type=None))["detail"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_recipe_is_short(framework: str) -> None:
    text = (HERE / f"web_{framework}.py").read_text()
    head = max(
        node.end_lineno or 0
        for node in ast.parse(text).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    )
    lines = [line for line in text.splitlines()[head:] if line.strip()]
    assert len(lines) <= MAX_LINES
