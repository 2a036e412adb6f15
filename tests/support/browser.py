"""A real browser, for pages that people look at: one Chromium for all tests of a process."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from attrs import frozen

from tests.support.processes import missing

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_WORDS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-port=0",
)


class Page:
    """A page in a browser. It speaks Chromium's own protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, session_id: str) -> None:
        self._socket = socket
        self._session_id = session_id
        self._ids = count(1)
        self._events: set[str] = set()

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The browser's response to a command."""
        id = next(self._ids)
        command = {"id": id, "method": method, "params": params}
        await self._socket.send_json(
            command | ({"sessionId": self._session_id} if self._session_id else {})
        )
        while True:
            message = await self._receive()
            if message.get("id") == id:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = await self._socket.receive_json(timeout=60)
        if "method" in message:
            self._events.add(message["method"])
        return message

    async def value(self, script: str) -> Any:
        """The value of a script's expression, as JSON has it."""
        result = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str) -> None:
        """Wait until the expression is true."""
        async with asyncio.timeout(60):
            while not await self.value(script):
                await asyncio.sleep(0.02)

    async def open(self, url: str) -> None:
        """Load the page."""
        await self.ask("Page.navigate", url=url)
        await self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    async def html(self) -> str:
        """The document as it is now."""
        text = await self.value("document.documentElement.outerHTML")
        assert isinstance(text, str)
        return text

    async def advance(self, seconds: float) -> None:
        """Let the page's timers run for so many seconds, which takes less time than that."""
        expired = "Emulation.virtualTimeBudgetExpired"
        self._events.discard(expired)
        await self.ask(
            "Emulation.setVirtualTimePolicy",
            policy="pauseIfNetworkFetchesPending",
            budget=seconds * 1000,
        )
        while expired not in self._events:
            await self._receive()

    async def screenshot(self, width: int, height: int, *, dark: bool = False) -> bytes:
        """A picture of the top of the page, as PNG."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.ask("Emulation.setEmulatedMedia", features=[scheme])
        picture = await self.ask("Page.captureScreenshot")
        return b64decode(picture["data"])

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


@frozen(kw_only=True)
class Browser:
    """A running Chromium. `address`: of its debugging socket."""

    address: str

    @asynccontextmanager
    async def page(self, url: str, *, downloads: Path | None = None) -> AsyncIterator[Page]:
        """The page, in a browser context of its own. `downloads`: the folder for them."""
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(self.address, max_msg_size=0) as socket,
        ):
            whole = Page(socket, "")
            context = (await whole.ask("Target.createBrowserContext"))["browserContextId"]
            try:
                if downloads is not None:
                    await whole.ask(
                        "Browser.setDownloadBehavior",
                        behavior="allow",
                        browserContextId=context,
                        downloadPath=str(downloads),
                    )
                target = await whole.ask(
                    "Target.createTarget", url="about:blank", browserContextId=context
                )
                session = await whole.ask(
                    "Target.attachToTarget", targetId=target["targetId"], flatten=True
                )
                page = Page(socket, session["sessionId"])
                await page.open(url)
                yield page
            finally:
                await whole.ask("Target.disposeBrowserContext", browserContextId=context)


def find_browser() -> str:
    """The path of a Chromium; without one the test is skipped, but fails where `CI` is true."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    return found or missing(f"no browser here: none of {', '.join(_NAMES)}")


@pytest.fixture(scope="session")
def browser(integration: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests that use it."""
    profile = tmp_path_factory.mktemp("browser")
    # what the browser leaves behind goes with its profile
    environment = {**os.environ, "TMPDIR": str(profile)}
    process = subprocess.Popen(
        [find_browser(), *_WORDS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        port, path = _debugging_port(process, profile / "DevToolsActivePort")
        yield Browser(address=f"ws://127.0.0.1:{port}{path}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _debugging_port(process: "subprocess.Popen[bytes]", file: Path) -> list[str]:
    """The port and the path that the browser writes into a file once it listens."""
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        assert process.poll() is None, "the browser has ended"
        if file.exists() and len(lines := file.read_text().splitlines()) == 2:
            return lines
        time.sleep(0.02)
    raise AssertionError("the browser does not listen")
