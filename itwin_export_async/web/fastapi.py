"""Exports as a router of a FastAPI application.

exports = ExportRouter(secret=SECRET, owner=current_user, may_export=may_export)
app = FastAPI(lifespan=exports.lifespan)  # or exports.wrap_lifespan(your_own)
app.include_router(exports, prefix="/api/v1")
"""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Annotated, Any, TypeAlias

try:
    from fastapi import APIRouter, Depends, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, StreamingResponse
    from fastapi.routing import APIRoute
    from pydantic import BaseModel, Field
except ImportError as exc:
    raise ImportError("itwin_export_async.web.fastapi needs FastAPI: pip install fastapi") from exc

from itwin_export_async import AuthenticationType, ExportClient
from itwin_export_async.web._answers import ANSWERED, EVENT_HEADERS, health_body, started_body
from itwin_export_async.web._problems import http_error
from itwin_export_async.web._service import ExportService, MayExport

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]


class StartRequest(BaseModel):
    """The body of `POST /exports`."""

    imodel_id: str = Field(description="The id of the iModel to export.")
    options: dict[str, Any] | None = Field(
        default=None,
        description="export_type, ifc_version, changeset_id, mapping_file_id, saved_view_id, "
        "model_ids, replace_older_file, save_logs; the service's defaults otherwise.",
    )


class StartResponse(BaseModel):
    """A started export, and the paths to follow it."""

    id: str
    status_url: str
    events_url: str
    file_url: str
    joined: bool = Field(description="Whether an active run of the iModel was joined.")


class Failure(BaseModel):
    """Why a part of an export failed."""

    code: str
    text: str
    can_user_fix: bool | None
    link: str | None


class Remaining(BaseModel):
    """Seconds left: the 10th, 50th and 90th percentile."""

    low: float
    median: float
    high: float


class StatusResponse(BaseModel):
    """The state of an export."""

    state: str
    outcome: str | None
    is_final: bool
    started_at: str | None
    finished_at: str | None
    remaining: Remaining | None
    failures: list[Failure]


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


_PROBLEM = {"model": Problem, "content": {"application/problem+json": {}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    403: _PROBLEM,
    404: _PROBLEM,
    409: _PROBLEM,
    422: _PROBLEM,
    502: _PROBLEM,
    503: _PROBLEM,
    504: _PROBLEM,
}


class _ProblemRoute(APIRoute):
    """A route whose invalid bodies are answered with a problem document."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_or_answer(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return _problem(ValueError(_describe(error)))

        return handle_or_answer


def _describe(error: RequestValidationError) -> str:
    """The first fault of a body: its field and what is wrong with it."""
    fault = error.errors()[0]
    if fault["type"] == "json_invalid":
        return "the body is not JSON; send {imodel_id, options?}"
    field = ".".join(str(name) for name in fault["loc"][1:])
    return f"{field or 'the body'}: {fault['msg']}"


class ExportRouter(APIRouter):
    """The export endpoints of a FastAPI application.

    `owner`: a dependency that returns who owns what this request starts or reads, as text. The
    other arguments are those of `ExportService`. The router needs its `lifespan`.
    """

    def __init__(
        self,
        *,
        secret: str | bytes | Iterable[str | bytes],
        owner: Callable[..., Any],
        may_export: MayExport,
        client: Callable[[], ExportClient] = ExportClient.from_env,
        display_name: str = "itwin-export",
        authentication_type: AuthenticationType | str | None = None,
        start_timeout: float = 10.0,
        heartbeat: float = 15.0,
        max_age: float | None = None,
    ) -> None:
        super().__init__(tags=["exports"], route_class=_ProblemRoute)
        self.service = ExportService(
            secret=secret,
            may_export=may_export,
            client=client,
            display_name=display_name,
            authentication_type=authentication_type,
            start_timeout=start_timeout,
            heartbeat=heartbeat,
            max_age=max_age,
        )
        self._add_routes(owner)

    @asynccontextmanager
    async def lifespan(self, _: Any = None) -> AsyncIterator[None]:  # type: ignore[override]
        """Keep a client open while the application runs."""
        async with self.service.lifespan():
            with _stop_on_signals(self.service):
                yield

    def wrap_lifespan(self, lifespan: Lifespan) -> Lifespan:
        """Your lifespan, with this one inside: what yours yields stays the application's state."""

        @asynccontextmanager
        async def wrapped(app: Any) -> AsyncIterator[Any]:
            async with lifespan(app) as state, self.lifespan(app):
                yield state

        return wrapped

    def _add_routes(self, owner: Callable[..., Any]) -> None:
        service = self.service
        owner_of = Annotated[str, Depends(owner)]

        @self.post("/exports", status_code=202, response_model=StartResponse, responses=_ERRORS)
        async def start_export(body: StartRequest, request: Request, owner: owner_of) -> Response:
            """Start an export, or join the active run of the iModel."""
            values = body.model_dump(exclude_none=True)
            try:
                started = await service.start(owner, values)
            except ANSWERED as error:
                return _problem(error)
            url = f"{_path(request)}/{started.id}"
            return JSONResponse(started_body(started, url), 202, headers={"Location": url})

        @self.get("/exports/health")
        async def health() -> Response:
            """Whether the export service answers: 503 if it has not of late."""
            status, body = health_body(service)
            return JSONResponse(body, status, headers={"Cache-Control": "no-store"})

        @self.get("/exports/{id}", response_model=StatusResponse, responses=_ERRORS)
        async def export_status(id: str, owner: owner_of) -> Response:
            """The state of an export, and why it failed."""
            try:
                body = await service.describe(owner, id)
            except ANSWERED as error:
                return _problem(error)
            return JSONResponse(body, headers={"Cache-Control": "no-store"})

        @self.get(
            "/exports/{id}/events",
            response_class=StreamingResponse,
            responses={**_ERRORS, 200: {"content": {"text/event-stream": {}}}},
        )
        async def export_events(id: str, request: Request, owner: owner_of) -> Response:
            """Server-sent events: `update`, `trouble` and `end`."""
            last_event_id = request.headers.get("Last-Event-ID")
            try:
                events = service.events(owner, id, last_event_id=last_event_id)
            except ANSWERED as error:
                return _problem(error)
            return StreamingResponse(events, headers=EVENT_HEADERS)

        @self.api_route(
            "/exports/{id}/file",
            methods=["GET", "HEAD"],
            response_class=StreamingResponse,
            responses={
                **_ERRORS,
                200: {"content": {"application/octet-stream": {}}},
                206: {},
                416: {},
            },
        )
        async def export_file(id: str, request: Request, owner: owner_of) -> Response:
            """The exported file, streamed; one range at a time."""
            opening = service.open_file(
                owner,
                id,
                range_header=request.headers.get("Range"),
                if_range=request.headers.get("If-Range"),
            )
            try:
                file = await opening.__aenter__()
            except ANSWERED as error:
                return _problem(error)
            if request.method == "HEAD" or file.answer.status == 416:
                await opening.__aexit__(None, None, None)
                return Response(status_code=file.answer.status, headers=file.answer.headers)

            async def chunks() -> AsyncIterator[bytes]:
                try:
                    async for chunk in file.chunks:
                        yield chunk
                finally:
                    await opening.__aexit__(None, None, None)

            return StreamingResponse(chunks(), file.answer.status, headers=file.answer.headers)


def _path(request: Request) -> str:
    """The path of the request as the browser sees it, under prefix, mount and root path."""
    path: str = request.scope["path"].rstrip("/")
    root: str = request.scope.get("root_path", "").rstrip("/")
    return path if not root or path.startswith(f"{root}/") else root + path


def _problem(error: Exception) -> Response:
    answer = http_error(error)
    return Response(json.dumps(answer.body), answer.status, headers=answer.headers)


@contextmanager
def _stop_on_signals(service: ExportService) -> Iterator[None]:
    """End the streams as soon as the server is told to stop.

    ASGI servers close the lifespan only after all requests, and a stream would never end by itself.
    So their signal handlers are called after ours. Outside the main thread, as in tests, there are
    no signals.
    """
    loop = asyncio.get_running_loop()
    replaced: dict[int, Any] = {}

    def on_signal(number: int, frame: Any) -> None:
        loop.call_soon_threadsafe(service.stop)
        before = replaced[number]
        if callable(before):
            before(number, frame)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if callable(before):
                replaced[number] = before
                signal.signal(number, on_signal)
    except ValueError:  # not the main thread
        replaced.clear()
    try:
        yield
    finally:
        for changed, handler in replaced.items():
            if signal.getsignal(changed) is on_signal:
                signal.signal(changed, handler)
