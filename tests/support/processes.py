"""Other processes: what tests do with them."""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from random import sample
from typing import NoReturn

import pytest


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.02)


def kill(process: asyncio.subprocess.Process) -> None:
    """End the process and all that it has started, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    """A free port of loopback, outside the range from which the system takes ports by itself."""
    for port in sample(range(20_000, 32_768), 100):  # Linux gives those above
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    pytest.fail("no port of loopback can be had")


def missing(reason: str) -> NoReturn:
    """Skip the test; but fail it where `CI` is true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
