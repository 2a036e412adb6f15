"""The kinds of connections: where they are, and how errors name them."""

from attrs import frozen

from itwin_export_async.emulator._state.connections import ConnectionService
from itwin_export_async.emulator._state.platform import Endpoints, Platform
from itwin_export_async.emulator._state.run_lifecycle import Run


@frozen(kw_only=True)
class ConnectionKind:
    """One kind of connections: where they are, and how errors name them."""

    name: str
    path: str
    noun: str
    request_noun: str
    id_member: str = ""  # of a source file
    conflict_code: str = "IModelAlreadyProcessingRequest"
    conflict_message: str = "The iModel is already processing this request."

    @property
    def invalid_connection(self) -> str:
        """The code of a 422 about a connection."""
        return f"Invalid{self.request_noun}Request"

    @property
    def invalid_run(self) -> str:
        """The code of a 422 about the start of a run."""
        return f"Invalid{self.noun}RunRequest"

    @property
    def invalid_runs(self) -> str:
        """The code of a 422 about the list of runs."""
        return f"Invalid{self.noun}RunsRequest"

    @property
    def invalid_source_file(self) -> str:
        """The code of a 422 about a source file."""
        return f"Invalid{self.noun}SourceFileRequest"

    def service(self, platform: Platform) -> ConnectionService:
        """Return the service that holds these connections."""
        return platform.exports if self.name == "export" else platform.synchronizations

    def url(self, endpoints: Endpoints, connection_id: str = "") -> str:
        """Return the URL of all these connections, or of one."""
        return f"{endpoints.api}{self.path}{f'/{connection_id}' if connection_id else ''}"

    def run_url(self, endpoints: Endpoints, run: Run) -> str:
        """Return the URL of a run."""
        return f"{self.url(endpoints, run.connection_id)}/runs/{run.id}"


EXPORT = ConnectionKind(
    name="export",
    path="/export/connections",
    noun="Connection",
    request_noun="ExportConnection",
    conflict_code="ConflictWithAnotherIModelRequest",
    conflict_message="This request is already being processed for this iModel.",
)
STORAGE = ConnectionKind(
    name="storage",
    path="/synchronization/imodels/storageconnections",
    noun="StorageConnection",
    request_noun="StorageConnection",
    id_member="storageFileId",
)
MANIFEST = ConnectionKind(
    name="manifest",
    path="/synchronization/imodels/manifestconnections",
    noun="ManifestConnection",
    request_noun="ManifestConnection",
    id_member="sourceFileId",
)
KINDS = {kind.name: kind for kind in (EXPORT, STORAGE, MANIFEST)}
