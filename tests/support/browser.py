"""A real browser, for what people look at."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.processes import until

_BUDGET = "--virtual-time-budget"
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_WORDS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
)


def browser() -> str:
    """The path of a Chromium; without one the test is skipped, but fails where `CI` is true."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is not None:
        return found
    reason = f"no browser here: none of {', '.join(_NAMES)}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def dump_dom(url: str, *, seconds: float = 3.0) -> str:
    """The document as it is after its scripts have run for so many seconds of virtual time."""
    return _run("--dump-dom", f"{_BUDGET}={round(seconds * 1000)}", url)


def screenshot(url: str, path: Path, width: int, height: int, *, dark: bool = False) -> None:
    """A picture of the top of the page, as PNG; a phone's width comes out right as well."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    size = f"--window-size={width},{height}"
    _run(f"--screenshot={path}", size, scheme, "--hide-scrollbars", f"{_BUDGET}=1000", url)


class Page:
    """A page that someone sits before. It speaks Chromium's own protocol for that."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = count(1)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command."""
        told = next(self._ids)
        await self._socket.send_json({"id": told, "method": method, "params": params})
        async for message in self._socket:
            answer: dict[str, Any] = json.loads(message.data)
            if answer.get("id") == told:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError("the browser has gone")

    async def value(self, script: str) -> Any:
        """The value of a script's expression, as JSON has it."""
        told = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until the expression is true."""
        async with asyncio.timeout(20):
            while not await self.value(script):  # noqa: ASYNC110 - the browser sets no event
                await asyncio.sleep(0.02)

    async def click(self, selector: str) -> None:
        """Click into the middle of the element."""
        rect = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = await self.value(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({rect})"
        )
        for kind in ("mousePressed", "mouseReleased"):
            more = {"x": x, "y": y, "button": "left", "clickCount": 1}
            await self.ask("Input.dispatchMouseEvent", type=kind, **more)

    async def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        await self.ask("Input.insertText", text=text)


@asynccontextmanager
async def page(url: str, downloads: Path) -> AsyncIterator[Page]:
    """The page, open in a browser that downloads into the folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            *(browser(), *_WORDS, f"--user-data-dir={profile}"),
            *("--remote-debugging-port=0", "about:blank"),
            stderr=asyncio.subprocess.DEVNULL,
            env=_environment(profile),
        )
        try:
            note = Path(profile) / "DevToolsActivePort"
            await until(lambda: note.exists() and "\n" in note.read_text())
            port = note.read_text().splitlines()[0]
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                async with http.get("/json/list") as told:
                    (address,) = (
                        target["webSocketDebuggerUrl"]
                        for target in await told.json()
                        if target["type"] == "page"
                    )
                async with http.ws_connect(address, max_msg_size=0) as socket:
                    page = Page(socket)
                    folder = str(downloads)
                    await page.ask(
                        "Browser.setDownloadBehavior", behavior="allow", downloadPath=folder
                    )
                    await page.ask("Page.navigate", url=url)
                    await page.until(
                        "document.readyState == 'complete' && location.href != 'about:blank'"
                    )
                    yield page
        finally:
            process.kill()
            await process.wait()


def _run(*words: str) -> str:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [browser(), *_WORDS, f"--user-data-dir={profile}", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
            env=_environment(profile),
        )
    return done.stdout


def _environment(profile: str) -> dict[str, str]:
    """Ours, but what the browser leaves lying about goes with its profile."""
    return {**os.environ, "TMPDIR": profile}
