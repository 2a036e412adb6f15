"""The command line as people use it, and a service for it to talk to."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from itwin_export_async.cli.app import app
from itwin_export_async.emulator import Emulator

COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-c"]
COMMAND += ["from itwin_export_async.cli import main; main()"]


class Service:
    """An emulator behind a server in a thread of its own."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.ready, self.stop = threading.Event(), asyncio.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with self.emulator.serve() as served:
            self.base_url, self.token_url = served.base_url, served.token_url
            self.ready.set()
            await self.stop.wait()

    def environment(self) -> dict[str, str]:
        return {
            "ITP_API_URL": self.base_url,
            "ITP_ISSUER_URL": self.token_url.removesuffix("/connect/token"),
            "ITP_SERVICE_CLIENT_ID": self.emulator.client_id,
            "ITP_SERVICE_CLIENT_SECRET": self.emulator.client_secret,
            "ITWIN_ACCESS_TOKEN": "",
        }


@contextmanager
def serving(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service that the environment names while the block lasts."""
    service = Service(emulator)
    service.thread.start()
    service.ready.wait(10)
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    yield service
    service.loop.call_soon_threadsafe(service.stop.set)
    service.thread.join(10)


def invoke(*words: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    """The exit code of a command in this process, and what it printed."""
    result = CliRunner().invoke(app, list(words), prog_name="itwin-export", input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def start(*words: str, cwd: Path, stdin: int | None = None) -> "subprocess.Popen[str]":
    """A command in its own process. `stdin`: what it reads, None for what this one does."""
    return subprocess.Popen(
        [*COMMAND, *words],
        cwd=cwd,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def on_terminal(
    *words: str, cwd: Path, columns: int = 120, until: bytes | None = None
) -> tuple[int, bytes]:
    """The exit code of a command on a terminal, and what that was sent.

    `until`: what Ctrl-C is pressed on, once it is seen; None for never.
    """
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *words],
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "30"},
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(ours, 65536):
                shown += piece
                if until is not None and until in shown:
                    process.send_signal(signal.SIGINT)
                    until = None
    os.close(ours)
    return process.returncode, shown
