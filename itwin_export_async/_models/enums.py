"""The service's enumerations, open: a value this release does not know survives as itself.

The service adds values without a new API version (`PDF` came that way), so an unknown value is no
error: it keeps its text, compares, hashes and pickles like a member, and is logged once.
"""

import logging
import re
from enum import StrEnum
from functools import lru_cache
from typing import Any, Self

from itwin_export_async._redaction import safe_repr

log = logging.getLogger("itwin_export_async.http")

_MAX_LOGGED = 40  # characters of an unknown value in the log


@lru_cache(maxsize=256)  # logs each value once, and bounds the memory of them
def _log_unknown_once(enum: str, shown: str) -> None:
    log.warning("the service sent %s %s, which this release does not know", enum, shown)


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
        _log_unknown_once(cls.__name__, safe_repr(value, limit=_MAX_LOGGED))
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
    """The state of a run, job or task. Only `COMPLETED` is final."""

    NOT_STARTED = "NotStarted"
    IDLE = "Idle"
    QUEUED = "Queued"
    WAITING_TO_EXECUTE = "WaitingToExecute"
    WAITING_TO_RETRY = "WaitingToRetry"
    EXECUTING = "Executing"
    FINALIZING = "Finalizing"
    COMPLETED = "Completed"


class ExecutionResult(OpenEnum):
    """The result of a run, job or task. `UNDETERMINED` means not decided yet."""

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
        """Whether it is an error, a cancellation or a timeout.

        A partial success is no failure, and neither is a result this release does not know.
        """
        return self in _FAILURES


_FAILURES = frozenset({"Error", "Canceled", "TimedOut"})


class ExportType(OpenEnum):
    """The format of the exported file (`exportType`)."""

    IFC = "IFC"
    PDF = "PDF"
    LANDXML = "LandXML"


class IfcVersion(OpenEnum):
    """The IFC schema of an export (`ifcVersion`). `IFC4_3` means IFC4.3_ADD2."""

    IFC4_3 = "IFC4.3"
    IFC2X3 = "IFC2x3"
    IFC2X3_CV_2_0 = "IFC2x3 CV 2.0"
    IFC4_RV_1_2 = "IFC4 RV 1.2"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The version that a person wrote; as `IfcVersion(text)`, it takes unlisted ones too.

        A `ValueError` for another spelling of a listed one (`IFC4_3`, `IFC4x3`) says its name.
        """
        name = _OTHER_NAMES.get(re.sub(r"[^0-9a-z]", "", text.casefold()))
        known = [version.value for version in cls]
        if name is not None and text.strip().casefold() not in map(str.casefold, known):
            choices = ", ".join(map(repr, known))
            raise ValueError(f"{safe_repr(text)} is called {name!r} here; use one of {choices}")
        return cls(text.strip())


_OTHER_NAMES = {
    "ifc4": "IFC4 RV 1.2",
    "ifc4rv": "IFC4 RV 1.2",
    "ifc4rv12": "IFC4 RV 1.2",
    "ifc4referenceview": "IFC4 RV 1.2",
    "ifc4x3": "IFC4.3",
    "ifc43": "IFC4.3",
    "ifc43add2": "IFC4.3",
    "ifc4x3add2": "IFC4.3",
    "ifc23": "IFC2x3",
    "ifc2x3": "IFC2x3",
    "ifc2x3tc1": "IFC2x3",
    "ifc2x3cv": "IFC2x3 CV 2.0",
    "ifc2x3cv20": "IFC2x3 CV 2.0",
}


class OutputLocation(OpenEnum):
    """The destination of the output: iTwin Storage, or blobs that the caller provides."""

    STORAGE = "STORAGE"
    USER_BLOB_STORAGE = "USER_BLOB_STORAGE"


class AuthenticationType(OpenEnum):
    """The identity under which runs work: the user's, or the service application's."""

    USER = "User"
    SERVICE = "Service"


class ConnectorType(OpenEnum):
    """The connector that reads a source file into the iModel (`connectorType`)."""

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
