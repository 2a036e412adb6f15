"""What the emulated services know: the state behind all operations, and its making."""

from collections.abc import Mapping
from datetime import datetime
from random import Random

from attrs import define, field, frozen

from itwin_export_async._protocol.messages import Request
from itwin_export_async.emulator._clock import Clock
from itwin_export_async.emulator._config import Settings
from itwin_export_async.emulator._state.blobs import BlobStore
from itwin_export_async.emulator._state.connections import Connection, IModel, Service, SourceFile
from itwin_export_async.emulator._state.files import FileStore, StoredFile
from itwin_export_async.emulator._state.ids import composite, new_guid


@frozen(kw_only=True)
class Call:
    """One request, understood: the ids in its path, and its query with names in lower case.

    `unaccepted` is the operation that it would mean with another Accept header.
    """

    request: Request
    now: float
    ids: tuple[str, ...] = ()
    query: Mapping[str, str] = field(factory=dict)
    unaccepted: str = ""


@frozen(kw_only=True)
class Addresses:
    """Where the services are: the base of the APIs, the token endpoint, the bases of the blobs.

    `blobs` are those of Storage, `user_blobs` those in an account of the caller's own.
    """

    api: str = "https://api.bentley.com"
    token: str = "https://ims.bentley.com/connect/token"
    blobs: str = "https://emulatedblobs.blob.core.windows.net"
    user_blobs: str = "https://callersblobs.blob.core.windows.net"

    def have_blobs_at(self, origin: str) -> bool:
        """Whether a blob store is there."""
        return origin in (self.blobs, self.user_blobs)


PUBLIC = Addresses()


@frozen(kw_only=True)
class Token:
    """What an access token is good for, and since and until when."""

    scopes: frozenset[str]
    issued_at: float
    expires_at: float


@define(kw_only=True, eq=False)
class Platform:
    """The state of one emulator.

    Ids and the course of runs are drawn from sources of their own, so that asking for one more
    token does not change how long the next run takes.
    """

    settings: Settings
    clock: Clock
    addresses: Addresses = field(factory=Addresses)
    ids: Random
    course: Random
    client_id: str
    client_secret: str
    drive: FileStore
    imodels: dict[str, IModel] = field(factory=dict)
    exports: Service = field(factory=Service)
    synchronizations: Service = field(factory=Service)
    tokens: dict[str, Token] = field(factory=dict)
    refresh_tokens: set[str] = field(factory=set)

    @classmethod
    def from_seed(cls, seed: int, *, settings: Settings, epoch: datetime) -> "Platform":
        """An empty world; equal seeds make equal ids, secrets and runs."""
        ids = Random(f"ids of {seed}")
        return cls(
            settings=settings,
            clock=Clock(epoch),
            ids=ids,
            course=Random(f"course of {seed}"),
            client_id=f"service-{ids.getrandbits(96):024x}",
            client_secret=f"secret-{ids.getrandbits(256):064x}",
            drive=FileStore(ids=ids, blobs=BlobStore(key=ids.randbytes(32))),
        )

    def add_imodel(self, name: str, *, itwin_id: str | None, authorized: bool) -> IModel:
        """A new iModel, in a new iTwin when none is given."""
        imodel = IModel(
            id=new_guid(self.ids),
            name=name,
            itwin_id=itwin_id or new_guid(self.ids),
            authorized=authorized,
        )
        self.imodels[imodel.id] = imodel
        self.drive.itwins.add(imodel.itwin_id)
        return imodel

    def new_connection(
        self,
        imodel: IModel,
        *,
        display_name: str | None,
        authentication_type: str,
        source_files: tuple[SourceFile, ...] = (),
    ) -> Connection:
        """A connection of this iModel, its id drawn."""
        return Connection(
            id=composite(imodel.id, new_guid(self.ids)),
            imodel=imodel,
            display_name=display_name,
            authentication_type=authentication_type,
            source_files=source_files,
        )

    def file(self, file_id: str) -> StoredFile | None:
        """The file of this id, as Storage or (if allowed) as the runs name it, or None."""
        if self.settings.accept_plain_file_ids and file_id in self.drive.files:
            return self.drive.files[file_id]
        return self.drive.file(file_id)
