"""Blocking calls in threads of their own: the loop's default executor belongs to the caller."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def call_in_thread(function: Callable[..., T], *args: Any) -> T:
    """The result of `function(*args)`, called in a new thread and the caller's context.

    The thread is a daemon: a function that hangs keeps no program alive. A cancelled caller leaves
    the thread alone.
    """
    context, loop = copy_context(), asyncio.get_running_loop()
    results: list[T] = []

    def call() -> BaseException | None:
        try:
            results.append(context.run(function, *args))
        except BaseException as exc:  # noqa: BLE001 - raised below: a future would change some
            return exc
        return None

    # an executor, because loops with virtual time know of its jobs
    error = await loop.run_in_executor(_DaemonThreads(), call)
    try:
        if error is not None:
            raise error
    finally:
        del error  # it holds this frame
    return results[0]


class _DaemonThreads(Executor):
    """Runs each job in a new daemon thread. A job raises nothing."""

    def submit(self, job: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Start a thread for the job."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        call = partial(job, *args, **kwargs)
        threading.Thread(target=_run, args=(future, call), name="itwin-export", daemon=True).start()
        return future


def _run(future: Future[T], job: Callable[[], T]) -> None:
    future.set_result(job())
    del future, job  # the traceback of a returned error holds this frame
