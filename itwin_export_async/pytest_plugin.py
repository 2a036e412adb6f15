"""The emulator as pytest fixtures.

    def test_my_service(itwin_emulator, itwin_virtual_time):
        imodel_id = itwin_emulator.add_imodel("Bridge")
        itwin_virtual_time(export_by_my_service(itwin_emulator, imodel_id))  # hours in no time
        itwin_emulator.assert_no_violations()

A test with the marker `itwin_no_violations` (`itwin_clean` is another name of it) fails if its
client did what it must not do. The plugin imports the emulator only when a fixture is used.
"""

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

if TYPE_CHECKING:  # a session that uses no fixture does not pay for it
    from itwin_export_async.emulator import Emulator

_MARKERS = {
    "itwin_no_violations": "fails if the emulator recorded a violation of the client",
    "itwin_clean": "another name of itwin_no_violations",
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for marker, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{marker}: {meaning}")


@pytest.fixture
def itwin_emulator(request: pytest.FixtureRequest) -> "Emulator":
    """Return a new emulator of the iTwin Platform. The name of the test is its seed."""
    from itwin_export_async.emulator import Emulator

    return Emulator(seed=crc32(request.node.nodeid.encode()))


@pytest.fixture
def itwin_virtual_time() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Return a function that runs a coroutine in virtual time and returns its result."""
    from itwin_export_async.emulator import run_virtual

    return run_virtual


@pytest.hookimpl(trylast=True)  # after the test itself, and only if it passed
def pytest_runtest_call(item: pytest.Item) -> None:
    """Fail a marked test whose client has violations."""
    marker = next((name for name in _MARKERS if item.get_closest_marker(name)), None)
    if marker is None:
        return
    emulator = getattr(item, "funcargs", {}).get("itwin_emulator")
    if emulator is None:
        raise pytest.UsageError(f"{marker} needs a test that uses the fixture itwin_emulator")
    emulator.assert_no_violations()
