"""A served emulator whose clock a test sets forward, so that no test waits for a run."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from itwin_export_async.emulator import Emulator, ServerAddress


class AdjustableLoop(asyncio.SelectorEventLoop):
    """A loop whose clock is set forward by hand."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Service:
    """An emulator behind a server in a thread of its own."""

    def __init__(self, emulator: Emulator, served: ServerAddress, loop: AdjustableLoop) -> None:
        self.emulator = emulator
        self.served = served
        self._loop = loop

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass for the service, and for nothing else."""
        self._loop.ahead += seconds


@contextmanager
def serving(emulator: Emulator) -> Iterator[Service]:
    """The emulator, served while the block lasts."""
    ready: list[Service] = []
    is_up, stop = threading.Event(), asyncio.Event()
    loop = AdjustableLoop()

    async def serve() -> None:
        async with emulator.serve() as served:
            ready.append(Service(emulator, served, loop))
            is_up.set()
            await stop.wait()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert is_up.wait(60)
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
