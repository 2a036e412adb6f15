"""Blocking calls in threads of their own: the loop's default executor belongs to the caller."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


async def call_in_thread(function: Callable[..., T], *args: Any) -> T:
    """The result of `function(*args)`, called in a new thread.

    The thread is a daemon: a function that hangs keeps no program alive. A cancelled caller leaves
    the thread alone. `StopIteration` becomes a `RuntimeError`, because no future can hold it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = context.run(function, *args)
        except StopIteration as exc:
            error = RuntimeError("the function raised StopIteration")
            error.__cause__ = exc
        except BaseException as exc:  # noqa: BLE001 - the waiting coroutine raises it
            error = exc
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(finish, result, error)

    context = copy_context()
    threading.Thread(target=run, name="itwin-export", daemon=True).start()
    return await future
