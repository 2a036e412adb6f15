"""The following of a task's run, by one worker at a time.

A message may come twice, to two workers that are both alive: the worker that had it first died
after it had sent the next. The latest to begin goes on; the other one sees that, and ends.
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
    """One leg on the way to the end of a run. `leg` is a name that no other leg has."""

    worker: Worker
    task_id: str
    leg: str
    handle: RunHandle
    destination: str
    _told: dict[str, Any] = field(init=False)

    @_told.default
    def _who(self) -> dict[str, Any]:
        run = self.handle
        return {"connection_id": run.connection_id, "run_id": run.run_id, "token": run.resume_token}

    async def result(self) -> dict[str, Any]:
        """How the run ended and where its files are, once they are there."""
        await self.worker.write(self._name, "following", {"leg": self.leg})
        unlimited: dict[str, Any] = {} if self.handle.deadline else {"timeout": None}
        run = await self.handle.wait(on_update=self._note, **unlimited)
        await self.check()
        paths: list[Path] = []
        if run.output_file_ids or run.outcome != ExecutionResult.SKIPPED:
            paths = await self.handle.download(self.destination)
        outcome = run.outcome.value
        return {**self._told, "outcome": outcome, "paths": [str(path) for path in paths]}

    async def check(self) -> None:
        """End the task without a result if another worker has begun a later leg of it."""
        if (await self.worker.read(self._name)).get("leg") not in (None, self.leg):
            raise NoResultError

    async def _note(self, update: RunUpdate) -> None:
        await self.worker.write(self.task_id, update.run.state.value, self._told)

    @property
    def _name(self) -> str:
        return f"itwin_export_async:follow:{self.task_id}"
