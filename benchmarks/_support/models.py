"""Models of a run, for pydantic."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Item(BaseModel):
    """The fields that runs, jobs and tasks share."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    id: str
    state: str
    result: str | None = None
    start_date_time: datetime | None = None
    end_date_time: datetime | None = None


class TaskErrorInfo(BaseModel):
    """The error of a task."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    error_code: str | None = None
    message: str | None = None
    details: str | None = None
    bridge_exit_code: int | None = None
    system: str | None = None
    phase: str | None = None
    category: str | None = None
    description_key: str | None = None
    description: str | None = None
    kb_article_link: str | None = None
    can_user_fix: bool | None = None


class Task(Item):
    """The export of one file."""

    retry_attempts: int | None = None
    export_output_file_id: str | None = None
    error: TaskErrorInfo | None = None


class Job(Item):
    """The tasks of a run."""

    tasks: tuple[Task, ...] = ()


class Run(Item):
    """A run."""

    connection_id: str | None = None
    jobs: tuple[Job, ...] = ()


class RunResponse(BaseModel):
    """The response to a poll."""

    run: Run
