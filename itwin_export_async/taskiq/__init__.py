"""Exports as tasks of a taskiq broker. Needs the extra `taskiq`.

    results = RedisAsyncResultBackend(
        URL,
        serializer=JSONSerializer(),  # the default reads pickles from Redis
        result_ex_time=7 * 24 * 3600,  # results and notes of starts expire after a week
    )
    broker = RedisStreamBroker(URL, xread_count=1, unacknowledged_lock_timeout=30)
    broker = broker.with_result_backend(results)
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
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import uuid4

from attrs import evolve, frozen

from itwin_export_async import ExportClient, RunHandle

try:
    from taskiq import AsyncBroker, Context, TaskiqDepends
    from taskiq.exceptions import NoResultError
except ImportError as exc:
    raise ImportError(
        "itwin_export_async.taskiq needs taskiq: pip install 'itwin-export-async[taskiq]'"
    ) from exc

from itwin_export_async.taskiq._arguments import DAY, ExportArguments, user_blob_url
from itwin_export_async.taskiq._failing import TaskFailed, failing_as_text
from itwin_export_async.taskiq._follow import Deliver, ExportResult, Follow
from itwin_export_async.taskiq._start import ProgressStore, TaskStart
from itwin_export_async.taskiq._tasks import (
    CheckedKicker,
    ExportTask,
    FollowTask,
    register_checked,
    send_on,
)
from itwin_export_async.taskiq._tracing import continued_trace
from itwin_export_async.taskiq._worker import Worker, leg_of

__all__ = [
    "CheckedKicker",
    "Deliver",
    "ExportResult",
    "ExportTask",
    "ExportTasks",
    "FollowTask",
    "TaskFailed",
    "register",
]

NAME = "itwin_export_async"


@frozen(kw_only=True)
class ExportTasks:
    """The tasks of one tenant of a broker; `await tasks.export_imodel.kiq(...)` sends one.

    Both return an `ExportResult`, or fail with `TaskFailed`. Until then the task's progress has the
    state of the run, and its ids and resume token in `meta`.
    """

    export_imodel: ExportTask
    follow_run: FollowTask


def register(
    broker: AsyncBroker,
    *,
    name: str = NAME,
    client: Callable[[], ExportClient] = ExportClient.from_env,
    leg: float | None = None,
    max_outage: float = 900.0,
    deliver: Deliver | None = None,
) -> ExportTasks:
    """Register the tasks `NAME:export_imodel` and `NAME:follow_run`.

    `name` separates tenants: each has tasks of its own, which use its `client`. A name that is
    registered already is a `ValueError`. `client` creates the client that a worker opens as it
    starts and closes as it stops. `leg`: seconds after which an unfinished task sends itself again.
    None means two fifths of the broker's `idle_timeout`, or ten minutes without one. The longest
    download must fit into the rest of the `idle_timeout`. `max_outage`: seconds for which a start
    or a download is tried again while the service does not answer. `deliver(outcome)` is called
    with the `ExportOutcome` when its files are on the worker's disk, to bring them elsewhere. It
    may be async, and be called again for a task that is delivered again. What it returns is the
    member `delivered` of the result.

    The broker needs a result backend that stores progress; without one its workers raise
    `ValueError` as they start.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name must be a text that is not empty, not {name!r}")
    leg = leg_of(broker, leg)
    worker = Worker.of(broker)
    worker.add_tenant(name, client)

    async def is_done(context: Context) -> bool:
        """Whether the message comes again: its worker died before it acknowledged it."""
        return bool(await broker.result_backend.is_result_ready(context.message.task_id))

    async def follow_run(
        resume_token: str,
        destination: str,
        timeout: float | None = DAY,
        sas_url: str | None = None,
        imodel_id: str | None = None,
        *,
        context: Annotated[Context, TaskiqDepends()],
    ) -> ExportResult:
        task_id = context.message.task_id
        if await is_done(context):
            raise NoResultError
        with continued_trace(context.message.labels), failing_as_text(task_id):
            handle = worker.clients[name].resume(resume_token)
            _set_deadline(handle, timeout)
            handle = evolve(handle, imodel_id=imodel_id)
            follow = Follow(
                worker=worker,
                client=worker.clients[name],
                task_id=task_id,
                note=f"{name}:follow:{task_id}",
                leg=uuid4().hex,
                handle=handle,
                destination=destination,
                imodel_id=imodel_id,
                sas_url=sas_url,
                max_outage=max_outage,
                deliver=deliver,
            )

            async def resend() -> None:
                await follow.check()
                message = {"timeout": timeout, "sas_url": sas_url, "imodel_id": imodel_id}
                token = handle.resume_token
                await send_on(
                    tasks.follow_run,
                    context,
                    resume_token=token,
                    destination=destination,
                    **message,
                )

            outcome = await worker.in_leg(follow.run(), leg, resend)
        return await follow.result(outcome)

    async def export_imodel(
        imodel_id: str,
        destination: str,
        options: dict[str, Any] | None = None,
        display_name: str | None = None,
        authentication_type: str | None = None,
        if_active: str = "wait",
        timeout: float | None = DAY,
        *,
        context: Annotated[Context, TaskiqDepends()],
    ) -> None:
        task_id = context.message.task_id
        if await is_done(context):
            raise NoResultError
        with continued_trace(context.message.labels), failing_as_text(task_id):
            arguments = ExportArguments.parse(
                imodel_id,
                destination,
                options,
                display_name,
                authentication_type,
                if_active,
                timeout,
            )
            start = TaskStart(
                client=worker.clients[name],
                store=ProgressStore(broker.result_backend),
                key=f"{name}:{task_id}",
                arguments=arguments,
                max_outage=max_outage,
            )

            async def resend() -> None:
                await send_on(tasks.export_imodel, context, **arguments.to_json())

            handle = await worker.in_leg(start.run(), leg, resend)
            _set_deadline(handle, timeout)
            sas_url = None if handle.joined else user_blob_url(arguments.request.options)
            await send_on(
                tasks.follow_run,
                context,
                resume_token=handle.resume_token,
                destination=destination,
                timeout=timeout,
                sas_url=sas_url,
                imodel_id=imodel_id,
            )
        raise NoResultError  # `follow_run` will set the result

    tasks = ExportTasks(
        export_imodel=register_checked(broker, ExportTask, export_imodel, f"{name}:export_imodel"),
        follow_run=register_checked(broker, FollowTask, follow_run, f"{name}:follow_run"),
    )
    worker.task_log.task_names |= {tasks.export_imodel.task_name, tasks.follow_run.task_name}
    return tasks


def _set_deadline(handle: RunHandle, timeout: float | None) -> None:
    """Give the handle a deadline if it has none."""
    if handle.deadline is None and timeout is not None:
        handle.deadline = datetime.now(UTC) + timedelta(seconds=timeout)
