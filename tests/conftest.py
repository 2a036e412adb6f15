"""What all tests share: virtual time unless a test asks for the real one, and an emulator."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
from hypothesis import settings

from itwin_export_async import ExportClient
from itwin_export_async.emulator import Emulator, VirtualTimeLoop
from tests.support.fakes import EPOCH

# no deadline, because machines are busy; the checks always try the same cases
settings.register_profile("ours", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("ours")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("real_time"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualTimeLoop}


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(seed=1, epoch=EPOCH)


@pytest.fixture
async def client(emulator: Emulator) -> AsyncIterator[ExportClient]:
    """A client of the in-memory emulator, with a token that is good."""
    async with ExportClient(emulator.token(), transport=emulator) as client:
        yield client
