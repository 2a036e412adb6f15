"""The signals that stop a server."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def on_stop_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` in the event loop on SIGINT and SIGTERM, beside the server's own handlers.

    ASGI servers end the lifespan only after all requests, and a stream would never end by itself.
    Only the main thread receives signals; in others, as in tests, nothing is done.
    """
    loop = asyncio.get_running_loop()
    replaced: dict[int, Callable[[int, Any], Any]] = {}

    def on_signal(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(stop)
        replaced[number](number, frame)

    is_main = threading.current_thread() is threading.main_thread()
    for name in (signal.SIGINT, signal.SIGTERM) if is_main else ():
        handler = signal.getsignal(name)
        if callable(handler):  # otherwise the signal ends the process at once
            replaced[name] = handler
            signal.signal(name, on_signal)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            if signal.getsignal(number) is on_signal:
                signal.signal(number, handler)
