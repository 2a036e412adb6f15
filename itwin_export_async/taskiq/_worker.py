"""A worker: one process, with the clients of its tenants and the legs of its tasks."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from threading import current_thread, main_thread
from typing import Any, TypeVar

from attrs import define, field
from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, TaskiqEvents
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import NoResultError, SendTaskError
from taskiq.serializers import PickleSerializer

from itwin_export_async import ExportClient
from itwin_export_async.taskiq._failing import TaskFailed

log = logging.getLogger("itwin_export_async.taskiq")

T = TypeVar("T")
OpenClient = Callable[[], ExportClient]

_STATE = "itwin_export_async"  # the name of the worker in the broker's state
_LEG = 600.0  # seconds, if the broker has no `idle_timeout`
_LEG_SHARE = 0.4  # of the `idle_timeout`; the rest is for the download
_STILL_LISTENING = 0.5  # seconds for which a stopping worker may still get its own messages


def idle_timeout(broker: AsyncBroker) -> float | None:
    """Seconds after which a stream broker delivers a message again, None if it has no such time."""
    milliseconds = getattr(broker, "idle_timeout", None)
    return None if milliseconds is None else milliseconds / 1000


def leg_of(broker: AsyncBroker, leg: float | None) -> float:
    """The seconds of a leg. Raises a `ValueError` if the broker would repeat a message sooner."""
    again = idle_timeout(broker)
    if leg is None:
        return _LEG if again is None else again * _LEG_SHARE
    if not leg > 0:
        raise ValueError(f"leg must be more than 0 seconds, not {leg}")
    if again is not None and leg >= again:
        raise ValueError(f"leg must be less than the broker's idle_timeout of {again:g} s")
    return leg


class TaskLog(logging.Filter):
    """Leaves out taskiq's records of our tasks: a warning for each leg, a traceback for each error.

    The tasks log their ends themselves, in one line.
    """

    def __init__(self) -> None:
        super().__init__()
        self.task_names: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether taskiq's record is shown."""
        if record.exc_info and isinstance(record.exc_info[1], TaskFailed):
            return False
        is_skipped = record.levelno == logging.WARNING and "skipped setting" in str(record.msg)
        return not (is_skipped and isinstance(record.args, tuple) and self._is_ours(record.args))

    def _is_ours(self, values: tuple[object, ...]) -> bool:
        return bool(values) and values[0] in self.task_names


@define(eq=False, kw_only=True)
class Worker:
    """The worker of a broker: its clients, by the names of their tenants, and its active legs."""

    broker: AsyncBroker
    wake: AsyncTaskiqDecoratedTask[..., Any] = field(init=False)
    clients: dict[str, ExportClient] = field(factory=dict)
    task_log: TaskLog = field(factory=TaskLog)
    _open_client: dict[str, OpenClient] = field(factory=dict)
    _is_stopping: bool = False
    _limits: set[asyncio.Timeout] = field(factory=set)
    _tasks: set[asyncio.Task[Any]] = field(factory=set)
    _closing: AsyncExitStack = field(factory=AsyncExitStack)

    @classmethod
    def of(cls, broker: AsyncBroker) -> "Worker":
        """The worker of the broker; the first call creates it."""
        worker: Worker | None = broker.state.get(_STATE)
        if worker is None:
            worker = broker.state[_STATE] = cls(broker=broker)

            async def wake() -> None:
                """Do nothing: a stream broker reclaims old messages only after a new one."""

            worker.wake = broker.register_task(wake, f"{_STATE}:wake")
            broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, worker.start)
            broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, worker.close)
        return worker

    def add_tenant(self, name: str, open_client: OpenClient) -> None:
        """Add a tenant, whose client opens with the worker. Raises if there is one of this name."""
        if name in self._open_client:
            raise ValueError(
                f"exports are registered as {name!r} on this broker already; "
                "register(broker, name=...) needs another name for another client"
            )
        self._open_client[name] = open_client

    async def start(self, _: object) -> None:
        """Open the clients."""
        backend = type(self.broker.result_backend)
        if backend.set_progress is AsyncResultBackend.set_progress:
            raise ValueError(
                f"{backend.__name__} stores no progress: give the broker a result backend that does"
            )
        if isinstance(getattr(self.broker.result_backend, "serializer", None), PickleSerializer):
            log.warning(
                "%s unpickles what it reads, so that any process which may write there can run code"
                " here: give it serializer=JSONSerializer()",
                backend.__name__,
            )
        self._is_stopping = False
        for name, open_client in self._open_client.items():
            self.clients[name] = await self._closing.enter_async_context(open_client())
        receiver_log = logging.getLogger("taskiq.receiver.receiver")
        receiver_log.addFilter(self.task_log)
        self._closing.callback(receiver_log.removeFilter, self.task_log)
        if self.broker.is_worker_process and current_thread() is main_thread():
            self._listen_to_signals()
        again = idle_timeout(self.broker)
        if again is not None:
            waking = asyncio.create_task(self._stay_awake(again / 2))
            self._closing.push_async_callback(_end, waking)

    async def close(self, _: object) -> None:
        """Send the active tasks back to the broker, and close the clients."""
        self.stop()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        await self._closing.aclose()
        self.clients.clear()

    def stop(self) -> None:
        """End all legs now, and later ones as they start."""
        self._is_stopping = True
        for limit in self._limits:
            with suppress(RuntimeError):  # it has expired already
                limit.reschedule(asyncio.get_running_loop().time())

    def _listen_to_signals(self) -> None:
        """Stop at once: taskiq fires its shutdown event only after all tasks, maybe in hours."""
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if callable(before):
                signal.signal(number, partial(self._on_signal, asyncio.get_running_loop(), before))
                self._closing.callback(signal.signal, number, before)

    def _on_signal(self, loop: asyncio.AbstractEventLoop, before: Any, *signal_args: Any) -> None:
        loop.call_soon_threadsafe(self.stop)
        before(*signal_args)

    async def _stay_awake(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            with suppress(SendTaskError):  # the broker is unreachable for now
                await self.wake.kicker().with_task_id(self.wake.task_name).kiq()

    async def in_leg(
        self, work: Awaitable[T], seconds: float, resend: Callable[[], Awaitable[None]]
    ) -> T:
        """The result of `work`. If it takes longer, `resend` and end without a result."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if self.broker.is_worker_process:
            task.add_done_callback(self._tasks.discard)  # after it has acknowledged its message
        limit = asyncio.timeout(0.0 if self._is_stopping else seconds)
        try:
            async with limit:
                self._limits.add(limit)
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._limits.discard(limit)
            if not self.broker.is_worker_process:
                self._tasks.discard(task)
        if self._is_stopping:
            if not self.broker.is_worker_process:
                raise TaskFailed(
                    "Stopped",
                    "the broker was shut down before the export finished",
                    details={"is_transient": True},
                )
            await asyncio.sleep(_STILL_LISTENING)
        await resend()
        raise NoResultError

    async def read(self, name: str) -> dict[str, Any]:
        """The fields that a worker stored under this name; empty if there are none."""
        progress = await self.broker.result_backend.get_progress(name)
        return {} if progress is None else progress.meta or {}

    async def write(self, name: str, state: str, meta: dict[str, Any]) -> None:
        """Store fields for all workers, as the progress of a task of this name."""
        await self.broker.result_backend.set_progress(name, TaskProgress(state=state, meta=meta))


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
