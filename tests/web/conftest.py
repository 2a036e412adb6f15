"""What the tests of web applications share: a served emulator, and a client for it."""

from collections.abc import Callable, Iterator

import pytest

from itwin_export_async import ExportClient, FixedSchedule
from itwin_export_async.emulator import Emulator
from tests.support.service import Service, serving

RUN_SECONDS, INTERVAL = 1000.0, 0.05
AFTER_RUN = RUN_SECONDS + 100.0


@pytest.fixture
def service(integration: None) -> Iterator[Service]:
    """The emulator, served. Its runs end when the test lets time pass."""
    with serving(Emulator(seed=1, run_seconds=RUN_SECONDS)) as service:
        yield service


@pytest.fixture
def make_client(service: Service) -> Callable[[], ExportClient]:
    """Makes clients of the served emulator that poll often."""

    def make_client() -> ExportClient:
        return ExportClient(
            service.emulator.token(lifetime=1e6),
            base_url=service.served.base_url,
            schedule=FixedSchedule(INTERVAL),
        )

    return make_client
