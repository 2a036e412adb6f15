"""The errors that runs and their tasks fail with."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Failure = Mapping[str, Any]

_FAILURE = {
    "errorCode": "TAE_BRW_1000",
    "message": "Failed to orchestrate file processing.",
    "details": "Error exit code received from bridge wrapper. Details from wrapper: ''.",
    "bridgeExitCode": -7002,
    "system": "Exporter",
    "phase": "export_file",
    "category": "other",
    "descriptionKey": "FailedToExport",
    "description": "Failed to export your file.",
    "kbArticleLink": "",
    "canUserFix": False,
}
_PARTIAL_FAILURE = {
    "errorCode": "TAE_BRG_1000",
    "message": "Failed to process.",
    "details": "Error exit code received from bridge wrapper.",
    "bridgeExitCode": 4294967295,
    "system": "cloud_orchestrator",
    "phase": "internal_server_error",
    "category": "other",
    "descriptionKey": "RunOrchestrationError",
    "description": "Failed to orchestrate Run.",
    "kbArticleLink": "",
    "canUserFix": False,
}
_SOURCE_FAILURE = _PARTIAL_FAILURE | {"message": "Failed to process the file."}

EXPORT_FAILURES: Mapping[str, Failure] = MappingProxyType(
    {"Error": _FAILURE, "TimedOut": _FAILURE, "PartialSuccess": _PARTIAL_FAILURE}
)
SOURCE_FAILURES: Mapping[str, Failure] = MappingProxyType(
    dict.fromkeys(("Error", "TimedOut", "PartialSuccess"), _SOURCE_FAILURE)
)
NOT_WRITABLE: Failure = MappingProxyType(
    _FAILURE
    | {
        "message": "Failed to write the output.",
        "details": "The given SAS address is not valid, has expired, or cannot be written.",
        "phase": "upload_file",
        "category": "user_input",
        "descriptionKey": "OutputNotWritable",
        "description": "Failed to write to your blob storage.",
        "canUserFix": True,
    }
)
NO_WRITE_PERMISSION: Failure = MappingProxyType(
    {
        **NOT_WRITABLE,
        "details": "The user has no write access to the output folder.",
        "description": "Failed to write to the folder in Storage.",
    }
)
NO_CONSENT: Failure = MappingProxyType(
    {"errorKey": "UserNotAuthenticated", "description": "User is not authenticated."}
)
