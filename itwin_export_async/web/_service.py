"""What the endpoints do, for any web framework.

A start that takes longer than `start_timeout` continues behind; the same request joins it. Streams
end when `stop` is called, as the framework's adapter does when the server shuts down.
"""

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

from attrs import define, field, frozen

from itwin_export_async import (
    AuthenticationType,
    AuthorizationRequired,
    ClientHealth,
    DownloadError,
    ExportClient,
    ExportOptions,
    InputOptions,
    OutputOptions,
    PermissionDenied,
    RunHandle,
    RunOutput,
)
from itwin_export_async.web._describe import describe_run
from itwin_export_async.web._events import event_stream
from itwin_export_async.web._ids import SignedIds
from itwin_export_async.web._problems import StartPending
from itwin_export_async.web._ranges import FileAnswer, file_answer

MayExport: TypeAlias = Callable[[str, str], "bool | Awaitable[bool]"]
"""Called with the owner and the iModel's id, before anything is sent; may be async."""

REMEMBERED_STARTS = 1000  # starts that continue behind, or have just finished
STARTED_FOR = 60.0  # seconds for which a finished start answers the same request again


def allow_all(owner: str, imodel_id: str) -> bool:
    """Let every owner export every iModel that the service application may export."""
    return True


@frozen(kw_only=True)
class StartedExport:
    """A run for an owner: its `id`, and whether an active run was joined."""

    id: str
    joined: bool


@frozen(kw_only=True)
class OpenFile:
    """A file that is open: the head of the answer, and its bytes."""

    answer: FileAnswer
    chunks: AsyncIterator[bytes]


@define(eq=False, kw_only=True)
class ExportService:
    """Exports for the visitors of a web application.

    `secret`: signs ids, see `SignedIds`. `may_export(owner, imodel_id)`: whether this owner may
    export that iModel with the service's rights; `allow_all` waives it. `client`: makes the
    `ExportClient`, in the event loop of the server. `display_name`, `authentication_type`: of the
    connections. `start_timeout`: seconds after which a start continues behind. `heartbeat`,
    `max_age`: see `event_stream`.
    """

    secret: str | bytes | Iterable[str | bytes] = field(repr=False)
    may_export: MayExport
    client: Callable[[], ExportClient] = ExportClient.from_env
    display_name: str = "itwin-export"
    authentication_type: AuthenticationType | str | None = None
    start_timeout: float = 10.0
    heartbeat: float = 15.0
    max_age: float | None = None
    _ids: SignedIds = field(init=False, repr=False)
    _open_client: ExportClient | None = field(init=False, default=None)
    _stopping: asyncio.Event = field(init=False, factory=asyncio.Event, repr=False)
    _starts: dict[str, "asyncio.Task[StartedExport]"] = field(init=False, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        self._ids = SignedIds(self.secret)
        self.secret = ""
        if not callable(self.may_export):
            raise TypeError("may_export must be callable: may_export(owner, imodel_id) -> bool")

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[ExportClient]:
        """Keep a client open while the server runs, and end the streams before it closes."""
        self._stopping = asyncio.Event()
        async with AsyncExitStack() as stack:
            self._open_client = await stack.enter_async_context(self.client())
            stack.push_async_callback(self._end_starts)
            try:
                yield self._open_client
            finally:
                self.stop()
                self._open_client = None

    def stop(self) -> None:
        """End all event streams, now and from now on."""
        self._stopping.set()

    def health(self) -> ClientHealth:
        """The state of the client."""
        return self._client().health()

    async def start(self, owner: str, body: Any) -> StartedExport:
        """Start an export for an owner. `body`: the JSON object `{imodel_id, options?}`.

        Raises a `ValueError` that names a wrong field, `PermissionDenied` where `may_export` says
        no, and `StartPending` while the start continues behind.
        """
        imodel_id, options = parse_start(body)
        allowed = self.may_export(owner, imodel_id)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        if not allowed:
            raise PermissionDenied(status=403, message=f"no right to export iModel {imodel_id}")
        key = json.dumps([owner, body], sort_keys=True)
        task = self._starts.get(key)
        if task is None:
            while len(self._starts) >= REMEMBERED_STARTS:
                self._starts.pop(next(iter(self._starts)))
            task = asyncio.create_task(self._start(owner, imodel_id, options))
            self._starts[key] = task
            task.add_done_callback(lambda done: self._on_started(key, done))
        done, _ = await asyncio.wait([task], timeout=self.start_timeout)
        if not done:
            raise StartPending
        return task.result()

    def run(self, owner: str, id: str) -> RunHandle:
        """The handle of an owner's run. Raises a `LookupError` for any other id."""
        try:
            return self._client().resume(self._ids.verify(id, owner))
        except ValueError as exc:
            raise LookupError("there is no such export") from exc

    async def describe(self, owner: str, id: str) -> dict[str, Any]:
        """The state of a run, as `describe_run`."""
        handle = self.run(owner, id)
        run = await handle.refresh()
        return describe_run(run, None if run.is_final else await handle.estimate())

    def events(
        self, owner: str, id: str, *, last_event_id: str | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The server-sent events of a run."""
        return event_stream(
            self.run(owner, id),
            heartbeat=self.heartbeat,
            max_age=self.max_age,
            last_event_id=last_event_id,
            stop=self._stopping,
        )

    @asynccontextmanager
    async def open_file(
        self,
        owner: str,
        id: str,
        *,
        range_header: str | None = None,
        if_range: str | None = None,
    ) -> AsyncIterator[OpenFile]:
        """The file of a finished run, straight from the blob store. Raises `DownloadError`."""
        output = await self._output(owner, id)
        async with output.open() as reader:
            if reader.size is None:
                raise DownloadError(
                    message="the size is not known", reason="incomplete", file_id=output.file_id
                )
            answer = file_answer(
                name=output.name,
                size=reader.size,
                etag=reader.etag,
                range_header=range_header,
                if_range=if_range,
            )
            if answer.status == 200:
                yield OpenFile(answer=answer, chunks=aiter(reader))
                return
        if answer.status == 416:
            yield OpenFile(answer=answer, chunks=_nothing())
            return
        async with output.open(start=answer.start, stop=answer.stop) as reader:
            yield OpenFile(answer=answer, chunks=aiter(reader))

    async def _output(self, owner: str, id: str) -> RunOutput:
        outputs = await self.run(owner, id).outputs()
        if not outputs:
            raise DownloadError(message="the run has no output file", reason="no_output")
        return outputs[0]

    def _client(self) -> ExportClient:
        if self._open_client is None:
            raise RuntimeError("the exports have no client: add their lifespan to the application")
        return self._open_client

    async def _start(self, owner: str, imodel_id: str, options: ExportOptions) -> StartedExport:
        client = self._client()
        connection = await client.find_or_create_connection(
            imodel_id, display_name=self.display_name, authentication_type=self.authentication_type
        )
        if connection.authentication_type == AuthenticationType.USER:
            consent = await client.get_authorization("https://developer.bentley.com/")
            if not consent.is_user_authorized:
                raise AuthorizationRequired(url=consent.authorization_url)
        run = await client.start_run(connection.id, options, if_active="join")
        return StartedExport(id=self._ids.sign(run.resume_token, owner), joined=run.joined)

    def _on_started(self, key: str, task: "asyncio.Task[StartedExport]") -> None:
        """Forget a failed start at once, a successful one after a while."""
        if task.cancelled() or task.exception() is not None:
            self._starts.pop(key, None)
        else:
            asyncio.get_running_loop().call_later(STARTED_FOR, self._starts.pop, key, None)

    async def _end_starts(self) -> None:
        tasks = list(self._starts.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._starts.clear()


async def _nothing() -> AsyncIterator[bytes]:
    chunks: tuple[bytes, ...] = ()
    for chunk in chunks:
        yield chunk


def parse_start(body: Any) -> tuple[str, ExportOptions]:
    """The iModel's id and the options of a request's JSON body. A `ValueError` names the field."""
    if not isinstance(body, dict):
        raise ValueError("the body is not a JSON object; send {imodel_id, options?}")
    unknown = sorted({*body} - {"imodel_id", "options"})
    if unknown:
        raise ValueError(f"{unknown[0]} is no field of the body; send imodel_id and options")
    imodel_id = body.get("imodel_id")
    if not isinstance(imodel_id, str) or not imodel_id.strip():
        raise ValueError("imodel_id is missing or not a text")
    return imodel_id, parse_options(body.get("options"))


_INPUT = ("changeset_id", "mapping_file_id", "saved_view_id", "model_ids")
_OUTPUT = ("replace_older_file", "save_logs")


def parse_options(options: Any) -> ExportOptions:
    """The options of a visitor: what to export, and never where the service writes it.

    `export_type`, `ifc_version`, and of the input `changeset_id`, `mapping_file_id`,
    `saved_view_id`, `model_ids`. Raises a `ValueError` that names a wrong field.
    """
    if options is None:
        return ExportOptions()
    if not isinstance(options, dict):
        raise ValueError("options is not a JSON object")
    known = ("export_type", "ifc_version", *_INPUT, *_OUTPUT)
    unknown = sorted({*options} - {*known})
    if unknown:
        raise ValueError(f"options.{unknown[0]} is no option; known are {', '.join(known)}")
    values = {name: value for name, value in options.items() if value is not None}
    try:
        return ExportOptions(
            **{name: values[name] for name in ("export_type", "ifc_version") if name in values},
            input=InputOptions(**{name: values[name] for name in _INPUT if name in values}),
            output=OutputOptions(**{name: values[name] for name in _OUTPUT if name in values}),
        )
    except (ValueError, TypeError) as exc:
        raise ValueError(f"options: {exc}") from exc
