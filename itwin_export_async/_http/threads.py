"""Blocking calls in threads of their own: the loop's default executor belongs to the caller."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class DaemonThreads(Executor):
    """Runs each job in a new daemon thread, so that one that hangs keeps no program alive.

    `StopIteration` becomes a `RuntimeError`, because no future of asyncio can hold it.
    """

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start a thread that calls the function."""
        job: Future[T] = Future()
        job.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = function(*args, **kwargs)
            except StopIteration as exc:
                error = RuntimeError("the function raised StopIteration")
                error.__cause__ = exc
                job.set_exception(error)
            except BaseException as error:  # noqa: BLE001 - the waiting coroutine raises it
                job.set_exception(error)
            else:
                job.set_result(result)

        threading.Thread(target=run, name="itwin-export", daemon=True).start()
        return job


async def call_in_thread(function: Callable[..., T], *args: Any) -> T:
    """The result of `function(*args)`, called in a new thread and the caller's context.

    A cancelled caller leaves the thread alone.
    """
    context, loop = copy_context(), asyncio.get_running_loop()
    # an executor, because loops with virtual time know of its jobs
    return await loop.run_in_executor(DaemonThreads(), context.run, function, *args)
