"""The asyncio-native Python client of Bentley's iTwin Export API.

async with ExportClient(ClientCredentials.from_env()) as client:
    connection = await client.find_or_create_connection(imodel_id, display_name="nightly IFC")
    run = await client.start_run(connection.id, ExportOptions(ifc_version=IfcVersion.IFC4_3))
    await run.wait(timeout=3600)
    paths = await run.download("out/")
"""

import logging

from itwin_export_async._auth import ClientCredentials, RefreshTokenCredentials, TokenProvider
from itwin_export_async._client import ExportClient
from itwin_export_async._errors import (
    AuthenticationFailed,
    AuthorizationRequired,
    Conflict,
    DownloadError,
    ErrorDetail,
    ExportError,
    InvalidRequest,
    LedgerError,
    NotFound,
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
    ServiceUnavailable,
    TokenError,
    TransportError,
    UploadError,
)
from itwin_export_async._models import (
    AuthenticationType,
    AuthorizationInformation,
    Connection,
    ConnectorType,
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
    RunFault,
    RunOrigin,
    RunUpdate,
    SourceFile,
    StateChange,
    StorageConnection,
    StoredFile,
    Task,
    TaskError,
)
from itwin_export_async._paging import Listing
from itwin_export_async._protocol.http import Request, Response, Transport
from itwin_export_async._protocol.identity import AccessToken
from itwin_export_async._protocol.rate import RateLimit, Spent
from itwin_export_async._protocol.retry import RetryPolicy
from itwin_export_async._protocol.schedule import (
    Exponential,
    FixedInterval,
    Inspection,
    PollSchedule,
    PollView,
)
from itwin_export_async._runs import RunHandle
from itwin_export_async._session import Session
from itwin_export_async._storage import StorageClient
from itwin_export_async._synchronization import SynchronizationClient

__all__ = [
    "AccessToken",
    "AuthenticationFailed",
    "AuthenticationType",
    "AuthorizationInformation",
    "AuthorizationRequired",
    "ClientCredentials",
    "Conflict",
    "Connection",
    "ConnectorType",
    "DownloadError",
    "ErrorDetail",
    "ExecutionResult",
    "ExecutionState",
    "Exponential",
    "ExportClient",
    "ExportError",
    "ExportOptions",
    "ExportOutcome",
    "ExportRequest",
    "ExportType",
    "FixedInterval",
    "IfcVersion",
    "InputOptions",
    "Inspection",
    "InvalidRequest",
    "Job",
    "LedgerError",
    "Listing",
    "NotFound",
    "OutputLocation",
    "OutputOptions",
    "PermissionDenied",
    "PollSchedule",
    "PollView",
    "ProtocolError",
    "RateLimit",
    "RateLimited",
    "RefreshTokenCredentials",
    "Request",
    "RequestTimeout",
    "Response",
    "ResponseError",
    "RetryPolicy",
    "Run",
    "RunError",
    "RunFailed",
    "RunFault",
    "RunHandle",
    "RunOrigin",
    "RunPartlyFailed",
    "RunTimeout",
    "RunUnreachable",
    "RunUpdate",
    "ServiceUnavailable",
    "Session",
    "SourceFile",
    "Spent",
    "StateChange",
    "StorageClient",
    "StorageConnection",
    "StoredFile",
    "SynchronizationClient",
    "Task",
    "TaskError",
    "TokenError",
    "TokenProvider",
    "Transport",
    "TransportError",
    "UploadError",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())  # quiet unless asked to speak
