"""Exports as tasks of a queue: in memory and in virtual time, and with a real Redis."""

import asyncio
import importlib
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from taskiq import (
    AsyncTaskiqTask,
    InMemoryBroker,
    ScheduledTask,
    ScheduleSource,
    TaskiqResult,
    TaskiqScheduler,
)
from taskiq.brokers.inmemory_broker import InmemoryResultBackend
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.exceptions import NoResultError
from taskiq.kicker import AsyncKicker
from taskiq.message import BrokerMessage
from taskiq.receiver import Receiver
from taskiq.result_backends.dummy import DummyResultBackend
from taskiq.schedule_sources import LabelScheduleSource
from taskiq.serializers import JSONSerializer, PickleSerializer

from itwin_export_async import (
    ExportClient,
    ExportOptions,
    ExportOutcome,
    FixedSchedule,
    IfcVersion,
    InputOptions,
)
from itwin_export_async.emulator import Emulator
from itwin_export_async.taskiq import ExportTasks, TaskFailed, register
from tests.support.batches import started, tasks_left
from tests.support.fakes import answer
from tests.support.processes import until
from tests.support.redises import RedisServer
from tests.support.taskiq_worker import broker_at

README = Path(__file__).parents[2] / "README.md"


class Results(InmemoryResultBackend[Any]):
    """Results in memory. A worker that writes the note `dies_at` dies: nothing more is stored."""

    def __init__(self) -> None:
        super().__init__(max_stored_results=-1)
        self.is_dead = False
        self.dies_at: str | None = None

    async def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> None:
        self.is_dead = self.is_dead or (
            self.dies_at is not None and task_id.startswith(self.dies_at)
        )
        if self.is_dead:
            raise ConnectionError("the worker has died")
        await super().set_progress(task_id, progress)

    async def set_result(self, task_id: str, result: TaskiqResult[Any]) -> None:
        if not self.is_dead:
            await super().set_result(task_id, result)


class Queue(InMemoryBroker):
    """A broker in memory that records the messages, and can deliver them again."""

    def __init__(self) -> None:
        super().__init__()
        self.result_backend: Results = Results()
        self.sent: list[BrokerMessage] = []
        self.is_held = False

    async def kick(self, message: BrokerMessage) -> None:
        self.sent.append(message)
        if not self.is_held:
            await super().kick(message)

    async def deliver(self, message: BrokerMessage) -> None:
        await self.receiver.callback(message.message)

    @property
    def names(self) -> list[str]:
        return [message.task_name.partition(":")[2] for message in self.sent]


@pytest.fixture
def queue() -> Queue:
    return Queue()


@asynccontextmanager
async def working(
    queue: InMemoryBroker, emulator: Emulator, **more: Any
) -> AsyncIterator[ExportTasks]:
    tasks = register(
        queue, client=lambda: ExportClient(emulator.token(lifetime=1e6), transport=emulator), **more
    )
    await queue.startup()
    try:
        yield tasks
    finally:
        await queue.shutdown()
        assert not tasks_left()


async def ended(sent: AsyncTaskiqTask[Any]) -> Any:
    return (await sent.wait_result(timeout=1e6)).raise_for_error().return_value


async def test_an_export_ends_on_disk_and_its_result_is_json(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    emulator.plan_next_run(imodel_id, duration=300)
    async with working(queue, emulator) as tasks:
        options = {"ifc_version": "IFC2x3", "input": {"model_ids": ["0x1"]}}
        sent = await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}", options)
        result = await ended(sent)
        progress = await sent.get_progress()
    assert json.loads(json.dumps(result)) == result
    assert result["outcome"] == "Success"
    assert result["paths"] == [str(tmp_path / "Bridge.ifc")]
    assert b"IFC2X3" in (tmp_path / "Bridge.ifc").read_bytes()
    assert progress is not None
    assert progress.state == "Completed"
    assert progress.meta == {
        name: result[name] for name in ("connection_id", "run_id", "resume_token")
    }
    assert queue.names == ["export_imodel", "follow_run"]


async def test_a_long_wait_continues_in_messages_of_one_task(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=1000)
    async with working(queue, emulator, leg=100) as tasks:
        sent = (
            await tasks.export_imodel.kicker()
            .with_labels(colour="red")
            .kiq(imodel_id, f"{tmp_path}")
        )
        await ended(sent)
    assert queue.names == ["export_imodel", *["follow_run"] * 11]
    assert {message.task_id for message in queue.sent} == {sent.task_id}
    assert {message.labels["colour"] for message in queue.sent} == {"red"}
    assert not tasks.follow_run.labels
    assert emulator.count("create_run") == 1


async def test_a_run_that_was_started_elsewhere_is_followed(
    queue: Queue, client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    connection = await client.create_connection(emulator.add_imodel("Bridge"))
    run = await client.start_run(connection.id)
    async with working(queue, emulator) as tasks:
        result = await ended(
            await tasks.follow_run.kiq(run.resume_token, f"{tmp_path}", timeout=None)
        )
    assert result["run_id"] == run.run_id
    assert result["resume_token"] == run.resume_token  # no deadline was put into it
    assert result["paths"] == [str(tmp_path / "Bridge.ifc")]


@pytest.mark.usefixtures("integration")  # a deadline is a date, and dates know no virtual time
async def test_the_deadline_holds_through_all_legs(
    queue: Queue, client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, duration=50)
    async with working(queue, emulator, leg=0.2) as tasks:
        sent = await tasks.export_imodel.kiq(imodel_id, "out/", timeout=1.0)
        with pytest.raises(TaskFailed, match="RunTimeout") as failed:
            await ended(sent)
    assert queue.names.count("follow_run") > 1
    assert failed.value.resume_token
    assert client.resume(failed.value.resume_token).deadline is None


async def test_a_failed_run_is_reported_as_text(queue: Queue, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    async with working(queue, emulator) as tasks:
        with pytest.raises(TaskFailed, match=r"RunFailed: run .* ended with Error") as failed:
            await ended(await tasks.export_imodel.kiq(imodel_id, "out/"))
    assert failed.value.resume_token
    again = pickle.loads(pickle.dumps(failed.value))
    assert again.args == failed.value.args
    assert json.loads(json.dumps(again.args)) == list(again.args)


WRONG = [
    ({"imodel_id": ""}, ValueError, "imodel_id"),
    ({"destination": "s3://bucket/a.ifc"}, ValueError, "deliver="),
    ({"destination": b"out"}, TypeError, "destination must be a string or a path"),
    ({"options": {"ifcVersion": "IFC4.3"}}, TypeError, "no member 'ifcVersion'; did you mean 'ifc"),
    ({"options": {"input": {"models": []}}}, TypeError, "options.input has no member 'models'"),
    ({"options": {"zzzz": 1}}, TypeError, "options has no member 'zzzz'$"),
    ({"options": "IFC"}, TypeError, "options must be ExportOptions or a JSON object, not str"),
    ({"options": {"output": {"location": "USER_BLOB_STORAGE"}}}, ValueError, "output_sas_url"),
    ({"if_active": "often"}, ValueError, "if_active must be 'join', 'wait' or 'raise'"),
    ({"authentication_type": "Robot"}, ValueError, "authentication_type must be one of 'User'"),
    ({"timeout": 0}, ValueError, "timeout must be more than 0 seconds"),
    ({"timeout": "1 h"}, TypeError, "timeout must be seconds or None, not str"),
]


@pytest.mark.parametrize(("arguments", "kind", "words"), WRONG)
async def test_wrong_arguments_are_refused_by_the_sender_and_by_the_worker(
    queue: Queue,
    emulator: Emulator,
    arguments: dict[str, Any],
    kind: type[Exception],
    words: str,
) -> None:
    wanted = {"imodel_id": emulator.add_imodel(), "destination": "out/", **arguments}
    async with working(queue, emulator) as tasks:
        with pytest.raises(kind, match=words):
            await tasks.export_imodel.kiq(**wanted)
        with pytest.raises(kind, match=words):
            tasks.export_imodel.add_cron("0 2 * * *", **wanted)
        if arguments != {"destination": b"out"}:  # no JSON
            sender = AsyncKicker[..., Any](tasks.export_imodel.task_name, queue, {})
            with pytest.raises(TaskFailed, match=words) as failed:
                await ended(await sender.kiq(**wanted))
            assert (failed.value.kind, failed.value.resume_token) == (kind.__name__, None)
    assert not emulator.requests


async def test_a_refusal_of_the_service_is_a_failure_with_its_facts(
    queue: Queue, emulator: Emulator
) -> None:
    async with working(queue, emulator) as tasks:
        with pytest.raises(TaskFailed) as failed:
            await ended(await tasks.export_imodel.kiq("unknown", "out/"))
    error = failed.value
    assert (error.kind, error.details["status"], error.is_transient) == (
        "InvalidRequest",
        422,
        False,
    )
    assert error.public == error.details["public"] != TaskFailed("Stopped", "").public


async def test_a_wrong_resume_token_is_refused(queue: Queue, emulator: Emulator) -> None:
    async with working(queue, emulator) as tasks:
        with pytest.raises(TypeError, match="resume_token must be a text or a RunHandle, not int"):
            await tasks.follow_run.kiq(7, "out/")  # type: ignore[arg-type]
        with pytest.raises(TaskFailed, match="not a valid resume token"):
            await ended(await tasks.follow_run.kiq("nonsense", "out/"))


async def test_options_travel_as_json(queue: Queue, emulator: Emulator, tmp_path: Path) -> None:
    options = ExportOptions(
        ifc_version=IfcVersion.IFC2X3, input=InputOptions(model_ids=("0x1", "0x2"))
    )
    async with working(queue, emulator) as tasks:
        imodel_id = emulator.add_imodel("Bridge")
        sent = await tasks.export_imodel.kiq(
            imodel_id, tmp_path, options, authentication_type="service"
        )
        await ended(sent)
    message = json.loads(queue.sent[0].message)["kwargs"]
    assert message["options"] == {
        "export_type": "IFC",
        "ifc_version": "IFC2x3",
        "input": {"model_ids": ["0x1", "0x2"]},
        "output": {},
    }
    assert message["authentication_type"] == "Service"
    assert b"IFC2X3" in (tmp_path / "Bridge.ifc").read_bytes()


async def test_a_task_that_is_sent_again_under_its_id_is_one_export(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    async with working(queue, emulator) as tasks:
        for _ in range(2):
            sent = await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}", task_id="bridge-42")
        await ended(sent)
        await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}", task_id="bridge-42")
        await queue.wait_all()
    assert sent.task_id == "bridge-42"
    assert emulator.count("create_run") == 1


async def test_a_cron_label_sends_an_export_at_each_of_its_times(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    async with working(queue, emulator) as tasks:
        tasks.export_imodel.add_cron("0 2 * * *", imodel_id, tmp_path, cron_offset="Europe/Paris")
        source = LabelScheduleSource(queue)
        scheduler = TaskiqScheduler(queue, [source])
        await source.startup()
        (schedule,) = await source.get_schedules()
        assert (schedule.cron, schedule.cron_offset) == ("0 2 * * *", "Europe/Paris")
        for _ in range(2):
            await scheduler.on_ready(source, schedule)
            for _ in ("export_imodel", "follow_run"):
                await queue.wait_all()
        await ended(await tasks.export_imodel.kiq(imodel_id, tmp_path))
        assert not any("schedule" in message.labels for message in queue.sent)
    assert started(emulator) == 3


class Schedules(ScheduleSource):
    """A source that keeps what is scheduled."""

    def __init__(self) -> None:
        self.added: list[ScheduledTask] = []

    async def get_schedules(self) -> list[ScheduledTask]:
        return self.added

    async def add_schedule(self, schedule: ScheduledTask) -> None:
        self.added.append(schedule)


async def test_a_schedule_is_checked_as_it_is_made(queue: Queue, emulator: Emulator) -> None:
    task, source = register(queue).export_imodel, Schedules()
    await task.schedule_by_cron(source, "0 2 * * *", "i", "out/")
    await task.schedule_by_interval(source, 60, "i", "out/")
    await task.schedule_by_time(source, datetime(2040, 1, 1, tzinfo=UTC), "i", "out/")
    assert [schedule.kwargs["destination"] for schedule in source.added] == ["out/"] * 3
    with pytest.raises(TypeError, match="no member"):
        await task.schedule_by_cron(source, "0 2 * * *", "i", "out/", {"zzzz": 1})


async def test_two_tenants_use_their_own_clients(queue: Queue, tmp_path: Path) -> None:
    emulators = {name: Emulator(seed=1) for name in ("north", "south")}
    exports = {}
    for name, emulator in emulators.items():
        exports[name] = register(
            queue, name=name, client=partial(ExportClient, emulator.token(), transport=emulator)
        )
    with pytest.raises(ValueError, match="registered as 'north' on this broker already"):
        register(queue, name="north")
    await queue.startup()
    for name, tasks in exports.items():
        imodel_id = emulators[name].add_imodel(name)
        result = await ended(
            await tasks.export_imodel.kiq(imodel_id, tmp_path / name, task_id=f"{name}-1")
        )
        assert result["paths"] == [str(tmp_path / name / f"{name}.ifc")]
    await queue.shutdown()
    assert [emulator.count("create_run") for emulator in emulators.values()] == [1, 1]


def test_a_tenant_needs_a_name(queue: Queue) -> None:
    with pytest.raises(ValueError, match="name must be a text"):
        register(queue, name=" ")


@pytest.mark.parametrize("is_async", [True, False])
async def test_files_are_delivered_elsewhere(
    queue: Queue, client: ExportClient, emulator: Emulator, tmp_path: Path, is_async: bool
) -> None:
    seen: list[ExportOutcome] = []

    def deliver(outcome: ExportOutcome) -> Any:
        seen.append(outcome)
        urls = [f"s3://bucket/{path.name}" for path in outcome.paths]
        return as_future(urls) if is_async else urls

    imodel_id = emulator.add_imodel("Bridge")
    connection = await client.create_connection(imodel_id)
    run = await client.start_run(connection.id)
    async with working(queue, emulator, deliver=deliver) as tasks:
        first = await ended(await tasks.follow_run.kiq(run, tmp_path))
        second = await ended(await tasks.export_imodel.kiq(imodel_id, tmp_path, task_id="b"))
    assert first["delivered"] == second["delivered"] == ["s3://bucket/Bridge.ifc"]
    assert {outcome.request.imodel_id for outcome in seen} == {imodel_id}
    assert seen[1].request.key == "b"


async def as_future(value: Any) -> Any:
    return value


async def test_a_bug_in_deliver_is_the_error_of_the_task(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    def deliver(_: ExportOutcome) -> None:
        raise KeyError("bucket")

    async with working(queue, emulator, deliver=deliver) as tasks:
        with pytest.raises(KeyError, match="bucket"):
            await ended(await tasks.export_imodel.kiq(emulator.add_imodel(), tmp_path))


async def test_an_outage_before_and_after_the_run_is_waited_out(
    queue: Queue, emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "itwin_export_async.taskiq")
    async with working(queue, emulator) as tasks:
        emulator.inject("create_run", *[ConnectionRefusedError()] * 20)
        emulator.inject("download_file", *[answer(503)] * 20)
        sent = await tasks.export_imodel.kiq(emulator.add_imodel("Bridge"), tmp_path)
        assert (await ended(sent))["paths"] == [str(tmp_path / "Bridge.ifc")]
    ours = [r for r in caplog.records if r.name == "itwin_export_async.taskiq"]
    assert [record.levelname for record in ours] == ["WARNING", "INFO"] * 2
    assert emulator.count("create_run") > 20


async def test_an_outage_is_waited_out_no_longer_than_allowed(
    queue: Queue, emulator: Emulator
) -> None:
    async with working(queue, emulator, max_outage=60) as tasks:
        emulator.inject("create_run", *[ConnectionRefusedError()] * 200)
        with pytest.raises(TaskFailed, match="TransportError") as failed:
            await ended(await tasks.export_imodel.kiq(emulator.add_imodel(), "out/"))
    assert failed.value.is_transient


async def test_a_file_that_storage_never_shows_is_waited_for_once(
    queue: Queue, emulator: Emulator
) -> None:
    emulator.output_visibility_delay = 1e6
    async with working(queue, emulator) as tasks:
        with pytest.raises(TaskFailed, match=r"DownloadError: .* knows no such file"):
            await ended(await tasks.export_imodel.kiq(emulator.add_imodel(), "out/"))


async def test_a_run_that_was_never_read_has_no_outcome(
    queue: Queue, client: ExportClient, emulator: Emulator
) -> None:
    connection = await client.create_connection(emulator.add_imodel())
    run = await client.start_run(connection.id)
    emulator.inject("get_run", *[answer(503)] * 300)
    async with working(queue, emulator) as tasks:
        with pytest.raises(TaskFailed, match="RunUnreachable") as failed:
            await ended(await tasks.follow_run.kiq(run, "out/"))
    assert failed.value.resume_token
    assert failed.value.is_transient
    assert failed.value.details["run_id"] == run.run_id
    assert "outcome" not in failed.value.details


async def test_a_user_who_has_not_consented_is_asked_for_it(
    queue: Queue, emulator: Emulator
) -> None:
    emulator.user_authorized = False
    async with working(queue, emulator) as tasks:
        imodel_id = emulator.add_imodel()
        sent = await tasks.export_imodel.kiq(imodel_id, "out/", authentication_type="User")
        with pytest.raises(TaskFailed, match=r"AuthorizationRequired: .* they can at https://"):
            await ended(sent)
    assert emulator.count("create_run") == 0


async def test_a_backend_that_unpickles_is_warned_about(
    queue: Queue, emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    for serializer in (JSONSerializer(), PickleSerializer()):
        queue.result_backend.serializer = serializer  # type: ignore[attr-defined]
        async with working(queue, emulator, name=type(serializer).__name__):
            pass
    (record,) = warnings_of(caplog)
    assert "Results unpickles what it reads" in record.getMessage()


async def test_tasks_need_no_opentelemetry(
    queue: Queue, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itwin_export_async.taskiq._tracing.propagate", None)
    async with working(queue, emulator) as tasks:
        await ended(await tasks.export_imodel.kiq(emulator.add_imodel(), tmp_path))
    assert "traceparent" not in queue.sent[-1].labels


async def test_a_success_is_no_warning_and_a_failure_is_one_line(
    queue: Queue, emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    failing, other = emulator.add_imodel(), "unknown"
    emulator.plan_next_run(failing, "Error")
    async with working(queue, emulator, leg=30) as tasks:
        await ended(await tasks.export_imodel.kiq(imodel_id, tmp_path))
        assert not warnings_of(caplog)
        for wrong in (failing, other):
            caplog.clear()
            sent = await tasks.export_imodel.kiq(wrong, tmp_path)
            await sent.wait_result(timeout=1e6)
            (record,) = warnings_of(caplog)
            assert not record.exc_info
            assert "\n" not in record.getMessage()

        @queue.task
        async def another() -> None:
            raise NoResultError

        caplog.clear()
        await another.kiq()
        await queue.wait_all()
        assert len(warnings_of(caplog)) == 1  # taskiq's records of other tasks stay


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_trace_of_the_sender_goes_along_with_the_task(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    parent = trace.SpanContext(0x1234, 0x56, is_remote=False, trace_flags=trace.TraceFlags(1))
    seen: list[int] = []

    def deliver(outcome: ExportOutcome) -> list[str]:
        seen.append(trace.get_current_span().get_span_context().trace_id)
        return []

    def open_client() -> ExportClient:
        return ExportClient(emulator.token(), transport=emulator)

    tasks = register(queue, client=open_client, deliver=deliver)
    await queue.startup()
    with trace.use_span(trace.NonRecordingSpan(parent)):
        sent = await tasks.export_imodel.kiq(emulator.add_imodel(), tmp_path)
    await ended(sent)
    await queue.shutdown()
    assert "traceparent" in queue.sent[-1].labels
    assert seen == [0x1234]


async def test_a_failed_run_names_its_tasks(queue: Queue, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Error")
    async with working(queue, emulator) as tasks:
        with pytest.raises(TaskFailed) as failed:
            await ended(await tasks.export_imodel.kiq(imodel_id, "out/"))
    details = failed.value.details
    assert details["outcome"] == "Error"
    assert details["failures"][0].keys() == {"code", "text", "can_user_fix", "link"}
    assert details["run_id"] in failed.value.text
    assert json.loads(json.dumps(details)) == details


async def test_a_run_without_output_has_no_paths(queue: Queue, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Skipped")
    async with working(queue, emulator) as tasks:
        result = await ended(await tasks.export_imodel.kiq(imodel_id, "out/"))
    assert (result["outcome"], result["paths"]) == ("Skipped", [])


async def test_a_task_whose_start_was_stored_resumes_its_run(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    emulator.plan_next_run(imodel_id, duration=300)
    async with working(queue, emulator) as tasks:
        queue.is_held = True
        sent = await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}")
        for _ in range(2):
            await queue.deliver(queue.sent[0])
        queue.is_held = False
        for message in queue.sent[1:]:
            await queue.deliver(message)
        assert (await ended(sent))["paths"] == [str(tmp_path / "Bridge.ifc")]
    assert queue.names == ["export_imodel", "follow_run", "follow_run"]
    assert emulator.count("create_run") == 1


@pytest.mark.parametrize("later", [0, 3600])
async def test_a_run_is_not_started_again_after_its_worker_died_past_the_start(
    queue: Queue, emulator: Emulator, tmp_path: Path, later: float
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    async with working(queue, emulator) as tasks:
        queue.result_backend.dies_at = "itwin_export_async:run:"
        sent = await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}")
        await queue.wait_all()
        queue.result_backend.is_dead, queue.result_backend.dies_at = False, None
        await asyncio.sleep(later)
        await queue.deliver(queue.sent[0])
        assert (await ended(sent))["outcome"] == "Success"
    assert emulator.count("create_run") == 1


async def test_a_run_is_started_after_its_worker_died_before_the_start(
    queue: Queue, client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    async with working(queue, emulator) as tasks:
        emulator.inject("create_run", *[ConnectionResetError()] * 5)
        sent = await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}")
        queue.result_backend.is_dead = False
        await asyncio.sleep(0.2)
        queue.result_backend.is_dead = True
        await queue.wait_all()
        queue.result_backend.is_dead = False

        other = await ended(await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}/other.ifc"))
        await queue.deliver(queue.sent[0])
        result = await ended(sent)
    assert result["run_id"] != other["run_id"]
    (connection,) = await client.list_connections(imodel_id)
    assert len(await client.list_runs(connection.id)) == 2


async def test_a_repeated_delivery_of_a_finished_task_does_nothing(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    async with working(queue, emulator) as tasks:
        sent = await tasks.export_imodel.kiq(emulator.add_imodel("Bridge"), f"{tmp_path}")
        result = await ended(sent)
        before = len(emulator.requests)
        await queue.deliver(queue.sent[-1])
        assert await ended(sent) == result
    assert len(emulator.requests) == before


@pytest.mark.parametrize("leg", [100, 600])
async def test_the_later_of_two_messages_of_one_task_continues(
    queue: Queue, emulator: Emulator, tmp_path: Path, leg: float
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    emulator.plan_next_run(imodel_id, duration=150)
    async with working(queue, emulator, leg=leg) as tasks:
        sent = await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}")
        await asyncio.sleep(30)
        await queue.deliver(queue.sent[-1])
        assert (await ended(sent))["outcome"] == "Success"
        await queue.wait_all()
    assert queue.names.count("follow_run") == (2 if leg == 100 else 1)


async def test_a_task_waits_for_an_active_run(
    queue: Queue, client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    connection = await client.find_or_create_connection(imodel_id, display_name="itwin-export")
    run = await client.start_run(connection.id)
    async with working(queue, emulator, leg=100) as tasks:
        result = await ended(await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}"))
    assert result["run_id"] != run.run_id
    assert queue.names.count("export_imodel") > 1
    assert len(await client.list_runs(connection.id)) == 2


async def test_a_deleted_active_run_does_not_block_a_task(
    queue: Queue, client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    connection = await client.create_connection(imodel_id, display_name="another")
    emulator.plan_next_run(imodel_id, duration=60)
    await client.start_run(connection.id)
    gone = answer(404, '{"error": {"code": "ExportRunNotFound", "message": "gone"}}')
    async with working(queue, emulator) as tasks:
        emulator.inject("get_run", *[gone] * 12)
        await ended(await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}"))


async def test_a_wrong_address_is_not_taken_for_a_deleted_run(
    queue: Queue, client: ExportClient, emulator: Emulator
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    connection = await client.create_connection(imodel_id, display_name="another")
    await client.start_run(connection.id)
    wrong = answer(404, '{"error": {"code": "OperationNotFound", "message": "no such path"}}')
    async with working(queue, emulator) as tasks:
        emulator.inject("get_run", *[wrong] * 20)
        with pytest.raises(TaskFailed, match="NotFound"):
            await ended(await tasks.export_imodel.kiq(imodel_id, "out/"))


async def test_an_active_run_is_joined_or_refused(
    queue: Queue, client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel("Bridge")
    connection = await client.create_connection(imodel_id, display_name="another")
    run = await client.start_run(connection.id)
    async with working(queue, emulator) as tasks:
        with pytest.raises(TaskFailed, match="Conflict: 303"):
            await ended(await tasks.export_imodel.kiq(imodel_id, "out/", if_active="raise"))
        queue.is_held = True
        sent = await tasks.export_imodel.kiq(imodel_id, f"{tmp_path}", if_active="join")
        joining = queue.sent[-1]
        for _ in range(2):  # the second time from what is noted
            await queue.deliver(joining)
        queue.is_held = False
        await queue.deliver(queue.sent[-1])
        assert (await ended(sent))["run_id"] == run.run_id


async def test_output_in_a_blob_of_the_caller_is_downloaded_from_there(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    options = {
        "output": {"location": "USER_BLOB_STORAGE", "output_sas_url": emulator.user_blob("a.ifc")}
    }
    async with working(queue, emulator, leg=60) as tasks:
        sent = await tasks.export_imodel.kiq(
            emulator.add_imodel("Bridge"), f"{tmp_path}/a.ifc", options
        )
        assert (await ended(sent))["paths"] == [f"{tmp_path}/a.ifc"]
    assert queue.names.count("follow_run") > 1


async def test_tasks_fail_when_a_broker_in_memory_shuts_down(
    queue: Queue, emulator: Emulator
) -> None:
    async with working(queue, emulator) as tasks:
        sent = await tasks.export_imodel.kiq(emulator.add_imodel(), "out/")
        await asyncio.sleep(30)
    with pytest.raises(TaskFailed, match="Stopped"):
        await ended(sent)


async def test_a_stopping_worker_sends_its_waits_back(
    queue: Queue, emulator: Emulator, tmp_path: Path
) -> None:
    async with working(queue, emulator) as tasks:
        queue.is_worker_process = True
        sent = await tasks.export_imodel.kiq(emulator.add_imodel("Bridge"), f"{tmp_path}")
        await asyncio.sleep(30)
        queue.is_held = True
        await tasks.export_imodel.kiq(emulator.add_imodel("Tower"), f"{tmp_path}")
        began = asyncio.get_running_loop().time()
        await asyncio.gather(queue.shutdown(), queue.deliver(queue.sent[-1]))
        assert asyncio.get_running_loop().time() - began < 2
        assert not await sent.is_ready()
    left = queue.sent[-2:]
    async with working(next_one := Queue(), emulator):
        next_one.result_backend = queue.result_backend
        await asyncio.gather(*map(next_one.deliver, left))
        for message in left:
            task = AsyncTaskiqTask[Any](message.task_id, queue.result_backend)
            assert (await ended(task))["outcome"] == "Success"
    assert emulator.count("create_run") == 2


@pytest.mark.usefixtures("integration")
async def test_a_signal_ends_the_legs_and_reaches_the_previous_handler(queue: Queue) -> None:
    emulator = Emulator(seed=1, run_seconds=50)
    handled: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        queue.is_worker_process = True
        async with working(queue, emulator) as tasks:
            imodel_id = emulator.add_imodel()
            emulator.plan_next_run(imodel_id, duration=1000)
            await tasks.export_imodel.kiq(imodel_id, "out/")
            await until(lambda: len(queue.sent) == 2)
            queue.is_held = True
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(queue.wait_all(), 60)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert handled == [signal.SIGTERM]
    assert queue.names == ["export_imodel", "follow_run", "follow_run"]


async def test_a_stream_broker_is_kept_awake(queue: Queue, emulator: Emulator) -> None:
    queue.idle_timeout = 600_000  # type: ignore[attr-defined]
    async with working(queue, emulator):
        await asyncio.sleep(1000)
    assert queue.names == ["wake"] * 3


@pytest.mark.parametrize(("leg", "words"), [(0, "more than 0"), (600, "idle_timeout of 600 s")])
def test_a_leg_must_be_shorter_than_the_idle_timeout(queue: Queue, leg: float, words: str) -> None:
    queue.idle_timeout = 600_000  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=words):
        register(queue, leg=leg)


async def test_a_broker_without_results_is_refused(emulator: Emulator) -> None:
    broker = InMemoryBroker()
    broker.with_result_backend(DummyResultBackend())
    register(broker, client=lambda: ExportClient(emulator.token(), transport=emulator))
    with pytest.raises(ValueError, match="DummyResultBackend stores no progress"):
        await broker.startup()


async def test_the_workers_of_the_readme_have_their_tasks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    blocks = re.findall(r"```python\n(# (\S+).*?)```", README.read_text(), re.DOTALL)
    for text, name in blocks:
        (tmp_path / name).write_text(text)
    assert {"exports_worker.py", "send_export.py"} < {name for _, name in blocks}
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1")
    module: Any = importlib.import_module("exports_worker")
    assert (
        module.broker.find_task("itwin_export_async:export_imodel") is module.exports.export_imodel
    )
    assert module.broker.find_task("itwin_export_async:follow_run") is module.exports.follow_run
    sys.modules.pop("exports_worker")


@pytest.mark.usefixtures("integration")
def test_without_taskiq_the_package_imports_and_the_module_says_what_it_needs() -> None:
    code = (
        "import sys; sys.modules['taskiq'] = None; import itwin_export_async\n"
        "try: import itwin_export_async.taskiq\n"
        "except ImportError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'itwin-export-async[taskiq]'" in out.stdout


@pytest.mark.usefixtures("integration")
def test_without_opentelemetry_the_module_imports() -> None:
    code = "import sys; sys.modules['opentelemetry'] = None; import itwin_export_async.taskiq"
    subprocess.run([sys.executable, "-c", code], check=True)


@asynccontextmanager
async def worker_at(redis: RedisServer, emulator: Emulator) -> AsyncIterator[ExportTasks]:
    """The tasks of a worker at a real Redis, in the loop of the test; it stops as one does."""
    broker = broker_at(redis.url, "600000")
    broker.is_worker_process = True
    tasks = register(
        broker,
        client=lambda: ExportClient(
            emulator.token(), transport=emulator, schedule=FixedSchedule(0.1)
        ),
    )
    await broker.startup()
    finish = asyncio.Event()
    listening = asyncio.create_task(Receiver(broker, max_async_tasks=20).listen(finish))
    try:
        yield tasks
    finally:
        finish.set()
        await broker.shutdown()
        await listening


@pytest.mark.usefixtures("integration")
async def test_a_worker_that_stops_hands_its_tasks_to_the_next_one(tmp_path: Path) -> None:
    emulator = Emulator(seed=1, run_seconds=2.0)
    failing = emulator.add_imodel()
    emulator.plan_next_run(failing, "Error", duration=2.0)
    async with RedisServer() as redis:
        async with worker_at(redis, emulator) as tasks:
            good = [
                await tasks.export_imodel.kiq(emulator.add_imodel(f"{n}"), f"{tmp_path}/{n}.ifc")
                for n in range(3)
            ]
            bad = await tasks.export_imodel.kiq(failing, f"{tmp_path}/")
            await until(lambda: emulator.count("get_run") >= 8)
        before = len(emulator.requests)
        async with worker_at(redis, emulator) as tasks:
            backend = tasks.follow_run.broker.result_backend
            for task in good:
                task = AsyncTaskiqTask[Any](task.task_id, backend)
                result = await task.wait_result(timeout=60, check_interval=0.05)
                assert result.raise_for_error().return_value["outcome"] == "Success"
            result = await AsyncTaskiqTask[Any](bad.task_id, backend).wait_result(
                timeout=60, check_interval=0.05
            )
    assert isinstance(result.error, TaskFailed)
    assert result.error.kind == "RunFailed"
    assert len(emulator.requests) > before
    assert started(emulator) == 4
