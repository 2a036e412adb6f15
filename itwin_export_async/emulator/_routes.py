"""Which operation a request means: by host, method, path and, at the gateway, by Accept.

The letter case of paths does not matter, that of the ids in them does.
"""

from collections.abc import Callable
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import field, frozen

from itwin_export_async._protocol.http import Request, Response
from itwin_export_async.emulator import _export, _identity, _storage
from itwin_export_async.emulator._answers import header_of, operation_not_found
from itwin_export_async.emulator._world import Addresses, Call, World

_JSON = frozenset({"application/vnd.bentley.itwin-platform.v1+json"})
_BYTES = frozenset({"", "*/*", "application/vnd.bentley.itwin-platform.v1+octet-stream"})


def _segments(path: str) -> tuple[str, ...]:
    return tuple(path.strip("/").split("/"))


@frozen(kw_only=True)
class Route:
    """One operation: where it is found, what answers it.

    `accepts` are the media types it can be asked for, None when nobody looks at them. `guarded`
    operations want a bearer token.
    """

    operation: str
    service: str = "api"
    method: str = "GET"
    path: tuple[str, ...] = field(converter=_segments)
    answer: Callable[[World, Call], Response]
    accepts: frozenset[str] | None = _JSON
    guarded: bool = True


def _nowhere(_world: World, _call: Call) -> Response:
    return operation_not_found()


UNKNOWN = Route(operation="unknown", path="", answer=_nowhere, accepts=None, guarded=False)

_ROUTES = (
    Route(
        operation="create_connection",
        method="POST",
        path="/export/connections",
        answer=_export.create_connection,
    ),
    Route(
        operation="get_connection",
        path="/export/connections/{}",
        answer=_export.get_connection,
    ),
    Route(
        operation="list_connections",
        path="/export/connections",
        answer=_export.list_connections,
    ),
    Route(
        operation="delete_connection",
        method="DELETE",
        path="/export/connections/{}",
        answer=_export.delete_connection,
    ),
    Route(
        operation="create_run",
        method="POST",
        path="/export/connections/{}/runs",
        answer=_export.create_run,
    ),
    Route(
        operation="get_run",
        path="/export/connections/{}/runs/{}",
        answer=_export.get_run,
    ),
    Route(
        operation="list_runs",
        path="/export/connections/{}/runs",
        answer=_export.list_runs,
    ),
    Route(
        operation="get_authorization",
        path="/export/authorizationinformation",
        answer=_export.get_authorization,
    ),
    Route(
        operation="get_file",
        path="/storage/files/{}",
        answer=_storage.get_file,
    ),
    Route(
        operation="download_file",
        path="/storage/files/{}/download",
        answer=_storage.download_file,
        accepts=_JSON | _BYTES,
    ),
    Route(
        operation="get_blob",
        service="blobs",
        path="/{}/{}",
        answer=_storage.get_blob,
        accepts=None,
        guarded=False,
    ),
    Route(
        operation="issue_token",
        service="identity",
        method="POST",
        path="/connect/token",
        answer=_identity.issue_token,
        accepts=None,
        guarded=False,
    ),
)

OPERATIONS = frozenset(route.operation for route in _ROUTES)

_PUBLIC = Addresses()
_STAGES = frozenset({_PUBLIC.api, "https://qa-api.bentley.com", "https://dev-api.bentley.com"})


def route(request: Request, addresses: Addresses, *, now: float) -> tuple[Route, Call]:
    """The operation a request means, `UNKNOWN` if none, and what it says.

    Raises `ConnectionRefusedError` when there is no such host.
    """
    parts = urlsplit(request.url)
    services = _services(_origin(request.url), addresses)
    if not services:
        raise ConnectionRefusedError(f"nobody listens at {parts.netloc}")
    segments = _segments(parts.path)
    query = MappingProxyType(
        {name.lower(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
    )
    for candidate in _ROUTES:
        if candidate.service not in services or candidate.method != request.method:
            continue
        ids = _ids(candidate.path, segments)
        if ids is not None and _is_acceptable(candidate, request):
            return candidate, Call(request=request, now=now, ids=ids, query=query)
    return UNKNOWN, Call(request=request, now=now, query=query)


def _services(origin: str, addresses: Addresses) -> frozenset[str]:
    found = {
        "api": origin in _STAGES or origin == addresses.api,
        "identity": origin in (_origin(_PUBLIC.token), _origin(addresses.token)),
        "blobs": origin in (_PUBLIC.blobs, addresses.blobs),
    }
    return frozenset(service for service, is_here in found.items() if is_here)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _ids(template: tuple[str, ...], segments: tuple[str, ...]) -> tuple[str, ...] | None:
    if len(template) != len(segments):
        return None
    pairs = list(zip(template, segments, strict=True))
    if any(fixed not in ("{}", given.lower()) for fixed, given in pairs):
        return None
    return tuple(unquote(given) for fixed, given in pairs if fixed == "{}")


def _is_acceptable(candidate: Route, request: Request) -> bool:
    if candidate.accepts is None:
        return True
    asked = header_of(request, "Accept").split(",")
    return any(kind.partition(";")[0].strip().lower() in candidate.accepts for kind in asked)
