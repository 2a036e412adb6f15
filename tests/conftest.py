"""What all tests share: markers set by fixtures, virtual time, Hypothesis profiles, an emulator.

A test runs in virtual time, without sockets and processes, unless it uses the fixture
`integration` or one that uses it. A marker is set by the fixture of the same name.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from hypothesis import settings

from itwin_export_async import ExportClient
from itwin_export_async.emulator import Emulator, VirtualTimeLoop
from tests.support.fakes import EPOCH
from tests.support.guard import Guard

pytest_plugins = ["tests.support.command", "tests.support.browser"]

IN_CI = os.environ.get("CI") == "true"
PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "dev")

# no deadline, because machines are busy
settings.register_profile("dev", deadline=None, max_examples=30)
settings.register_profile("ci", deadline=None, max_examples=100, derandomize=True)
settings.register_profile("nightly", deadline=None, max_examples=1000)
settings.load_profile(PROFILE)

MARKERS = ("integration", "browser", "slow", "benchmark")
GROUPS = ("timing", "browser")


def is_integration(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    return "integration" in names


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Guard(), "itwin-guard")
    # a job in the background ignores these, and so would the commands that tests interrupt
    defaults: dict[str, Any] = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    for name, handler in defaults.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    names = getattr(item, "fixturenames", ())
    for marker in MARKERS:
        if marker in names:
            item.add_marker(marker)
    if is_integration(item):
        item.add_marker("integration")
    for group in GROUPS:
        if group in names:
            item.add_marker(pytest.mark.xdist_group(group))
            break


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the slow tests, unless the profile is `nightly` or `-m` names them."""
    if PROFILE == "nightly" or "slow" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for each core: most integration tests wait. The others keep the cores busy."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) * (1 if "not integration" in config.option.markexpr else 2)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if is_integration(item):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualTimeLoop}


@pytest.fixture(scope="session")
def integration() -> None:
    """Runs on a real event loop, and may use sockets and processes."""


@pytest.fixture(scope="session")
def timing() -> None:
    """Compares measured times: such tests never run side by side."""


@pytest.fixture(scope="session")
def slow() -> None:
    """Runs in the nightly command only."""


@pytest.fixture(scope="session")
def benchmark() -> None:
    """Runs a benchmark in miniature."""


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(seed=1, epoch=EPOCH)


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[ExportClient]:
    """A client of the in-memory emulator, with a token that is good."""
    async with ExportClient(emulator.token(), transport=emulator) as client:
        yield client
