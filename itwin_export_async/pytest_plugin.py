"""The emulator in your own tests, by pytest fixtures.

    def test_my_service(itwin_emulator, itwin_virtual_time):
        imodel_id = itwin_emulator.add_imodel("Bridge")
        itwin_virtual_time(export_by_my_service(itwin_emulator, imodel_id))  # hours in no time
        itwin_emulator.assert_no_violations()

A test marked `itwin_no_violations` fails when its client did what a client must not do.
"""

from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

if TYPE_CHECKING:  # most tests of most people want none of it
    from itwin_export_async.emulator import Emulator

_MARKER = "itwin_no_violations"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", f"{_MARKER}: fails when the emulator saw what a client must not do"
    )


@pytest.fixture
def itwin_emulator(request: pytest.FixtureRequest) -> "Emulator":
    """A fresh emulator of the iTwin Platform; the test's name is its seed."""
    from itwin_export_async.emulator import Emulator

    return Emulator(seed=crc32(request.node.nodeid.encode()))


@pytest.fixture
def itwin_virtual_time() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Runs a coroutine in a loop of its own, where waiting takes no time, and gives its result."""
    from itwin_export_async.emulator import run_virtual

    return run_virtual


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Hold a marked test to it that its client was clean, if it passed otherwise."""
    yield
    if item.get_closest_marker(_MARKER):
        emulator = getattr(item, "funcargs", {}).get("itwin_emulator")
        if emulator is None:
            raise pytest.UsageError(f"{_MARKER} is for tests with the fixture itwin_emulator")
        emulator.assert_no_violations()
