"""The values of the library: frozen, keyword-only, named as the service names them."""

from itwin_export_async._models.client import AccessReport, ClientHealth
from itwin_export_async._models.connections import (
    AuthorizationInformation,
    Connection,
    SourceFile,
    StorageConnection,
)
from itwin_export_async._models.enums import (
    AuthenticationType,
    ConnectorType,
    ExecutionResult,
    ExecutionState,
    ExportType,
    IfcVersion,
    OpenEnum,
    OutputLocation,
)
from itwin_export_async._models.exports import ExportOutcome, ExportRequest
from itwin_export_async._models.options import ExportOptions, InputOptions, OutputOptions
from itwin_export_async._models.runs import (
    DiagnosticReport,
    Job,
    Run,
    RunErrorInfo,
    Task,
    TaskErrorInfo,
)
from itwin_export_async._models.storage import StoredFile
from itwin_export_async._models.updates import Estimate, RunOrigin, RunUpdate, StateChange

__all__ = [
    "AccessReport",
    "AuthenticationType",
    "AuthorizationInformation",
    "ClientHealth",
    "Connection",
    "ConnectorType",
    "DiagnosticReport",
    "Estimate",
    "ExecutionResult",
    "ExecutionState",
    "ExportOptions",
    "ExportOutcome",
    "ExportRequest",
    "ExportType",
    "IfcVersion",
    "InputOptions",
    "Job",
    "OpenEnum",
    "OutputLocation",
    "OutputOptions",
    "Run",
    "RunErrorInfo",
    "RunOrigin",
    "RunUpdate",
    "SourceFile",
    "StateChange",
    "StorageConnection",
    "StoredFile",
    "Task",
    "TaskErrorInfo",
]
