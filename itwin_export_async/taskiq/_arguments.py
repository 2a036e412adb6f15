"""The arguments of the tasks. They travel as JSON, and are checked by sender and worker alike."""

from collections.abc import Mapping
from difflib import get_close_matches
from enum import Enum
from math import isfinite
from os import PathLike, fspath
from typing import Any, TypeAlias, TypeVar, cast, get_args

from attrs import fields, frozen

from itwin_export_async import (
    AuthenticationType,
    ExportOptions,
    ExportRequest,
    IfActive,
    InputOptions,
    OutputLocation,
    OutputOptions,
)

T = TypeVar("T")

DAY = 86_400.0  # seconds
Options: TypeAlias = ExportOptions | Mapping[str, Any]

_GROUPS: dict[str, type] = {"input": InputOptions, "output": OutputOptions}


@frozen(kw_only=True)
class ExportArguments:
    """The arguments of `export_imodel`, checked. `timeout` None means no limit."""

    request: ExportRequest
    authentication_type: AuthenticationType | None = None
    if_active: IfActive = "wait"
    timeout: float | None = DAY

    @classmethod
    def parse(
        cls,
        imodel_id: str,
        destination: str | PathLike[str],
        options: Options | None = None,
        display_name: str | None = None,
        authentication_type: AuthenticationType | str | None = None,
        if_active: str = "wait",
        timeout: float | None = DAY,
    ) -> "ExportArguments":
        """The arguments of a call. A wrong one is a `ValueError` or `TypeError` that names it."""
        request = ExportRequest(
            imodel_id=imodel_id,
            destination=check_destination(destination),
            options=parse_options(options),
            display_name=display_name,
        )
        return cls(
            request=request,
            authentication_type=_authentication_type(authentication_type),
            if_active=_if_active(if_active),
            timeout=check_timeout(timeout),
        )

    def to_json(self) -> dict[str, Any]:
        """The keyword arguments of a message."""
        kind = self.authentication_type
        return {
            "imodel_id": self.request.imodel_id,
            "destination": self.request.destination,
            "options": _to_json(self.request.options),
            "display_name": self.request.display_name,
            "authentication_type": None if kind is None else kind.value,
            "if_active": self.if_active,
            "timeout": self.timeout,
        }


def export_message(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """The message of a call of `export_imodel`. It is parsed as the worker will parse it."""
    message = ExportArguments.parse(*args, **kwargs).to_json()
    return ExportArguments.parse(**message).to_json()


def parse_options(options: Options | None) -> ExportOptions:
    """The options of a run, also from a JSON object; None is `ExportOptions()`."""
    if options is None:
        return ExportOptions()
    if isinstance(options, ExportOptions):
        return options
    values = dict(_check_mapping("options", options))
    for name, kind in _GROUPS.items():
        if isinstance(values.get(name), Mapping):
            values[name] = _build(f"options.{name}", kind, values[name])
    return _build("options", ExportOptions, values)


def _check_mapping(path: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        raise TypeError(f"{path} must be ExportOptions or a JSON object, not {kind}")
    return value


def _build(path: str, kind: type[T], values: Mapping[str, Any]) -> T:
    names = [attribute.name for attribute in fields(cast(Any, kind))]
    for name in values:
        if name not in names:
            close = get_close_matches(str(name), names, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{path} has no member {str(name)[:60]!r}{hint}")
    return kind(**{name: value for name, value in values.items() if value is not None})


def _to_json(value: Any) -> Any:
    """The value as JSON, without what is left to the service."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, ExportOptions | InputOptions | OutputOptions):
        return value
    members = {a.name: getattr(value, a.name) for a in fields(type(value))}
    return {name: _to_json(member) for name, member in members.items() if member is not None}


def user_blob_url(options: ExportOptions) -> str | None:
    """The SAS URL of the caller's blob that a run with these options writes to, None without."""
    in_user_blob = options.output.location == OutputLocation.USER_BLOB_STORAGE
    return options.output.output_sas_url if in_user_blob else None


def _authentication_type(value: AuthenticationType | str | None) -> AuthenticationType | None:
    if value is None:
        return None
    for member in AuthenticationType:
        if member.value.casefold() == str(value).casefold():
            return member
    known = ", ".join(repr(member.value) for member in AuthenticationType)
    raise ValueError(f"authentication_type must be one of {known}, not {str(value)[:60]!r}")


def _if_active(value: str) -> IfActive:
    if value not in get_args(IfActive):
        raise ValueError(f"if_active must be 'join', 'wait' or 'raise', not {value!r}")
    return cast(IfActive, value)


def check_destination(value: str | PathLike[str]) -> str:
    """Return the destination as text. A URL is refused: it would be a folder of that name."""
    path = fspath(value)
    if not isinstance(path, str):
        raise TypeError(f"destination must be a string or a path, not {type(path).__name__}")
    if "://" in path:
        raise ValueError(
            "destination is a URL: give a path on the worker's disk, and bring the files elsewhere "
            "with register(deliver=...)"
        )
    return path


def check_timeout(value: float | None) -> float | None:
    """Return the timeout. Raise unless it is more than 0 seconds, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"timeout must be seconds or None, not {type(value).__name__}")
    if not (isfinite(value) and value > 0):
        raise ValueError(f"timeout must be more than 0 seconds and finite, not {value}")
    return float(value)
