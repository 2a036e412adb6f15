"""The emulator: all services behind one `handle`, in memory or served."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from math import inf
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote

from itwin_export_async._protocol.messages import Request, Response, StreamedResponse
from itwin_export_async.emulator._audit.violations import Violation
from itwin_export_async.emulator._config import Settings
from itwin_export_async.emulator._dashboard.snapshot import status_pages
from itwin_export_async.emulator._handlers.identity import SCOPE, add_refresh_token, add_token
from itwin_export_async.emulator._http.in_memory import carried, handled, streamed
from itwin_export_async.emulator._http.pipeline import Gateway
from itwin_export_async.emulator._http.request_log import RequestRecord
from itwin_export_async.emulator._http.routes import OPERATIONS, UNKNOWN
from itwin_export_async.emulator._http.server import ServerAddress, serving
from itwin_export_async.emulator._middleware.chaos import Chaos
from itwin_export_async.emulator._middleware.faults import Outcome
from itwin_export_async.emulator._middleware.quirks import QuirkSet
from itwin_export_async.emulator._middleware.rate_limiter import Limits
from itwin_export_async.emulator._state.contents import Content
from itwin_export_async.emulator._state.ids import composite, new_guid
from itwin_export_async.emulator._state.platform import Addresses, Platform
from itwin_export_async.emulator._state.run_lifecycle import RunPlan

_WEEK = 7 * 86400.0


class Emulator(Settings):
    """The Export and Synchronization APIs, Storage, blob stores and the token endpoint in one.

    Equal seeds and equal requests give equal ids, states and files. Runs live `speed` times
    faster than real ones; `run_seconds` says how long they take before that (see `Settings`, whose
    attributes may be changed at any time). `epoch` is what the service's clock shows at first use,
    now if not given. `tier` is the subscription whose rate limit holds: "Community" (500 calls a
    minute and 5,000 an hour), "Standard" (5,000 a minute), or None for no limit; a mapping such as
    `{6.0: 500}`, calls by seconds, is a "Custom" one with these windows. `quirks` are names out of
    `QUIRKS` of the oddities that answers have, or "all".
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
        tier: str | Mapping[float, int] | None = None,
        quirks: str | Iterable[str] = (),
    ) -> None:
        super().__init__(
            speed=speed,
            run_seconds=run_seconds,
            token_lifetime=token_lifetime,
            page_size=page_size,
        )
        self._world = Platform.from_seed(seed, settings=self, epoch=epoch or datetime.now(UTC))
        self._gateway = Gateway(self._world)
        self.tier = tier
        self.quirks = quirks

    @property
    def tier(self) -> str | None:
        """The subscription whose rate limit holds, None for no limit. A new one counts anew."""
        return self._gateway.limits.tier if self._gateway.limits else None

    @tier.setter
    def tier(self, tier: str | Mapping[float, int] | None) -> None:
        self._gateway.limits = None if tier is None else Limits(tier)

    @property
    def quirks(self) -> frozenset[str]:
        """The names of the oddities that answers have, out of `QUIRKS`; all by "all"."""
        return self._gateway.oddities.names

    @quirks.setter
    def quirks(self, quirks: str | Iterable[str]) -> None:
        self._gateway.oddities = QuirkSet(quirks)

    @property
    def chaos(self) -> Chaos | None:
        """What goes wrong by chance, None for nothing."""
        return self._gateway.chaos

    @chaos.setter
    def chaos(self, chaos: Chaos | None) -> None:
        self._gateway.chaos = chaos

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests that were made; of very many the latest hundred thousand or so."""
        return self._gateway.journal.records

    @property
    def violations(self) -> list[Violation]:
        """What clients must not do and did, each cause once."""
        return self._gateway.judge.violations.found

    def assert_no_violations(self) -> None:
        """Raise an `AssertionError` that names all violations, if there are any."""
        self._gateway.judge.violations.assert_none()

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

    def add_file(self, name: str, content: Content, *, itwin_id: str | None = None) -> str:
        """The Storage id of a new file in the root folder, of a new iTwin when none is given.

        A `SparseContent` may be of any length: it takes no memory.
        """
        world = self._world
        stored = world.drive.add_file(
            lambda: content,
            itwin_id=itwin_id or new_guid(world.ids),
            guid=new_guid(world.ids),
            name=name,
            since=world.clock.now(),
        )
        return stored.id

    def root_folder(self, itwin_id: str) -> str:
        """The Storage id of an iTwin's root folder."""
        return composite(itwin_id, itwin_id)

    def user_blob(
        self, name: str, *, lifetime: float | None = None, content: Content | None = None
    ) -> str:
        """The SAS address, good to read and write, of a blob in a caller's own account.

        It is good for `lifetime` seconds, or a week. Ask for it while the emulator is served if
        it is to be reached by sockets. Without `content` there is no blob yet.
        """
        world = self._world
        now = world.clock.now()
        path = f"/exports/{quote(name, safe='')}"
        if content is not None:
            world.drive.blobs.put(path, lambda: content, since=now)
        expiry = world.clock.moment(now + (_WEEK if lifetime is None else lifetime))
        query = world.drive.blobs.sign(path, rights="rcw", expiry=expiry, name=name)
        return f"{world.addresses.user_blobs}{path}?{query}"

    def token(self, *, lifetime: float | None = None, scope: str = SCOPE) -> str:
        """An access token, good for `lifetime` seconds or as long as any."""
        seconds = self.token_lifetime if lifetime is None else lifetime
        return add_token(self._world, lifetime=seconds, scope=scope)

    def refresh_token(self) -> str:
        """A user's refresh token: the token endpoint takes it once, and gives the next.

        It is for the application of this `client_id`, which need not show its secret.
        """
        return add_refresh_token(self._world)

    def plan_next_run(
        self,
        imodel_id: str,
        result: str = "Success",
        *,
        task_result: str | None = None,
        duration: float | None = None,
        service: Literal["export", "synchronization"] = "export",
    ) -> None:
        """Lay down how the next run of this iModel ends, runs already laid down coming first.

        `task_result` is what its jobs and tasks say, so that they can contradict the run;
        `seconds` is how long it takes before `speed` counts.
        """
        if imodel_id not in self._world.imodels:
            raise ValueError(f"no iModel {imodel_id}")
        plan = RunPlan(result=result, task_result=task_result, duration=duration)
        services = {"export": self._world.exports, "synchronization": self._world.synchronizations}
        if service not in services:
            raise ValueError(f"no service {service}, only {' and '.join(services)}")
        services[service].enqueue_plan(imodel_id, plan)

    def inject(
        self,
        operation: str,
        *outcomes: Outcome | None,
        apply_effect: bool = False,
        truncate_after: int | None = None,
        delay: float = 0.0,
    ) -> None:
        """Lay down what the next requests of an operation get, one outcome each.

        An outcome is a `Response`, an exception such as `ConnectionResetError` for an answer that
        never comes, or None for the true answer. With `after` the request has its effect before its
        answer is lost. The connection breaks `after_bytes` of the answer's body; the answer comes
        `late` by so many seconds, whether the client still waits for it or not. `ValueError` for an
        operation that there is not.
        """
        _check_operation(operation, OPERATIONS)
        self._gateway.script.add(
            operation,
            *outcomes,
            apply_effect=apply_effect,
            truncate_after=truncate_after,
            delay=delay,
        )

    def count(self, operation: str) -> int:
        """How many requests of this operation were made; those of none are "unknown".

        `ValueError` for an operation that there is not.
        """
        _check_operation(operation, OPERATIONS | {UNKNOWN.operation})
        return self._gateway.journal.counts[operation]

    def read_file(self, file_id: str) -> bytes:
        """The content of a file, by its id in Storage or the one its run names.

        `KeyError` when there is none. Whether its run has ended does not matter here.
        """
        drive = self._world.drive
        stored = drive.files.get(file_id) or drive.file(file_id)
        blob = stored and drive.blobs.get(stored.blob, now=inf)
        if not blob:
            raise KeyError(file_id)
        return blob.write()[:]

    def handle(self, request: Request) -> Response:
        """The answer to one request, its body whole.

        A broken connection is a builtin `ConnectionRefusedError`, `ConnectionResetError` or
        `TimeoutError`.
        """
        return handled(self._gateway, request)

    async def send(self, request: Request, /) -> Response:
        """The answer to one request, after `latency` seconds; the emulator as a transport."""
        return await carried(self._gateway, self, request)

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedResponse]:
        """The answer to one request, its body in pieces."""
        return streamed(self._gateway, self, request)

    async def close(self) -> None:
        """Nothing: the emulator holds nothing open."""

    @asynccontextmanager
    async def serve(
        self, *, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncIterator[ServerAddress]:
        """The services behind a real server, for as long as the block lasts.

        Blobs come from a second port. Links and Location headers name the real addresses. In a
        browser the base address shows what goes on, as does `/emulator/state.json` in JSON.
        """
        before = self._world.addresses
        pages = status_pages(self._gateway)
        async with serving(self._gateway, host=host, port=port, pages=pages) as (served, blobs):
            self._world.addresses = Addresses(
                api=served.base_url, token=served.token_url, blobs=blobs, user_blobs=blobs
            )
            try:
                yield served
            finally:
                self._world.addresses = before


def _check_operation(operation: str, known: frozenset[str]) -> None:
    if operation not in known:
        raise ValueError(f"no operation {operation}, only {', '.join(sorted(known))}")
