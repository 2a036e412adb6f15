"""Exports as a router of a FastAPI application.

exports = ExportRouter(secret=SECRET, owner=current_user, may_export=may_export)
app = FastAPI(lifespan=exports.lifespan)  # or exports.wrap_lifespan(your_own)
app.include_router(exports, prefix="/api/v1")
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, TypeAlias
from urllib.parse import quote

try:
    from fastapi import APIRouter, Depends, Request, Response
    from fastapi.responses import JSONResponse, StreamingResponse
    from pydantic import BaseModel, Field
except ImportError as exc:
    raise ImportError("itwin_export_async.web.fastapi needs FastAPI: pip install fastapi") from exc

from itwin_export_async import AuthenticationType, ExportClient, ExportError
from itwin_export_async.web._body import MAX_BODY, START_SCHEMA, check_content_type
from itwin_export_async.web._describe import describe_health
from itwin_export_async.web._events import EVENT_HEADERS
from itwin_export_async.web._page import PAGE_HEADERS, example_page
from itwin_export_async.web._problems import http_error
from itwin_export_async.web._service import ExportService, MayExport

Lifespan: TypeAlias = Callable[[Any], AbstractAsyncContextManager[Any]]

NO_STORE = {"Cache-Control": "no-store"}


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


class HealthResponse(BaseModel):
    """Whether the export service answers."""

    ok: bool
    outage_since: str | None
    last_response_at: str | None
    runs_polled: int


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"content": content} for status in statuses}


_READ_ERRORS = _responses(403, 404, 422, 502, 503, 504)
_START_BODY = {"required": True, "content": {"application/json": {"schema": START_SCHEMA}}}


class ExportRouter(APIRouter):
    """The export endpoints of a FastAPI application.

    `owner`: a dependency that returns the owner of what this request starts or reads, as a string.
    `page`: whether `/exports/page` is the example page. The other arguments are those of
    `ExportService`. The router needs its `lifespan`; an application that includes the router
    enters it by itself, one that mounts another application with the router does not.
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
        page: bool = False,
    ) -> None:
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
        super().__init__(tags=["exports"], lifespan=self.service.lifespan)
        if page:  # before the routes with an id
            self.add_api_route("/exports/page", _page, include_in_schema=False)
        self._add_routes(owner)

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[None]:  # type: ignore[override]
        """Keep a client open while the application runs, and end the streams when it is stopped."""
        async with self.service.lifespan(app):
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

        @self.post(
            "/exports",
            status_code=202,
            response_model=StartResponse,
            responses=_READ_ERRORS | _responses(409),
            openapi_extra={"requestBody": _START_BODY},
        )
        async def start_export(request: Request, owner: owner_of) -> Response:
            """Start an export, or join the active run of the iModel."""
            try:
                check_content_type(request.headers.get("Content-Type", ""))
                started = await service.start(owner, await _body(request))
            except ExportError as error:
                return _problem(error)
            url = f"{_path(request)}/{started.id}"
            return JSONResponse(started.body(url), 202, headers={"Location": url})

        @self.get(
            "/exports/health",
            response_model=HealthResponse,
            responses={503: {"model": HealthResponse}},
        )
        async def export_health() -> Response:
            """Whether the export service answers: 503 if it does not at the moment."""
            body = describe_health(service.health())
            return JSONResponse(body, 200 if body["ok"] else 503, headers=NO_STORE)

        @self.get("/exports/{id}", response_model=StatusResponse, responses=_READ_ERRORS)
        async def export_status(id: str, owner: owner_of) -> Response:
            """The state of an export, and why it failed."""
            try:
                return JSONResponse(await service.describe(owner, id), headers=NO_STORE)
            except ExportError as error:
                return _problem(error)

        @self.get(
            "/exports/{id}/events",
            response_class=StreamingResponse,
            responses=_responses(404, 422) | {200: {"content": {"text/event-stream": {}}}},
        )
        async def export_events(id: str, request: Request, owner: owner_of) -> Response:
            """Server-sent events: `update`, `trouble` and `end`."""
            last_event_id = request.headers.get("Last-Event-ID")
            try:
                events = service.events(owner, id, last_event_id=last_event_id)
            except ExportError as error:
                return _problem(error)
            return _Streamed(events, 200, EVENT_HEADERS, close=events.aclose)

        binary: dict[str, Any] = {"content": {"application/octet-stream": {}}}

        @self.get(
            "/exports/{id}/file",
            response_class=StreamingResponse,
            responses=_READ_ERRORS
            | _responses(409, 507)
            | {200: binary, 206: binary, 416: {"description": "No such range"}},
        )
        @self.head("/exports/{id}/file", include_in_schema=False)
        async def export_file(id: str, request: Request, owner: owner_of) -> Response:
            """The exported file, streamed; one range at a time."""
            try:
                file = await service.open_file(
                    owner,
                    id,
                    range_header=request.headers.get("Range"),
                    if_range=request.headers.get("If-Range"),
                    is_head=request.method == "HEAD",
                )
            except ExportError as error:
                return _problem(error)
            answer = file.answer
            return _Streamed(file.chunks, answer.status, answer.headers, close=file.aclose)


class _Streamed(StreamingResponse):
    """A stream that is closed with its response, even where it was never begun."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        status: int,
        headers: Mapping[str, str],
        *,
        close: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(chunks, status, headers)
        self._close = close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._close()


async def _body(request: Request) -> bytes:
    """The body, or as much of it as shows that it is too long."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            break
    return body


def _path(request: Request) -> str:
    """The path of the request as the browser sees it, under prefix, mount and root path."""
    path: str = request.scope["path"].strip("/")
    root: str = request.scope.get("root_path", "").strip("/")
    if root and not path.startswith(f"{root}/"):  # a proxy has removed it
        path = f"{root}/{path}"
    # one slash in front, or it would be the address of a host
    return "/" + quote(path, safe="/~:@!$&'()*+,;=")


async def _page() -> Response:
    return Response(example_page(), headers=PAGE_HEADERS)


def _problem(error: ExportError) -> Response:
    answer = http_error(error)
    return Response(json.dumps(answer.body), answer.status, headers=answer.headers)
