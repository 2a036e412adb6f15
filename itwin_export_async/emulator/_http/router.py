"""Routes: which operation a request means, by host, method, path and `Accept`.

A handler is declared with its route:

    @api("GET", "/export/connections/{}")
    def get_connection(platform: Platform, context: RequestContext) -> Response: ...

The name of the function is the name of the operation, unless another is given. The letter case
of a path does not matter, except in the ids.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import field, frozen

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator._http.messages import bad_request, header_of, operation_not_found
from itwin_export_async.emulator._state.platform import (
    DEV,
    PRODUCTION,
    QA,
    Endpoints,
    Platform,
    RequestContext,
)

Handler: TypeAlias = Callable[[Platform, RequestContext], Response]

V1 = frozenset({"application/vnd.bentley.itwin-platform.v1+json"})
V2 = frozenset({"application/vnd.bentley.itwin-platform.v2+json"})
BYTES = frozenset({"", "*/*", "application/vnd.bentley.itwin-platform.v1+octet-stream"})


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.strip("/").split("/"))


@frozen(kw_only=True)
class Route:
    """One operation: where it is, and the function that handles it.

    `accepts` are the media types that `Accept` may name, None if the header is ignored. `guarded`
    operations require a bearer token. `comp` is the query parameter that distinguishes operations
    on one URL of the blob store.
    """

    operation: str
    handler: Handler
    service: str = "api"
    method: str
    path: tuple[str, ...] = field(converter=_segments)
    accepts: frozenset[str] | None = None
    guarded: bool = False
    comp: str = ""

    def ids_in(self, path: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the ids in a path of this route, None for a path of another."""
        ids = []
        for expected, actual in zip(self.path, path, strict=True):
            if expected == "{}":
                ids.append(unquote(actual))
            elif expected != actual and expected != actual.lower():
                return None
        return tuple(ids)

    def accepts_header(self, request: Request) -> bool:
        """Whether the `Accept` header names a media type of this operation."""
        if self.accepts is None:
            return True
        accept = header_of(request, "Accept")
        if accept in self.accepts:
            return True
        return any(
            kind.partition(";")[0].strip().lower() in self.accepts for kind in accept.split(",")
        )


def api(
    method: str, path: str, *, operation: str = "", accepts: frozenset[str] = V1
) -> Callable[[Handler], Route]:
    """Declare a handler of an API: it requires a bearer token and an `Accept` header."""
    return lambda handler: Route(
        operation=operation or handler.__name__,
        handler=handler,
        method=method,
        path=path,
        accepts=accepts,
        guarded=True,
    )


def open_to_all(
    service: str, method: str, path: str, *, comp: str = ""
) -> Callable[[Handler], Route]:
    """Declare a handler of another service: no bearer token, and `Accept` is ignored."""
    return lambda handler: Route(
        operation=handler.__name__,
        handler=handler,
        service=service,
        method=method,
        path=path,
        comp=comp,
    )


UNKNOWN = Route(operation="unknown", handler=lambda *_: operation_not_found(), method="", path="")
MALFORMED = Route(operation="unknown", handler=lambda *_: bad_request(), method="", path="")

_API, _IDENTITY, _BLOBS = frozenset({"api"}), frozenset({"identity"}), frozenset({"blobs"})
_FIXED = MappingProxyType(
    {
        **{stage.api: (_API, stage) for stage in (PRODUCTION, QA, DEV)},
        "https://ims.bentley.com": (_IDENTITY, PRODUCTION),
        "https://qa-ims.bentley.com": (_IDENTITY, QA),
        PRODUCTION.blobs: (_BLOBS, PRODUCTION),
        PRODUCTION.user_blobs: (_BLOBS, PRODUCTION),
    }
)


class Router:
    """Finds the route of a request among all routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.operations = frozenset(route.operation for route in routes)
        self._by_shape: defaultdict[tuple[str, int], list[Route]] = defaultdict(list)
        for route in routes:
            self._by_shape[route.method, len(route.path)].append(route)

    def match(
        self, request: Request, platform: Platform, endpoints: Endpoints | None, *, now: float
    ) -> tuple[Route, RequestContext]:
        """Return the route of a request, and the request in terms of the route.

        `endpoints` are what links name, None for those of the host in the URL. Raises
        `ConnectionRefusedError` if there is no such host.
        """
        try:
            parts = urlsplit(request.url)
        except ValueError:
            context = RequestContext(request=request, now=now, endpoints=endpoints or PRODUCTION)
            return MALFORMED, context
        origin = f"{parts.scheme}://{parts.netloc.lower()}"
        services, known, path = _resolve(origin, parts.path, platform)
        query = MappingProxyType(
            {name.lower(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
            if parts.query
            else {}
        )
        links = endpoints or known
        segments = _segments(path)
        for route in self._by_shape.get((request.method, len(segments)), ()):
            if route.service not in services:
                continue
            if route.service == "blobs" and route.comp != query.get("comp", ""):
                continue
            ids = route.ids_in(segments)
            if ids is None:
                continue
            is_accepted = route.accepts_header(request)
            return route if is_accepted else UNKNOWN, RequestContext(
                request=request,
                now=now,
                endpoints=links,
                path=path,
                ids=ids if is_accepted else (),
                query=query,
                would_match_with_accept="" if is_accepted else route.operation,
            )
        return UNKNOWN, RequestContext(
            request=request, now=now, endpoints=links, path=path, query=query
        )


def _resolve(origin: str, path: str, platform: Platform) -> tuple[frozenset[str], Endpoints, str]:
    """Return the services at a host, their endpoints, and the path within the service."""
    fixed = _FIXED.get(origin)
    if fixed is not None:
        return *fixed, path
    url = f"{origin}{path}"
    for endpoints in platform.served_endpoints:
        if url.startswith(f"{endpoints.blobs}/"):
            return _BLOBS, endpoints, url.removeprefix(endpoints.blobs)
        if f"{url}/".startswith(f"{endpoints.api}/"):
            services = _IDENTITY if url == endpoints.token else _API
            return services, endpoints, url.removeprefix(endpoints.api)
    raise ConnectionRefusedError(f"no emulated service at {origin.partition('://')[2]}")
