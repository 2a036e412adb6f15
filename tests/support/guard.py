"""A guard that fails a test which uses the machine without saying so."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

_LOOPBACK = ("127.", "::1", "localhost")
_INTEGRATION = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.system",
    "pty.spawn",
    "socket.bind",
    "socket.connect",
    "subprocess.Popen",
}


class Guard:
    """A pytest plugin. Only tests marked `integration` may use sockets and processes.

    No test may connect to another machine. The marker is set by fixtures, see `conftest.py`.
    """

    def __init__(self) -> None:
        self._test = ""
        self._is_integration = True
        sys.addaudithook(self._audit)  # there is no way to remove one: it outlives the run

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._test = item.nodeid
        self._is_integration = item.get_closest_marker("integration") is not None
        try:
            return (yield)
        finally:
            self._test, self._is_integration = "", True

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event not in _INTEGRATION or not self._test:
            return
        if not self._is_integration:
            raise RuntimeError(f"{self._test}: {event} without the fixture integration")
        if event == "socket.connect" and not _is_local(args[1]):
            raise RuntimeError(f"{self._test}: connects to another machine: {args[1]!r}")


def _is_local(address: object) -> bool:
    """Whether the address is a unix socket or of this machine."""
    return not isinstance(address, tuple) or str(address[0]).startswith(_LOOPBACK)
