"""The tasks of a broker as their senders use them: typed, and checked before they are sent."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from os import PathLike
from typing import Any, TypeVar, cast

from taskiq import (
    AsyncBroker,
    AsyncTaskiqDecoratedTask,
    AsyncTaskiqTask,
    Context,
    ScheduleSource,
)
from taskiq.kicker import AsyncKicker
from taskiq.scheduler.created_schedule import CreatedSchedule
from taskiq.scheduler.scheduled_task import CronSpec

from itwin_export_async import AuthenticationType, ExportOptions, IfActive, RunHandle
from itwin_export_async.taskiq._arguments import (
    DAY,
    check_destination,
    check_timeout,
    export_message,
)
from itwin_export_async.taskiq._follow import ExportResult
from itwin_export_async.taskiq._tracing import trace_labels

T = TypeVar("T", bound="CheckedTask")


class CheckedKicker(AsyncKicker[..., Any]):
    """Sends a task or schedules it, after its arguments were checked."""

    to_message: Callable[..., dict[str, Any]]

    async def kiq(self, *args: Any, **kwargs: Any) -> AsyncTaskiqTask[ExportResult]:
        """Send the task."""
        message = self.to_message(*args, **kwargs)
        self.labels.update(trace_labels())
        return await super().kiq(**message)

    async def schedule_by_cron(
        self, source: ScheduleSource, cron: str | CronSpec, *args: Any, **kwargs: Any
    ) -> CreatedSchedule[Any]:
        """Send the task whenever the cron expression says."""
        message = self.to_message(*args, **kwargs)
        return await super().schedule_by_cron(source, cron, **message)

    async def schedule_by_interval(
        self, source: ScheduleSource, interval: int | timedelta, *args: Any, **kwargs: Any
    ) -> CreatedSchedule[Any]:
        """Send the task every so many seconds."""
        message = self.to_message(*args, **kwargs)
        return await super().schedule_by_interval(source, interval, **message)

    async def schedule_by_time(
        self, source: ScheduleSource, time: datetime, *args: Any, **kwargs: Any
    ) -> CreatedSchedule[Any]:
        """Send the task at this time."""
        message = self.to_message(*args, **kwargs)
        return await super().schedule_by_time(source, time, **message)


class CheckedTask(AsyncTaskiqDecoratedTask[..., Any]):
    """A task of taskiq whose arguments are checked by the sender."""

    to_message: Callable[..., dict[str, Any]]

    def kicker(self) -> CheckedKicker:
        """A kicker of taskiq, with which labels and ids are set."""
        labels = {name: value for name, value in self.labels.items() if name != "schedule"}
        kicker = CheckedKicker(self.task_name, self.broker, labels)
        kicker.to_message = self.to_message
        return kicker

    def _add_cron(self, cron: str, cron_offset: str | timedelta | None, **message: Any) -> None:
        schedule: dict[str, Any] = {
            "cron": cron,
            "cron_offset": cron_offset,
            "args": [],
            "kwargs": message,
        }
        self.labels.setdefault("schedule", []).append(schedule)


class ExportTask(CheckedTask):
    """The task `export_imodel`: connection, run, wait, download."""

    to_message = staticmethod(export_message)

    async def kiq(
        self,
        imodel_id: str,
        destination: str | PathLike[str],
        options: ExportOptions | Mapping[str, Any] | None = None,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
        if_active: IfActive = "wait",
        timeout: float | None = DAY,
        *,
        task_id: str | None = None,
    ) -> AsyncTaskiqTask[ExportResult]:
        """Send an export to the workers. The arguments are those of `ExportClient.export_imodel`.

        `options`: also a JSON object with the members of `ExportOptions`. `destination` is a path
        on the worker's disk. `timeout` counts from the start of the run, None for no limit.
        `task_id`: sent again with the same id, it is the same export, and its run is not started
        again; None is a new id.

        Raises a `ValueError` or `TypeError` that names the wrong argument or option.
        """
        return (
            await self.kicker()
            .with_task_id(task_id)
            .kiq(
                imodel_id,
                destination,
                options,
                display_name,
                authentication_type,
                if_active,
                timeout,
            )
        )

    def add_cron(
        self,
        cron: str,
        imodel_id: str,
        destination: str | PathLike[str],
        options: ExportOptions | Mapping[str, Any] | None = None,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
        if_active: IfActive = "wait",
        timeout: float | None = DAY,
        *,
        cron_offset: str | timedelta | None = None,
    ) -> None:
        """Add a schedule to the label `schedule`, which taskiq's `LabelScheduleSource` reads.

        `cron`: such as `"0 2 * * *"`, in UTC, or in the time zone `cron_offset`. The other
        arguments as for `kiq`.
        """
        message = export_message(
            imodel_id, destination, options, display_name, authentication_type, if_active, timeout
        )
        self._add_cron(cron, cron_offset, **message)


def follow_message(
    resume_token: str | RunHandle,
    destination: str | PathLike[str],
    timeout: float | None = DAY,
    sas_url: str | None = None,
    imodel_id: str | None = None,
) -> dict[str, Any]:
    """The message of a call of `follow_run`."""
    token = resume_token.resume_token if isinstance(resume_token, RunHandle) else resume_token
    if not isinstance(token, str) or not token:
        raise TypeError(f"resume_token must be a text or a RunHandle, not {type(token).__name__}")
    return {
        "resume_token": token,
        "destination": check_destination(destination),
        "timeout": check_timeout(timeout),
        "sas_url": sas_url,
        "imodel_id": imodel_id,
    }


class FollowTask(CheckedTask):
    """The task `follow_run`: wait, download."""

    to_message = staticmethod(follow_message)

    async def kiq(
        self,
        resume_token: str | RunHandle,
        destination: str | PathLike[str],
        timeout: float | None = DAY,
        sas_url: str | None = None,
        imodel_id: str | None = None,
        *,
        task_id: str | None = None,
    ) -> AsyncTaskiqTask[ExportResult]:
        """Send a started run to the workers, which wait for it and download its output.

        `timeout`: seconds from now, None for no limit; a deadline in the token goes before it.
        `sas_url`: the caller's own blob that the run writes to. `imodel_id`: for log records and
        `deliver`.
        """
        return (
            await self.kicker()
            .with_task_id(task_id)
            .kiq(resume_token, destination, timeout, sas_url, imodel_id)
        )


def register_checked(
    broker: AsyncBroker, kind: type[T], function: Callable[..., Any], name: str
) -> T:
    """Register a function as a task of this class."""
    usual = broker.decorator_class
    broker.decorator_class = cast(Any, kind)
    try:
        task = broker.register_task(function, name)
    finally:
        broker.decorator_class = usual
    assert isinstance(task, kind)
    task.return_type = None  # or taskiq warns of each result that is an error
    return task


async def send_on(task: CheckedTask, context: Context, **message: Any) -> None:
    """Send a task that continues this one, under its id and with its labels."""
    kicker = task.kicker().with_task_id(context.message.task_id)
    kicker.labels = dict(context.message.labels)
    await kicker.kiq(**message)
