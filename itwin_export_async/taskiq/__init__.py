"""Exports as tasks of a taskiq broker. Needs the extra `taskiq`.

    broker = RedisStreamBroker(URL, xread_count=1, unacknowledged_lock_timeout=30)
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL))
    exports = register(broker)

    sent = await exports.export_imodel.kiq(imodel_id, "/srv/exports/")
    result = await sent.wait_result(timeout=3600)

`export_imodel` starts the run and sends its token to `follow_run` under the same task id, so that
the sender's `wait_result` returns the paths of the files. State that must outlive a worker is in
the message (the token) or in the result backend (that a run may have been started, and when). A
repeated delivery uses this state, and starts nothing twice.

A broker repeats a message that is not acknowledged in time, even if its worker is alive. So a task
works in legs: before that time it sends itself again and acknowledges. A worker that has to stop
ends its legs at once.
"""

from collections.abc import Callable
from typing import Annotated, Any
from uuid import uuid4

from attrs import frozen

from itwin_export_async._client import ExportClient
from itwin_export_async._models import ExportOptions, ExportRequest, InputOptions, OutputOptions
from itwin_export_async._runs.deadline import DEFAULT_TIMEOUT
from itwin_export_async._runs.starter import user_blob_url, validate_if_active

try:
    from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, Context, TaskiqDepends, TaskiqEvents
    from taskiq.exceptions import NoResultError
except ImportError as exc:
    raise ImportError(
        "itwin_export_async.taskiq needs taskiq: pip install 'itwin-export-async[taskiq]'"
    ) from exc

from itwin_export_async.taskiq._failing import TaskFailed, failing_as_text
from itwin_export_async.taskiq._follow import Follow
from itwin_export_async.taskiq._start import ProgressStore, start_once
from itwin_export_async.taskiq._worker import Worker, leg_of

__all__ = ["ExportTasks", "TaskFailed", "register"]


@frozen(kw_only=True)
class ExportTasks:
    """The tasks of a broker; `await tasks.export_imodel.kiq(...)` sends one.

    Both return `{"connection_id", "run_id", "token", "outcome", "paths"}`, or fail with
    `TaskFailed`. Until then the task's progress has the state of the run, and its token in `meta`.
    """

    export_imodel: AsyncTaskiqDecoratedTask[..., Any]
    """`(imodel_id, destination, options=None, display_name=None, authentication_type=None,
    if_active="wait", timeout=86400)`, as `ExportClient.export_imodel` takes them; `options` are
    those of `ExportOptions` as a JSON object, `timeout` counts from the start of the run."""

    follow_run: AsyncTaskiqDecoratedTask[..., Any]
    """`(token, destination, timeout=86400, sas_url=None)`: waits for the run of a token and
    downloads its output. `sas_url`: the caller's own blob that the run writes to."""


def register(
    broker: AsyncBroker,
    *,
    client: Callable[[], ExportClient] = ExportClient.from_env,
    leg: float | None = None,
) -> ExportTasks:
    """Register the tasks `itwin_export_async:export_imodel` and `itwin_export_async:follow_run`.

    `client` creates the client that a worker opens as it starts and closes as it stops. `leg`:
    seconds after which an unfinished task sends itself again. None means two fifths of the
    broker's `idle_timeout`, or ten minutes without one. The longest download must fit into the
    rest of the `idle_timeout`.

    The broker needs a result backend that stores progress; without one its workers raise
    `ValueError` as they start.
    """
    worker = Worker(broker=broker, open_client=client, leg=leg_of(broker, leg))

    async def follow_run(
        token: str,
        destination: str,
        timeout: float | None = DEFAULT_TIMEOUT,
        sas_url: str | None = None,
        *,
        context: Annotated[Context, TaskiqDepends()],
    ) -> dict[str, Any]:
        if await broker.result_backend.is_result_ready(context.message.task_id):
            raise NoResultError  # its worker died before it acknowledged the message
        with failing_as_text():
            handle = worker.resume(token, timeout, sas_url)
            follow = Follow(worker, context.message.task_id, uuid4().hex, handle, destination)

            async def resend() -> None:
                await follow.check()
                more = {"timeout": timeout, "sas_url": sas_url}
                await _send(tasks.follow_run, context, handle.resume_token, destination, **more)

            return await worker.in_leg(follow.result(), resend)

    async def export_imodel(
        imodel_id: str,
        destination: str,
        options: dict[str, Any] | None = None,
        display_name: str | None = None,
        authentication_type: str | None = None,
        if_active: str = "wait",
        timeout: float | None = DEFAULT_TIMEOUT,
        *,
        context: Annotated[Context, TaskiqDepends()],
    ) -> dict[str, Any]:
        message = context.message

        async def resend() -> None:
            await _send(tasks.export_imodel, context, *message.args, **message.kwargs)

        with failing_as_text():
            request = ExportRequest(
                imodel_id=imodel_id,
                destination=destination,
                options=_options(options),
                display_name=display_name,
                key=message.task_id,
            )
            start = start_once(
                worker.client,
                ProgressStore(broker.result_backend),
                request,
                if_active=validate_if_active(if_active),
                authentication_type=authentication_type,
            )
            handle = await worker.in_leg(start, resend)
            token = worker.resume(handle.resume_token, timeout).resume_token
        more = {
            "timeout": timeout,
            "sas_url": None if handle.joined else user_blob_url(request.options),
        }
        await _send(tasks.follow_run, context, token, destination, **more)
        raise NoResultError  # `follow_run` will set the result

    async def wake() -> None:
        """Do nothing: a stream broker reclaims old messages only after a new one."""

    name = "itwin_export_async"
    tasks = ExportTasks(
        export_imodel=broker.register_task(export_imodel, f"{name}:export_imodel"),
        follow_run=broker.register_task(follow_run, f"{name}:follow_run"),
    )
    worker.wake = broker.register_task(wake, f"{name}:wake")
    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, worker.start)
    broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, worker.close)
    return tasks


def _options(values: dict[str, Any] | None) -> ExportOptions:
    kinds = {"input": InputOptions, "output": OutputOptions}
    parts = {} if values is None else dict(values)
    for name in kinds.keys() & parts.keys():
        parts[name] = kinds[name](**parts[name])
    return ExportOptions(**parts)


async def _send(
    task: AsyncTaskiqDecoratedTask[..., Any], context: Context, *args: Any, **kwargs: Any
) -> None:
    """Send a task that continues this one, under its id."""
    kicker = task.kicker().with_task_id(context.message.task_id)
    kicker.labels = dict(context.message.labels)  # older kickers share the labels of the task
    await kicker.kiq(*args, **kwargs)
