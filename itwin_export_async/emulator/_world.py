"""What the emulated services know: the state behind all operations, and its making."""

from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from random import Random

from attrs import define, field, frozen

from itwin_export_async._protocol.http import Request
from itwin_export_async.emulator._clock import Clock
from itwin_export_async.emulator._ids import composite, new_guid, pair
from itwin_export_async.emulator._ifc import ifc_file
from itwin_export_async.emulator._pdf import pdf_file
from itwin_export_async.emulator._runs import Fate, Run, plan_run
from itwin_export_async.emulator._settings import Settings


@frozen(kw_only=True)
class Call:
    """One request, understood: the ids in its path, and its query with names in lower case."""

    request: Request
    now: float
    ids: tuple[str, ...] = ()
    query: Mapping[str, str] = field(factory=dict)


@frozen(kw_only=True)
class Addresses:
    """Where the services are: the base of the APIs, the token endpoint, the base of the blobs."""

    api: str = "https://api.bentley.com"
    token: str = "https://ims.bentley.com/connect/token"
    blobs: str = "https://emulatedblobs.blob.core.windows.net"


@frozen(kw_only=True)
class IModel:
    """An iModel; `authorized` says whether those who ask may use it."""

    id: str
    name: str
    itwin_id: str
    authorized: bool


@frozen(kw_only=True)
class Connection:
    """An export connection."""

    id: str
    imodel: IModel
    display_name: str | None
    authentication_type: str


@frozen(kw_only=True)
class StoredFile:
    """A file of Storage, readable from the moment `available_at`; `write` makes its content."""

    guid: str
    itwin_id: str
    name: str
    description: str
    folder_id: str
    available_at: float
    write: Callable[[], bytes]

    @property
    def id(self) -> str:
        """The id under which Storage itself knows it."""
        return composite(self.itwin_id, self.guid)


@frozen(kw_only=True)
class Token:
    """What an access token is good for, and until when."""

    scopes: frozenset[str]
    expires_at: float


@define(kw_only=True, eq=False)
class World:
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
    signing_key: bytes
    imodels: dict[str, IModel] = field(factory=dict)
    connections: dict[str, Connection] = field(factory=dict)
    runs: dict[str, dict[str, Run]] = field(factory=dict)
    latest: dict[str, Run] = field(factory=dict)
    fates: dict[str, deque[Fate]] = field(factory=dict)
    files: dict[str, StoredFile] = field(factory=dict)
    tokens: dict[str, Token] = field(factory=dict)

    @classmethod
    def from_seed(cls, seed: int, *, settings: Settings, epoch: datetime) -> "World":
        """An empty world; equal seeds make equal ids, secrets and runs."""
        ids = Random(f"ids of {seed}")
        return cls(
            settings=settings,
            clock=Clock(epoch),
            ids=ids,
            course=Random(f"course of {seed}"),
            client_id=f"service-{ids.getrandbits(96):024x}",
            client_secret=f"secret-{ids.getrandbits(256):064x}",
            signing_key=ids.randbytes(32),
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
        return imodel

    def add_connection(
        self, imodel: IModel, *, display_name: str | None, authentication_type: str
    ) -> Connection:
        """A new connection of this iModel."""
        connection = Connection(
            id=composite(imodel.id, new_guid(self.ids)),
            imodel=imodel,
            display_name=display_name,
            authentication_type=authentication_type,
        )
        self.connections[connection.id] = connection
        self.runs[connection.id] = {}
        return connection

    def remove_connection(self, connection: Connection) -> None:
        """Forget a connection and its runs; the files they made stay."""
        del self.connections[connection.id]
        del self.runs[connection.id]

    def add_run(
        self,
        connection: Connection,
        *,
        now: float,
        export_type: str,
        ifc_version: str,
        folder_id: str | None,
        in_storage: bool,
    ) -> Run:
        """A new run, which begins now; its output appears in Storage when it has ended well."""
        imodel = connection.imodel
        waiting = self.fates.get(imodel.id)
        run = plan_run(
            connection_id=connection.id,
            now=now,
            fate=waiting.popleft() if waiting else Fate(),
            settings=self.settings,
            ids=self.ids,
            course=self.course,
            in_storage=in_storage,
        )
        self.runs[connection.id][run.id] = run
        self.latest[imodel.id] = run
        if run.file_id is not None:
            self.files[run.file_id] = StoredFile(
                guid=run.file_id,
                itwin_id=imodel.itwin_id,
                name=f"{imodel.name}.{export_type.lower()}",
                description=f"Exported from {imodel.name}",
                folder_id=folder_id or composite(imodel.itwin_id, imodel.itwin_id),
                available_at=run.ends_at + self.settings.file_delay,
                write=_output(imodel.name, export_type, ifc_version),
            )
        return run

    def add_file(self, name: str, content: bytes, *, itwin_id: str | None) -> StoredFile:
        """A new file in the root folder, in a new iTwin when none is given."""
        container = itwin_id or new_guid(self.ids)
        stored = StoredFile(
            guid=new_guid(self.ids),
            itwin_id=container,
            name=name,
            description="",
            folder_id=composite(container, container),
            available_at=self.clock.now(),
            write=lambda: content,
        )
        self.files[stored.guid] = stored
        return stored

    def file(self, file_id: str) -> StoredFile | None:
        """The file of this id, as Storage or (if allowed) as the runs name it, or None."""
        if self.settings.plain_file_ids and file_id in self.files:
            return self.files[file_id]
        both = pair(file_id)
        stored = self.files.get(both[1]) if both else None
        return stored if stored is not None and stored.id == file_id else None


def _output(name: str, export_type: str, ifc_version: str) -> Callable[[], bytes]:
    if export_type == "PDF":
        return lambda: pdf_file(name)
    return lambda: ifc_file(name, ifc_version=ifc_version)
