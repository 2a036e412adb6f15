"""The state behind all operations, and the request that an operation gets."""

from collections.abc import Iterable, Mapping
from copy import copy
from random import Random
from types import MappingProxyType
from urllib.parse import urlsplit

from attrs import define, evolve, field, frozen

from itwin_export_async._protocol.messages import Request
from itwin_export_async.emulator._clock import Clock
from itwin_export_async.emulator._config import Settings
from itwin_export_async.emulator._state.blobs import BlobStore
from itwin_export_async.emulator._state.connections import (
    Connection,
    ConnectionService,
    SourceFile,
)
from itwin_export_async.emulator._state.files import FileStore, StoredFile
from itwin_export_async.emulator._state.ids import encode_storage_id, new_guid
from itwin_export_async.emulator._state.imodels import ALL_PERMISSIONS, IModel, PushDate
from itwin_export_async.emulator._state.run_lifecycle import Run
from itwin_export_async.emulator._state.webhooks import Event, WebhookService

_MAX_TOKENS = 10_000
_RESTORED = (
    "id_rng",
    "imodels",
    "file_store",
    "webhooks",
    "permissions",
    "tokens",
    "refresh_tokens",
)


@frozen(kw_only=True)
class Endpoints:
    """The URLs of the services, as links name them.

    `blobs` holds the files of Storage, `user_blobs` an account of the caller's own.
    """

    api: str = "https://api.bentley.com"
    token: str = "https://ims.bentley.com/connect/token"
    blobs: str = "https://emulatedblobs.blob.core.windows.net"
    user_blobs: str = "https://callersblobs.blob.core.windows.net"

    @classmethod
    def served_at(cls, base_url: str, blobs: str) -> "Endpoints":
        """Return those of a served emulator."""
        return cls(api=base_url, token=f"{base_url}/connect/token", blobs=blobs, user_blobs=blobs)


PRODUCTION = Endpoints()
QA = Endpoints(
    api="https://qa-api.bentley.com",
    token="https://qa-ims.bentley.com/connect/token",  # noqa: S106 - a URL
)
DEV = evolve(QA, api="https://dev-api.bentley.com")


@frozen(kw_only=True)
class RequestContext:
    """A request after routing: the ids in its path, and its query by lower-case names.

    `endpoints` are what links in the answer name. `would_match_with_accept` is the operation that
    the request would match with another Accept header.
    """

    request: Request
    now: float
    endpoints: Endpoints
    path: str = ""
    ids: tuple[str, ...] = ()
    query: Mapping[str, str] = MappingProxyType({})
    would_match_with_accept: str = ""


@frozen(kw_only=True)
class Token:
    """The scopes and the life of an access token, and whether it is a user's."""

    scopes: frozenset[str]
    issued_at: float
    expires_at: float
    is_user: bool = False


@define(kw_only=True, eq=False)
class Platform:
    """The state of one emulator.

    Ids and runs have separate random generators. An additional token therefore does not change how
    long the next run takes. `served_endpoints` are those of the servers that are up.
    """

    settings: Settings
    clock: Clock
    id_rng: Random
    run_rng: Random
    client_id: str
    client_secret: str
    file_store: FileStore
    webhooks: WebhookService
    imodels: dict[str, IModel] = field(factory=dict)
    permissions: dict[str, frozenset[str]] = field(factory=dict)
    exports: ConnectionService = field(factory=ConnectionService)
    synchronizations: ConnectionService = field(factory=ConnectionService)
    synchronized: dict[tuple[str, str], str] = field(factory=dict)
    tokens: dict[str, Token] = field(factory=dict)
    refresh_tokens: set[str] = field(factory=set)
    served_endpoints: list[Endpoints] = field(factory=list)

    @classmethod
    def from_seed(cls, seed: int, *, settings: Settings, clock: Clock) -> "Platform":
        """Create an empty platform. Equal seeds give equal ids, secrets and runs."""
        id_rng = Random(f"ids of {seed}")
        return cls(
            settings=settings,
            clock=clock,
            id_rng=id_rng,
            run_rng=Random(f"course of {seed}"),
            client_id=f"service-{id_rng.getrandbits(96):024x}",
            client_secret=f"secret-{id_rng.getrandbits(256):064x}",
            file_store=FileStore(id_rng=id_rng, blobs=BlobStore(key=id_rng.randbytes(32))),
            webhooks=WebhookService(id_rng=id_rng),
        )

    def copied(self) -> "Platform":
        """Return a copy of what a reset over HTTP restores, see `restore`."""
        id_rng = copy(self.id_rng)
        return evolve(
            self,
            id_rng=id_rng,
            imodels={id: imodel.copied(self.clock.last) for id, imodel in self.imodels.items()},
            file_store=evolve(self.file_store.copied(), id_rng=id_rng),
            webhooks=evolve(self.webhooks.copied(), id_rng=id_rng),
            permissions=dict(self.permissions),
            tokens=dict(self.tokens),
            refresh_tokens=set(self.refresh_tokens),
        )

    def restore(self, earlier: "Platform") -> None:
        """Take over iModels, files, webhooks, permissions, tokens and ids of an earlier copy."""
        copied = earlier.copied()
        for name in _RESTORED:
            setattr(self, name, getattr(copied, name))

    @property
    def endpoints(self) -> Endpoints:
        """The endpoints for links outside of a request: the latest server's, else production."""
        return self.served_endpoints[-1] if self.served_endpoints else PRODUCTION

    def add_imodel(
        self,
        name: str,
        *,
        itwin_id: str | None,
        description: str,
        state: str,
        push_date: PushDate,
        permissions: frozenset[str] | None,
    ) -> IModel:
        """Add an iModel, in a new iTwin unless one is given."""
        imodel = IModel(
            id=new_guid(self.id_rng),
            name=name,
            itwin_id=itwin_id or new_guid(self.id_rng),
            description=description,
            state=state,
            created_at=self.clock.last,
            push_date=push_date,
            permissions=permissions,
        )
        self.imodels[imodel.id] = imodel
        self.file_store.itwins.add(imodel.itwin_id)
        self.publish(imodel, "iModels.iModelCreated.v1", {"imodelId": imodel.id})
        return imodel

    def set_permissions(self, scope_id: str, permissions: Iterable[str] | None) -> None:
        """Set the caller's permissions in an iModel or an iTwin; None removes them.

        Raises `ValueError` for an unknown scope or permission.
        """
        held = None if permissions is None else frozenset(permissions)
        unknown = sorted((held or frozenset()) - ALL_PERMISSIONS)
        if unknown:
            known = ", ".join(sorted(ALL_PERMISSIONS))
            raise ValueError(f"unknown permission {', '.join(unknown)}: use any of {known}")
        imodel = self.imodels.get(scope_id)
        if imodel is not None:
            imodel.permissions = held
        elif scope_id not in self.file_store.itwins:
            raise ValueError(f"there is no iModel and no iTwin {scope_id!r}")
        elif held is None:
            self.permissions.pop(scope_id, None)
        else:
            self.permissions[scope_id] = held

    def permissions_in_itwin(self, itwin_id: str) -> frozenset[str]:
        """Return the caller's permissions in an iTwin."""
        return self.permissions.get(itwin_id, ALL_PERMISSIONS)

    def permissions_in(self, imodel: IModel) -> frozenset[str]:
        """Return the caller's permissions in an iModel; its own override those of its iTwin."""
        if imodel.permissions is not None:
            return imodel.permissions
        return self.permissions_in_itwin(imodel.itwin_id)

    def may_read(self, imodel: IModel) -> bool:
        """Whether the caller may export the iModel."""
        return "imodels_read" in self.permissions_in(imodel)

    def publish(
        self,
        imodel: IModel,
        event_type: str,
        content: Mapping[str, object],
        *,
        at: float | None = None,
    ) -> None:
        """Publish an event of an iModel, now unless a moment is given."""
        self.webhooks.publish(
            Event(
                at=self.clock.last if at is None else at,
                type=event_type,
                itwin_id=imodel.itwin_id,
                content=content,
            )
        )

    def new_connection(
        self,
        kind: str,
        imodel: IModel,
        *,
        display_name: str | None,
        authentication_type: str,
        now: float,
        source_files: tuple[SourceFile, ...] = (),
    ) -> Connection:
        """Return a connection with a new id."""
        return Connection(
            id=encode_storage_id(imodel.id, new_guid(self.id_rng)),
            kind=kind,
            imodel=imodel,
            display_name=display_name,
            authentication_type=authentication_type,
            created_at=now,
            source_files=source_files,
        )

    def add_token(self, *, lifetime: float, scope: str, is_user: bool = False) -> str:
        """Issue an access token that is valid from now on for `lifetime` seconds."""
        token = f"emulated-{self.id_rng.getrandbits(160):040x}"
        now = self.clock.now()
        if len(self.tokens) >= _MAX_TOKENS:
            self.tokens = {t: known for t, known in self.tokens.items() if known.expires_at > now}
        self.tokens[token] = Token(
            scopes=frozenset(scope.split()),
            issued_at=now,
            expires_at=now + lifetime,
            is_user=is_user,
        )
        return token

    def add_refresh_token(self) -> str:
        """Issue a refresh token of a user; it can be used once."""
        token = f"refresh-{self.id_rng.getrandbits(160):040x}"
        self.refresh_tokens.add(token)
        return token

    def run(self, connection_id: str, run_id: str) -> Run | None:
        """Return the run with these ids, of either service; None if there is none."""
        run = self.exports.run(connection_id, run_id)
        return run or self.synchronizations.run(connection_id, run_id)

    def file(self, file_id: str) -> StoredFile | None:
        """Return the file with this Storage id or, if the settings accept them, plain GUID."""
        if self.settings.accept_plain_file_ids and file_id in self.file_store.files:
            return self.file_store.files[file_id]
        return self.file_store.file(file_id)

    def blob_location(self, url: str, endpoints: Endpoints) -> tuple[str, str] | None:
        """Return path and query of a URL of the blob store, None for another store."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return "", ""  # no signature fits it
        start = f"{parts.scheme}://{parts.netloc.lower()}{parts.path}"
        for known in (PRODUCTION, endpoints, *self.served_endpoints):
            for base in (known.blobs, known.user_blobs):
                if start.startswith(f"{base}/"):
                    return start.removeprefix(base), parts.query
        return None
