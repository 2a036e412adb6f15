"""The asyncio-native Python client of Bentley's iTwin Export API.

async with ExportClient(ClientCredentials.from_env()) as client:
    connection = await client.find_or_create_connection(imodel_id, display_name="nightly IFC")
    run = await client.start_run(connection.id, ExportOptions(ifc_version=IfcVersion.IFC4_3))
    await run.wait(timeout=3600)
    paths = await run.download("out/")
"""

import logging
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from itwin_export_async._batch.outcomes import ExportOutcomes, ItwinVersion, OnStart
    from itwin_export_async._client import ExportClient
    from itwin_export_async._errors import (
        AuthenticationFailed,
        AuthorizationRequired,
        Conflict,
        DownloadError,
        DownloadFailure,
        ErrorDetail,
        ExportError,
        InvalidRequest,
        InvalidSignature,
        LedgerError,
        NotFound,
        NothingToExport,
        PermissionDenied,
        ProtocolError,
        RateLimited,
        RequestTimeout,
        ResponseError,
        RunError,
        RunFailed,
        RunPartlyFailed,
        RunTimeout,
        RunUnreachable,
        ServerError,
        StartTimeout,
        TokenError,
        TransportError,
        UploadError,
    )
    from itwin_export_async._files.blob_reader import BlobReader
    from itwin_export_async._files.download import Progress
    from itwin_export_async._files.run_output import RunOutput
    from itwin_export_async._files.storage import StorageClient
    from itwin_export_async._http.credentials import (
        Auth,
        ClientCredentials,
        RefreshTokenCredentials,
        SendRequest,
        TokenProvider,
    )
    from itwin_export_async._http.limiter import RateLimitLike
    from itwin_export_async._http.pager import AsyncPager
    from itwin_export_async._http.rate_limit import RateLimit, RequestStats
    from itwin_export_async._http.retry import RetryPolicy
    from itwin_export_async._http.sender import BeforeSend
    from itwin_export_async._http.session import Session
    from itwin_export_async._imodels import IModelsClient
    from itwin_export_async._models import (
        AccessReport,
        AuthenticationType,
        AuthorizationInformation,
        ClientHealth,
        Connection,
        ConnectorType,
        DiagnosticReport,
        Estimate,
        ExecutionResult,
        ExecutionState,
        ExportOptions,
        ExportOutcome,
        ExportRequest,
        ExportType,
        IfcVersion,
        InputOptions,
        Job,
        OutputLocation,
        OutputOptions,
        Run,
        RunErrorInfo,
        RunOrigin,
        RunUpdate,
        SourceFile,
        StateChange,
        StorageConnection,
        StoredFile,
        Task,
        TaskErrorInfo,
    )
    from itwin_export_async._models.imodels import Changeset, IModel, NamedVersion
    from itwin_export_async._polling.schedule import (
        AdaptiveSchedule,
        ExponentialSchedule,
        FixedSchedule,
        PollContext,
        PollSchedule,
    )
    from itwin_export_async._protocol.oauth import AccessToken
    from itwin_export_async._protocol.runs import Service
    from itwin_export_async._runs.deadline import Timeout
    from itwin_export_async._runs.handle import OnPoll, OnUpdate, RunHandle
    from itwin_export_async._runs.run_store import MemoryRunStore, RunStore
    from itwin_export_async._runs.starter import IfActive
    from itwin_export_async._synchronization import SynchronizationClient

__all__ = [
    "AccessReport",
    "AccessToken",
    "AdaptiveSchedule",
    "AsyncPager",
    "Auth",
    "AuthenticationFailed",
    "AuthenticationType",
    "AuthorizationInformation",
    "AuthorizationRequired",
    "BeforeSend",
    "BlobReader",
    "Changeset",
    "ClientCredentials",
    "ClientHealth",
    "Conflict",
    "Connection",
    "ConnectorType",
    "DiagnosticReport",
    "DownloadError",
    "DownloadFailure",
    "ErrorDetail",
    "Estimate",
    "ExecutionResult",
    "ExecutionState",
    "ExponentialSchedule",
    "ExportClient",
    "ExportError",
    "ExportOptions",
    "ExportOutcome",
    "ExportOutcomes",
    "ExportRequest",
    "ExportType",
    "FixedSchedule",
    "IModel",
    "IModelsClient",
    "IfActive",
    "IfcVersion",
    "InputOptions",
    "InvalidRequest",
    "InvalidSignature",
    "ItwinVersion",
    "Job",
    "LedgerError",
    "MemoryRunStore",
    "NamedVersion",
    "NotFound",
    "NothingToExport",
    "OnPoll",
    "OnStart",
    "OnUpdate",
    "OutputLocation",
    "OutputOptions",
    "PermissionDenied",
    "PollContext",
    "PollSchedule",
    "Progress",
    "ProtocolError",
    "RateLimit",
    "RateLimitLike",
    "RateLimited",
    "RefreshTokenCredentials",
    "RequestStats",
    "RequestTimeout",
    "ResponseError",
    "RetryPolicy",
    "Run",
    "RunError",
    "RunErrorInfo",
    "RunFailed",
    "RunHandle",
    "RunOrigin",
    "RunOutput",
    "RunPartlyFailed",
    "RunStore",
    "RunTimeout",
    "RunUnreachable",
    "RunUpdate",
    "SendRequest",
    "ServerError",
    "Service",
    "Session",
    "SourceFile",
    "StartTimeout",
    "StateChange",
    "StorageClient",
    "StorageConnection",
    "StoredFile",
    "SynchronizationClient",
    "Task",
    "TaskErrorInfo",
    "Timeout",
    "TokenError",
    "TokenProvider",
    "TransportError",
    "UploadError",
]

# the modules of the public names; a name is taken from the first one that has it
_MODULES = (
    "_models",
    "_errors",
    "_protocol.oauth",
    "_protocol.runs",
    "_http.credentials",
    "_http.limiter",
    "_http.pager",
    "_http.rate_limit",
    "_http.retry",
    "_http.session",
    "_polling.schedule",
    "_files.blob_reader",
    "_files.download",
    "_files.run_output",
    "_files.storage",
    "_runs.deadline",
    "_runs.handle",
    "_runs.run_store",
    "_runs.starter",
    "_batch.outcomes",
    "_client",
)
_LATER_MODULES = ("_models.imodels", "_imodels", "_synchronization")  # loaded at their first use

if not TYPE_CHECKING:  # pragma: no branch

    def __getattr__(name: str) -> object:
        """Load the client lazily, so that importing only the emulator stays cheap."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        for modules in (_MODULES, _LATER_MODULES):
            if name not in globals():
                _load(modules)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def _load(names: tuple[str, ...]) -> None:
    """Import the public names of modules, and make the classes say that they are of this package.

    Pickles name the package then, and survive a new layout.
    """
    from importlib import import_module

    for module in [vars(import_module(f"{__name__}.{name}")) for name in names]:
        for name in set(__all__).intersection(module).difference(globals()):
            value = module[name]
            if isinstance(value, type):
                value.__module__ = __name__
            globals()[name] = value


logging.getLogger(__name__).addHandler(logging.NullHandler())  # quiet by default
