"""The emulator: all services as one object, in memory or served."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from math import inf
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import quote

from attrs import define, field, setters
from attrs.validators import instance_of, optional

from itwin_export_async._protocol.messages import Request, Response, StreamedResponse
from itwin_export_async.emulator._audit.violations import Violation
from itwin_export_async.emulator._clock import Clock
from itwin_export_async.emulator._config import Settings, check_choice, check_number
from itwin_export_async.emulator._dashboard.snapshot import snapshot
from itwin_export_async.emulator._handlers.identity import SCOPE
from itwin_export_async.emulator._http.in_memory import InMemoryTransport
from itwin_export_async.emulator._http.pipeline import ROUTER, Pipeline
from itwin_export_async.emulator._http.request_log import RequestRecord
from itwin_export_async.emulator._http.router import UNKNOWN
from itwin_export_async.emulator._http.server import ServerAddress, running_server
from itwin_export_async.emulator._middleware.chaos import Chaos
from itwin_export_async.emulator._middleware.fault_injection import Outcome, parse_outcome
from itwin_export_async.emulator._middleware.quirks import QuirkSet, parse_quirks
from itwin_export_async.emulator._middleware.rate_limiter import RateLimiter
from itwin_export_async.emulator._state.blobs import Content, SparseContent
from itwin_export_async.emulator._state.ids import encode_storage_id, is_guid, new_guid, new_sha1_id
from itwin_export_async.emulator._state.imodels import (
    IMODEL_STATES,
    PUSH_DATES,
    VERSION_STATES,
    IModel,
    PushDate,
)
from itwin_export_async.emulator._state.platform import Platform
from itwin_export_async.emulator._state.run_lifecycle import RESULTS, RunPlan
from itwin_export_async.emulator._state.webhooks import WebhookDelivery

_WEEK = 7 * 86400.0

Tier = str | Mapping[float, int] | None


@define(kw_only=True, eq=False, repr=False)
class Emulator(Settings):
    """The Export, Synchronization, Storage, iModels and Webhooks APIs, blobs, and tokens.

    Equal seeds and equal requests give equal ids, states and files. The other arguments:

    - `epoch` is the date that the service's clock shows at first use; None means now.
    - `tier` is the subscription whose rate limit applies: "Community" (500 calls a minute and 5,000
      an hour), "Standard" or "Premium" (5,000 a minute), a mapping of seconds to calls, such as
      `{6.0: 500}`, or None for no limit.
    - `quirks` are names out of `QUIRKS`, or "all": odd forms of the answers.
    - `chaos` are the rates of random faults, None for no such faults.

    See `Settings` for the rest. All of them but `seed` and `epoch` are attributes that can be
    changed at any time.
    """

    seed: int = field(default=0, validator=instance_of(int), on_setattr=setters.frozen)
    epoch: datetime | None = field(
        default=None, validator=optional(instance_of(datetime)), on_setattr=setters.frozen
    )
    _tier: Tier = field(default=None)
    _quirks: frozenset[str] = field(default=(), converter=parse_quirks)
    _chaos: Chaos | None = field(default=None, validator=optional(instance_of(Chaos)))
    _clock: Clock = field(init=False)
    _platform: Platform = field(init=False)
    _pipeline: Pipeline = field(init=False)
    _transport: InMemoryTransport = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._clock = Clock(self.epoch or datetime.now(UTC))
        self._platform = Platform.from_seed(self.seed, settings=self, clock=self._clock)
        self._pipeline = Pipeline(self._platform)
        self._transport = InMemoryTransport(self._pipeline)
        self.tier = self._tier
        self.quirks = self._quirks
        self.chaos = self._chaos

    def __repr__(self) -> str:
        return (
            f"<Emulator seed={self.seed} imodels={len(self._platform.imodels)} "
            f"requests={self._pipeline.log.counts.total()} violations={len(self.violations)}>"
        )

    @property
    def tier(self) -> Tier:
        """The subscription whose rate limit applies, None for no limit."""
        return self._tier

    @tier.setter
    def tier(self, tier: Tier) -> None:
        self._pipeline.rate_limiter = None if tier is None else RateLimiter.for_tier(tier)
        self._tier = tier

    @property
    def quirks(self) -> frozenset[str]:
        """The names of the enabled quirks, out of `QUIRKS`; "all" enables every one."""
        return self._quirks

    @quirks.setter
    def quirks(self, quirks: str | Iterable[str]) -> None:
        self._quirks = parse_quirks(quirks)
        self._pipeline.quirks = QuirkSet(self._quirks)

    @property
    def chaos(self) -> Chaos | None:
        """The rates of random faults, None for no such faults."""
        return self._chaos

    @chaos.setter
    def chaos(self, chaos: Chaos | None) -> None:
        self._chaos = chaos
        self._pipeline.set_chaos(chaos)

    @property
    def requests(self) -> list[RequestRecord]:
        """The requests that were made; at most about the latest `max_recorded_requests`."""
        return self._pipeline.log.records

    @property
    def violations(self) -> list[Violation]:
        """What clients must not do, and did. Each cause is in it once."""
        return self._pipeline.auditor.log.violations

    @property
    def unmet_faults(self) -> list[str]:
        """A description of each injected fault that has met no request."""
        return self._pipeline.faults.unmet()

    def assert_no_violations(self) -> None:
        """Raise an `AssertionError` that names all violations and all unmet faults, if any."""
        self._pipeline.auditor.log.assert_none(self.unmet_faults)

    def state(self) -> dict[str, Any]:
        """Return what the services hold, in JSON types: runs, connections, files, requests, ...

        The newest items come first, and long lists are cut. It contains no secret.
        """
        return snapshot(self._pipeline, self._platform.endpoints)

    def reset(self) -> None:
        """Begin again as a new emulator with this seed and the present settings.

        Everything else is forgotten: iModels, connections, runs, files, tokens, requests,
        violations, injected faults and plans. The clock continues.
        """
        served = self._platform.served_endpoints
        self._platform = Platform.from_seed(self.seed, settings=self, clock=self._clock)
        self._platform.served_endpoints = served
        self._pipeline.reset(self._platform)

    @property
    def client_id(self) -> str:
        """The id of the only service application."""
        return self._platform.client_id

    @property
    def client_secret(self) -> str:
        """The secret of the only service application."""
        return self._platform.client_secret

    @property
    def imodels(self) -> Mapping[str, str]:
        """The names of all iModels by id."""
        return MappingProxyType({i.id: i.name for i in self._platform.imodels.values()})

    def itwin_id(self, imodel_id: str) -> str:
        """Return the id of the iTwin that an iModel belongs to."""
        return self._imodel(imodel_id).itwin_id

    def add_imodel(
        self,
        name: str = "Bridge",
        *,
        itwin_id: str | None = None,
        authorized: bool = True,
        description: str = "",
        state: Literal["initialized", "notInitialized"] = "initialized",
        last_changeset_push: PushDate = "reported",
    ) -> str:
        """Add an iModel and return its id. It is in a new iTwin unless one is given.

        - An iModel that is not `authorized` is absent from lists and gives 403 otherwise.
        - Exports of an iModel that is not initialized fail.
        - `last_changeset_push` says how the date of the last push is reported: "reported", always
          "null", or "missing".
        """
        if itwin_id is not None and not is_guid(itwin_id):
            raise ValueError(f"itwin_id must be a GUID, got {itwin_id!r}")
        check_choice("state", state, IMODEL_STATES)
        check_choice("last_changeset_push", last_changeset_push, PUSH_DATES)
        imodel = self._platform.add_imodel(
            name,
            itwin_id=itwin_id,
            description=description,
            state=state,
            push_date=last_changeset_push,
            permissions=None if authorized else frozenset(),
        )
        return imodel.id

    def push_changeset(self, imodel_id: str, *, description: str = "") -> str:
        """Push a changeset to an iModel and return its id."""
        imodel = self._imodel(imodel_id)
        changeset = imodel.push(
            new_sha1_id(self._platform.id_rng), description=description, now=self._clock.now()
        )
        content = {"imodelId": imodel.id, "changesetId": changeset.id}
        self._platform.publish(imodel, "iModels.changesReady.v1", content)
        return changeset.id

    def add_named_version(
        self,
        imodel_id: str,
        name: str,
        changeset_id: str | None = None,
        *,
        state: Literal["visible", "hidden"] = "visible",
        description: str | None = None,
    ) -> str:
        """Add a named version of an iModel and return its id.

        It stands on the changeset with this id, on the baseline if that is None. Names are unique
        in an iModel, and a changeset has one named version at most.
        """
        imodel, now = self._imodel(imodel_id), self._clock.now()
        check_choice("state", state, VERSION_STATES)
        version = imodel.add_named_version(
            name,
            changeset_id,
            rng=self._platform.id_rng,
            state=state,
            description=description,
            now=now,
        )
        content = {
            "changesetId": version.changeset_id or "",
            "changesetIndex": str(version.changeset_index),
            "imodelId": imodel.id,
            "namedVersionId": version.id,
        }
        self._platform.publish(imodel, "iModels.namedVersionCreated.v1", content)
        return version.id

    def set_permissions(self, scope_id: str, permissions: Iterable[str] | None) -> None:
        """Set the caller's permissions in an iModel or in an iTwin, by its id.

        Those of an iModel override those of its iTwin. None removes the override. Without
        `imodels_webview` an iModel is absent from lists, so that an application that is no member
        of an iTwin (no permissions) gets empty lists. Exports require `imodels_read`, their outputs
        in Storage `storage_write`, webhooks `webhooks_maintainer`. All are granted at first.
        """
        self._platform.set_permissions(scope_id, permissions)

    def add_file(self, name: str, content: Content, *, itwin_id: str | None = None) -> str:
        """Add a file and return its Storage id. It is in the root folder of an iTwin.

        The iTwin is a new one unless its id is given. A `SparseContent` may be of any length and
        takes no memory.
        """
        if not isinstance(content, bytes | SparseContent):
            raise TypeError(f"content must be bytes or a SparseContent, got {type(content)}")
        platform = self._platform
        stored = platform.file_store.add_file(
            lambda: content,
            itwin_id=itwin_id or new_guid(platform.id_rng),
            guid=new_guid(platform.id_rng),
            name=name,
            since=self._clock.now(),
        )
        return stored.id

    def root_folder(self, itwin_id: str) -> str:
        """Return the Storage id of an iTwin's root folder."""
        return encode_storage_id(itwin_id, itwin_id)

    def user_blob(
        self, name: str, *, lifetime: float | None = None, content: Content | None = None
    ) -> str:
        """Return a SAS URL for a blob in an account of the caller's own, to read and to write.

        It is valid for `lifetime` seconds, None means a week. Without `content` the blob does not
        exist yet. To reach it through a socket, call this while the emulator is served.
        """
        platform, now = self._platform, self._clock.now()
        blobs = platform.file_store.blobs
        path = f"/exports/{quote(name, safe='')}"
        if content is not None:
            blobs.put(path, lambda: content, since=now)
        expiry = self._clock.moment(now + (_WEEK if lifetime is None else lifetime))
        query = blobs.sign(path, rights="rcw", expiry=expiry, name=name)
        return f"{platform.endpoints.user_blobs}{path}?{query}"

    def token(self, *, lifetime: float | None = None, scope: str = SCOPE) -> str:
        """Return an access token, valid for `lifetime` seconds; None means `token_lifetime`."""
        seconds = self.token_lifetime if lifetime is None else lifetime
        check_number("lifetime", seconds, lowest=0)
        return self._platform.add_token(lifetime=seconds, scope=scope)

    def refresh_token(self) -> str:
        """Return a refresh token of a user.

        The token endpoint accepts it once, and returns the next one. It is for the application
        `client_id`, whose secret is optional.
        """
        return self._platform.add_refresh_token()

    def plan_next_run(
        self,
        imodel_id: str,
        result: str = "Success",
        *,
        task_result: str | None = None,
        duration: float | None = None,
        service: Literal["export", "synchronization"] = "export",
        times: int | None = 1,
    ) -> None:
        """Plan the next run of an iModel, after those that are planned already.

        `task_result` is the result of its jobs and tasks, which may contradict the run; None means
        that they agree. `duration` is in seconds at speed 1; None means that it is drawn. The plan
        is for so many runs; None means for all that have no other plan.
        """
        self._imodel(imodel_id)
        check_choice("result", result, RESULTS)
        if task_result is not None:
            check_choice("task_result", task_result, RESULTS)
        if duration is not None:
            check_number("duration", duration, lowest=0)
        check_choice("service", service, ("export", "synchronization"))
        plan = RunPlan(result=result, task_result=task_result, duration=duration)
        is_export = service == "export"
        connections = self._platform.exports if is_export else self._platform.synchronizations
        if times is not None:
            check_number("times", times, lowest=1)
        connections.plan_runs(imodel_id, plan, times=times)

    def inject(
        self,
        operation: str,
        *faults: Outcome | int | None,
        apply_effect: bool = False,
        truncate_after: int | None = None,
        delay: float = 0.0,
    ) -> None:
        """Inject faults into the next requests of an operation, one fault each.

        - A fault is a `Response`, a status, an exception such as `ConnectionResetError()` for an
          answer that never arrives, or None for the real answer.
        - With `apply_effect` the request is processed before its answer is replaced.
        - The connection breaks after `truncate_after` bytes of the answer's body.
        - The answer is delayed by `delay` seconds, whether the client waits for it or not.
        """
        check_choice("operation", operation, ROUTER.operations)
        if not faults:
            raise ValueError("no fault was given: pass a status, a Response, an exception or None")
        outcomes = [parse_outcome(fault) for fault in faults]
        check_number("delay", delay, lowest=0)
        if truncate_after is not None:
            check_number("truncate_after", truncate_after, lowest=0)
        for outcome in outcomes:
            self._pipeline.faults.add(
                operation,
                outcome,
                apply_effect=apply_effect,
                truncate_after=truncate_after,
                delay=delay,
            )

    def count(self, operation: str) -> int:
        """Return how many requests of an operation were made, "unknown" included."""
        check_choice("operation", operation, ROUTER.operations | {UNKNOWN.operation})
        return self._pipeline.log.counts[operation]

    def read_file(self, file_id: str) -> bytes:
        """Return the content of a file, by its Storage id or the GUID that its run names.

        Raises `KeyError` if there is none. The run need not have ended.
        """
        store = self._platform.file_store
        stored = store.files.get(file_id) or store.file(file_id)
        blob = stored and store.blobs.get(stored.blob, now=inf)
        if not blob:
            raise KeyError(file_id)
        return blob.write()[:]

    def webhook_deliveries(self) -> list[WebhookDelivery]:
        """Return the webhook events that are due, signed and ready to be posted.

        Each event is returned once, and `webhook_repeats` times more. A served emulator posts them
        itself.
        """
        return list(
            self._platform.webhooks.take_deliveries(
                self._clock.now(),
                delay=self.webhook_delay,
                repeats=self.webhook_repeats,
                tampering=self.webhook_tampering,
                date=self._clock.event_date,
            )
        )

    def handle(self, request: Request) -> Response:
        """Return the answer to one request, with its whole body.

        A broken connection is a builtin `ConnectionRefusedError`, `ConnectionResetError` or
        `TimeoutError`.
        """
        return self._transport.handle(request)

    async def send(self, request: Request, /) -> Response:
        """Return the answer to one request after `latency` seconds: the emulator as transport."""
        return await self._transport.send(request)

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedResponse]:
        """Return the answer to one request with its body in chunks."""
        return self._transport.stream(request)

    async def close(self) -> None:
        """Do nothing: the emulator keeps nothing open."""

    @asynccontextmanager
    async def serve(
        self, *, host: str = "127.0.0.1", port: int = 0, public_url: str | None = None
    ) -> AsyncIterator[ServerAddress]:
        """Serve the services over HTTP while the block is active.

        Links and `Location` headers name the host of the request, or `public_url`. On a loopback
        host the blobs are on a second port, otherwise below `/blobs` of the only one. The base URL
        shows a dashboard. Tests in other languages control the emulator over HTTP, see the package.
        """
        async with running_server(self, self._pipeline, host, port, public_url) as address:
            yield address

    def _imodel(self, imodel_id: str) -> IModel:
        imodel = self._platform.imodels.get(imodel_id)
        if imodel is None:
            raise ValueError(
                f"there is no iModel {imodel_id!r}: use an id that add_imodel returned"
            )
        return imodel
