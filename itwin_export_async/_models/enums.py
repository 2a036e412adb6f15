"""The service's enumerations, open: a value this release does not know survives as itself.

The service adds values without a new API version (`PDF` came that way), so an unknown one is no
error: it keeps its text, compares, hashes and pickles like a member, and is logged once.
"""

import logging
from enum import StrEnum
from functools import lru_cache
from typing import Any, Self

log = logging.getLogger(__name__)


@lru_cache(maxsize=256)  # the cache makes it once per value, and bounds what is remembered
def _report(enum: str, value: str) -> None:
    log.warning("the service sent %s %r, which this release does not know", enum, value)


class OpenEnum(StrEnum):
    """A string enumeration that takes values it does not list."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        folded = value.casefold()
        for member in cls:
            if folded in (member.value.casefold(), *cls._other_spellings(member)):
                return member
        _report(cls.__name__, value)
        unknown = str.__new__(cls, value)
        unknown._name_ = unknown._value_ = value
        return unknown

    @classmethod
    def _other_spellings(cls, member: Self) -> tuple[str, ...]:
        """Further spellings of a member, in lower case."""
        return ()

    @property
    def is_known(self) -> bool:
        """Whether this release lists the value."""
        return type(self).__members__.get(self._name_) is self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return type(self), (self._value_,)


class ExecutionState(OpenEnum):
    """How far a run, job or task has come. Only `COMPLETED` is final."""

    NOT_STARTED = "NotStarted"
    IDLE = "Idle"
    QUEUED = "Queued"
    WAITING_TO_EXECUTE = "WaitingToExecute"
    WAITING_TO_RETRY = "WaitingToRetry"
    EXECUTING = "Executing"
    FINALIZING = "Finalizing"
    COMPLETED = "Completed"


class ExecutionResult(OpenEnum):
    """How a run, job or task ended. `UNDETERMINED`: not decided yet."""

    UNDETERMINED = "Undetermined"
    SUCCESS = "Success"
    ERROR = "Error"
    PARTIAL_SUCCESS = "PartialSuccess"
    SKIPPED = "Skipped"
    CANCELED = "Canceled"
    CANCELLED = "Canceled"
    TIMED_OUT = "TimedOut"

    @classmethod
    def _other_spellings(cls, member: Self) -> tuple[str, ...]:
        return ("cancelled",) if member == "Canceled" else ()

    @property
    def is_failure(self) -> bool:
        """Whether work was lost: an error, a cancellation or a time-out.

        A partial success is none, and neither is a result this release does not know.
        """
        return self in _FAILURES


_FAILURES = frozenset({"Error", "Canceled", "TimedOut"})


class ExportType(OpenEnum):
    """What kind of file an export makes (`exportType`)."""

    IFC = "IFC"
    PDF = "PDF"
    LANDXML = "LandXML"


class IfcVersion(OpenEnum):
    """The IFC schema of an export (`ifcVersion`). `IFC4_3` means IFC4.3_ADD2."""

    IFC4_3 = "IFC4.3"
    IFC2X3 = "IFC2x3"
    IFC2X3_CV_2_0 = "IFC2x3 CV 2.0"
    IFC4_RV_1_2 = "IFC4 RV 1.2"


class OutputLocation(OpenEnum):
    """Where the output goes: iTwin Storage, or blobs that the caller provides."""

    STORAGE = "STORAGE"
    USER_BLOB_STORAGE = "USER_BLOB_STORAGE"


class AuthenticationType(OpenEnum):
    """In whose name the background work runs: the user's, or the service application's."""

    USER = "User"
    SERVICE = "Service"


class ConnectorType(OpenEnum):
    """What reads a source file into the iModel (`connectorType`)."""

    AUTOPLANT = "AUTOPLANT"
    CIVIL = "CIVIL"
    CIVIL3D = "CIVIL3D"
    DACQJSON = "DACQJSON"
    DWG = "DWG"
    GEOSPATIAL = "GEOSPATIAL"
    IFC = "IFC"
    INTELLIPID = "INTELLIPID"
    MSTN = "MSTN"
    NWD = "NWD"
    OBD = "OBD"
    OPENTOWER = "OPENTOWER"
    PROSTRUCTURES = "PROSTRUCTURES"
    PSEXCEL = "PSEXCEL"
    REVIT = "REVIT"
    SPPID = "SPPID"
    SPXREVIEW = "SPXREVIEW"
