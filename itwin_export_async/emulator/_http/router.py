"""Which operation a request means: by host, method, path and, at the gateway, by Accept.

The letter case of paths does not matter, that of the ids in them does.
"""

from collections import defaultdict
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote, urlsplit

from itwin_export_async._protocol.messages import Request
from itwin_export_async.emulator._http.messages import header_of
from itwin_export_async.emulator._http.routes import ROUTES, UNKNOWN, Route, segments
from itwin_export_async.emulator._state.platform import PUBLIC, Addresses, Call

_STAGES = frozenset({PUBLIC.api, "https://qa-api.bentley.com", "https://dev-api.bentley.com"})


def _by_shape() -> dict[tuple[str, int], list[Route]]:
    found = defaultdict(list)
    for known in ROUTES:
        found[known.method, len(known.path)].append(known)
    return dict(found)


_ROUTES = _by_shape()


def route(request: Request, addresses: Addresses, *, now: float) -> tuple[Route, Call]:
    """The operation a request means, `UNKNOWN` if none, and what it says.

    Raises `ConnectionRefusedError` when there is no such host.
    """
    parts = urlsplit(request.url)
    services = _services(f"{parts.scheme}://{parts.netloc.lower()}", addresses)
    if not services:
        raise ConnectionRefusedError(f"nobody listens at {parts.netloc}")
    given = segments(parts.path)
    query = MappingProxyType(
        {name.lower(): value for name, value in parse_qsl(parts.query, keep_blank_values=True)}
        if parts.query
        else {}
    )
    for candidate in _ROUTES.get((request.method, len(given)), ()):
        if candidate.service not in services:
            continue
        if candidate.service == "blobs" and candidate.comp != query.get("comp", ""):
            continue
        ids = _ids(candidate.path, given)
        if ids is None:
            continue
        if _is_acceptable(candidate, request):
            return candidate, Call(request=request, now=now, ids=ids, query=query)
        return UNKNOWN, Call(request=request, now=now, query=query, unaccepted=candidate.operation)
    return UNKNOWN, Call(request=request, now=now, query=query)


@lru_cache(maxsize=64)  # one emulator has three addresses
def _services(origin: str, addresses: Addresses) -> frozenset[str]:
    found = {
        "api": origin in _STAGES or origin == addresses.api,
        "identity": origin in (_origin(PUBLIC.token), _origin(addresses.token)),
        "blobs": PUBLIC.have_blobs_at(origin) or addresses.have_blobs_at(origin),
    }
    return frozenset(service for service, is_here in found.items() if is_here)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _ids(template: tuple[str, ...], given: tuple[str, ...]) -> tuple[str, ...] | None:
    ids = []
    for fixed, said in zip(template, given, strict=True):
        if fixed == "{}":
            ids.append(unquote(said))
        elif fixed != said and fixed != said.lower():
            return None
    return tuple(ids)


def _is_acceptable(candidate: Route, request: Request) -> bool:
    if candidate.accepts is None:
        return True
    asked = header_of(request, "Accept")
    if asked in candidate.accepts:
        return True
    return any(
        kind.partition(";")[0].strip().lower() in candidate.accepts for kind in asked.split(",")
    )
