"""The emulator: all services behind one `handle`, in memory or served."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import MappingProxyType
from urllib.parse import urlsplit

from attrs import evolve, frozen

from itwin_export_async._protocol.http import BodyStream, Request, Response, TransportError
from itwin_export_async.emulator._answers import Refused
from itwin_export_async.emulator._identity import SCOPE, add_token, admit
from itwin_export_async.emulator._routes import OPERATIONS, Route, route
from itwin_export_async.emulator._runs import Fate
from itwin_export_async.emulator._script import Outcome, Script
from itwin_export_async.emulator._server import Served, serving
from itwin_export_async.emulator._settings import Settings
from itwin_export_async.emulator._world import Addresses, Call, World

_PIECE = 64 * 1024


@frozen(kw_only=True)
class RequestRecord:
    """One request that was made: when, in seconds since the first, and what came of it.

    `operation` is "unknown" where the gateway knows none. `status` is None when no answer was
    given.
    """

    at: float
    operation: str
    method: str
    path: str
    status: int | None


class Emulator(Settings):
    """The Export API, the token endpoint and the downloads of Storage, in one object.

    Equal seeds and equal requests give equal ids, states and files. Runs live `speed` times
    faster than real ones; `run_seconds` says how long they take before that (see `Settings`, whose
    attributes may be changed at any time). `epoch` is what the service's clock shows at first use,
    now if not given. `requests` are all that were made.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        speed: float = 1.0,
        run_seconds: float | tuple[float, float] | None = None,
        token_lifetime: float = 3600.0,
        epoch: datetime | None = None,
        page_size: int = 50,
    ) -> None:
        super().__init__(
            speed=speed,
            run_seconds=run_seconds,
            token_lifetime=token_lifetime,
            page_size=page_size,
        )
        self._world = World.from_seed(seed, settings=self, epoch=epoch or datetime.now(UTC))
        self._script = Script()
        self.requests: list[RequestRecord] = []

    @property
    def client_id(self) -> str:
        """The id of the only service application."""
        return self._world.client_id

    @property
    def client_secret(self) -> str:
        """The secret of the only service application."""
        return self._world.client_secret

    @property
    def imodels(self) -> Mapping[str, str]:
        """The names of all iModels by their ids."""
        return MappingProxyType({i.id: i.name for i in self._world.imodels.values()})

    def add_imodel(
        self, name: str = "Bridge", *, itwin_id: str | None = None, authorized: bool = True
    ) -> str:
        """The id of a new iModel, in a new iTwin when none is given.

        One that is not `authorized` exists, but whoever asks gets a 403.
        """
        return self._world.add_imodel(name, itwin_id=itwin_id, authorized=authorized).id

    def add_file(self, name: str, content: bytes, *, itwin_id: str | None = None) -> str:
        """The Storage id of a new file, in a new iTwin when none is given."""
        return self._world.add_file(name, content, itwin_id=itwin_id).id

    def token(self, *, lifetime: float | None = None, scope: str = SCOPE) -> str:
        """An access token, good for `lifetime` seconds or as long as any."""
        seconds = self.token_lifetime if lifetime is None else lifetime
        return add_token(self._world, lifetime=seconds, scope=scope)

    def fate(
        self,
        imodel_id: str,
        result: str = "Success",
        *,
        task_result: str | None = None,
        seconds: float | None = None,
    ) -> None:
        """Lay down how the next run of this iModel ends, runs already laid down coming first.

        `task_result` is what its job and task say, so that they can contradict the run; `seconds`
        is how long it takes before `speed` counts.
        """
        if imodel_id not in self._world.imodels:
            raise ValueError(f"no iModel {imodel_id}")
        fate = Fate(result=result, task_result=task_result, seconds=seconds)
        self._world.fates.setdefault(imodel_id, deque()).append(fate)

    def script(self, operation: str, *outcomes: Outcome, after: bool = False) -> None:
        """Lay down what the next requests of an operation get, one outcome each.

        An outcome is a `Response`, or an exception such as `ConnectionResetError` for an answer
        that never comes. With `after` the request has its effect before its answer is lost.
        """
        if operation not in OPERATIONS:
            raise ValueError(f"no operation {operation}, only {', '.join(sorted(OPERATIONS))}")
        self._script.add(operation, *outcomes, after=after)

    def count(self, operation: str) -> int:
        """How many requests of this operation were made."""
        return sum(record.operation == operation for record in self.requests)

    def output(self, file_id: str) -> bytes:
        """The content of a file, by its id in Storage or the one its run names.

        `KeyError` when there is none. Whether its run has ended does not matter here.
        """
        stored = self._world.files.get(file_id) or self._world.file(file_id)
        if stored is None:
            raise KeyError(file_id)
        return stored.write()

    def handle(self, request: Request) -> Response:
        """The answer to one request.

        A broken connection is a builtin `ConnectionRefusedError`, `ConnectionResetError` or
        `TimeoutError`.
        """
        now = self._world.clock.now()
        operation, status = "unknown", None
        try:
            found, call = route(request, self._world.addresses, now=now)
            operation = found.operation
            response = self._script.play(operation, lambda: self._truth(found, call))
            status = response.status
        finally:
            self._record(request, now, operation, status)
        headers = response.headers
        if "Date" not in headers:
            headers = {**headers, "Date": self._world.clock.http_date(now)}
        return evolve(response, headers=headers, method=request.method, url=request.url)

    async def send(self, request: Request, /) -> Response:
        """The answer to one request, after `latency` seconds; the emulator as a transport."""
        await asyncio.sleep(self.latency)
        try:
            return self.handle(request)
        except (ConnectionError, TimeoutError) as exc:
            raise TransportError(
                message=str(exc) or type(exc).__name__,
                method=request.method,
                url=request.url,
                sent=not isinstance(exc, ConnectionRefusedError),
            ) from exc

    @asynccontextmanager
    async def stream(self, request: Request, /) -> AsyncIterator[BodyStream]:
        """The answer to one request, its body in pieces."""
        response = await self.send(request)
        yield BodyStream(head=evolve(response, body=b""), chunks=_pieces(response.body))

    async def close(self) -> None:
        """Nothing: the emulator holds nothing open."""

    @asynccontextmanager
    async def serve(self, *, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Served]:
        """The services behind a real server, for as long as the block lasts.

        Blobs come from a second port. Links and Location headers name the real addresses.
        """
        before = self._world.addresses
        async with serving(self.handle, host=host, port=port) as (served, blobs):
            self._world.addresses = Addresses(
                api=served.base_url, token=served.token_url, blobs=blobs
            )
            try:
                yield served
            finally:
                self._world.addresses = before

    def _truth(self, found: Route, call: Call) -> Response:
        try:
            if found.guarded:
                admit(self._world, call.request)
            return found.answer(self._world, call)
        except Refused as refused:
            return refused.response

    def _record(self, request: Request, at: float, operation: str, status: int | None) -> None:
        path = urlsplit(request.url).path
        self.requests.append(
            RequestRecord(
                at=at, operation=operation, method=request.method, path=path, status=status
            )
        )


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE):
        await asyncio.sleep(0)
        yield body[start : start + _PIECE]
