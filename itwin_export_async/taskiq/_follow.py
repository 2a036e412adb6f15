"""Waiting for the run of a task, by one worker at a time.

A message may be delivered to two live workers: the broker repeats it, although its worker has
already sent the next one. The worker that starts last continues; the other one ends its leg.
"""

from pathlib import Path
from typing import Any

from attrs import field, frozen
from taskiq.exceptions import NoResultError

from itwin_export_async._models import ExecutionResult, RunUpdate
from itwin_export_async._runs.handle import RunHandle
from itwin_export_async.taskiq._worker import Worker


@frozen
class Follow:
    """One leg of the wait for a run. `leg` is the unique name of the leg."""

    worker: Worker
    task_id: str
    leg: str
    handle: RunHandle
    destination: str
    _run_fields: dict[str, Any] = field(init=False)

    @_run_fields.default
    def _read_handle(self) -> dict[str, Any]:
        run = self.handle
        return {"connection_id": run.connection_id, "run_id": run.run_id, "token": run.resume_token}

    async def result(self) -> dict[str, Any]:
        """Wait for the run and download its files; the result of the task."""
        await self.worker.write(self._name, "following", {"leg": self.leg})
        unlimited: dict[str, Any] = {} if self.handle.deadline else {"timeout": None}
        run = await self.handle.wait(on_update=self._publish, **unlimited)
        await self.check()
        paths: list[Path] = []
        if run.output_file_ids or run.outcome != ExecutionResult.SKIPPED:
            paths = await self.handle.download(self.destination)
        outcome = run.outcome.value
        return {**self._run_fields, "outcome": outcome, "paths": [str(path) for path in paths]}

    async def check(self) -> None:
        """End the task without a result if another worker has started a later leg of it."""
        if (await self.worker.read(self._name)).get("leg") not in (None, self.leg):
            raise NoResultError

    async def _publish(self, update: RunUpdate) -> None:
        await self.worker.write(self.task_id, update.run.state.value, self._run_fields)

    @property
    def _name(self) -> str:
        return f"itwin_export_async:follow:{self.task_id}"
