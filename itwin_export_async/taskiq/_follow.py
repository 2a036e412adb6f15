"""Waiting for the run of a task, by one worker at a time.

A message may be delivered to two live workers: the broker repeats it, although its worker has
already sent the next one. The worker that starts last continues; the other one ends its leg.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from attrs import field, frozen
from taskiq.exceptions import NoResultError

from itwin_export_async import (
    ExecutionResult,
    ExportClient,
    ExportOutcome,
    ExportRequest,
    Run,
    RunHandle,
    RunUpdate,
)
from itwin_export_async.taskiq._start import outlast
from itwin_export_async.taskiq._worker import Worker

Deliver = Callable[[ExportOutcome], Any]
"""Called with the outcome of a task once its files are on disk; may be async. What it returns is in
the task's result, so it must be JSON; what it raises is the task's error."""


class ExportResult(TypedDict):
    """The result of a task. `delivered` is what `deliver` returned, if there is one."""

    connection_id: str
    run_id: str
    resume_token: str
    outcome: str
    paths: list[str]
    delivered: NotRequired[Any]


@frozen(kw_only=True)
class Follow:
    """One leg of the wait for a run. `leg` is the unique name of the leg, `note` that of its task.

    `imodel_id`: None where the sender did not know it. `sas_url`: the caller's blob that the run
    writes to, None if it is none.
    """

    worker: Worker
    client: ExportClient
    task_id: str
    note: str
    leg: str
    handle: RunHandle
    destination: str
    imodel_id: str | None
    sas_url: str | None
    max_outage: float
    deliver: Deliver | None
    _run_fields: dict[str, str] = field(init=False)

    @_run_fields.default
    def _read_handle(self) -> dict[str, str]:
        run = self.handle
        fields = {"connection_id": run.connection_id, "run_id": run.run_id}
        return fields | {"resume_token": run.resume_token}

    async def run(self) -> ExportOutcome:
        """Wait for the run, and download its files."""
        await self.worker.write(self.note, "following", {"leg": self.leg})
        unlimited: dict[str, Any] = {} if self.handle.deadline else {"timeout": None}
        run = await self.handle.wait(on_update=self._publish, **unlimited)
        await self.check()
        what = f"the download of run {self.handle.run_id}"
        paths = await outlast(lambda: self._download(run), self.max_outage, what)
        connection_id, imodel_id = self.handle.connection_id, self.imodel_id
        if imodel_id is None and self.deliver is not None:
            imodel_id = (await self.client.get_connection(connection_id)).imodel_id
        request = ExportRequest(
            imodel_id=imodel_id or "unknown", destination=self.destination, key=self.task_id
        )
        return ExportOutcome(
            request=request, connection_id=connection_id, run=run, paths=tuple(paths)
        )

    async def result(self, outcome: ExportOutcome) -> ExportResult:
        """Deliver the files; the result of the task."""
        assert outcome.run is not None
        result: ExportResult = {
            "connection_id": self._run_fields["connection_id"],
            "run_id": self._run_fields["run_id"],
            "resume_token": self._run_fields["resume_token"],
            "outcome": outcome.run.outcome.value,
            "paths": [str(path) for path in outcome.paths],
        }
        if self.deliver is not None:
            delivered = self.deliver(outcome)
            result["delivered"] = await delivered if inspect.isawaitable(delivered) else delivered
        return result

    async def check(self) -> None:
        """End the task without a result if another worker has started a later leg of it."""
        if (await self.worker.read(self.note)).get("leg") not in (None, self.leg):
            raise NoResultError

    async def _download(self, run: Run) -> list[Path]:
        if not run.output_file_ids and run.outcome == ExecutionResult.SKIPPED:
            return []
        if self.sas_url is not None:
            return [await self.client.storage.download_blob(self.sas_url, self.destination)]
        return await self.handle.download(self.destination)

    async def _publish(self, update: RunUpdate) -> None:
        await self.worker.write(self.task_id, update.run.state.value, self._run_fields)
