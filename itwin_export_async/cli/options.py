"""The options that commands share, so that each has one name everywhere."""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from itwin_export_async import AuthenticationType, IfcVersion, RateLimit
from itwin_export_async.cli.checks import check_ifc_version
from itwin_export_async.cli.errors import UsageError

_IFC_VERSIONS = ", ".join(f"'{version.value}'" for version in IfcVersion)
_DURATION = re.compile(
    r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s?)?"
)
_UNITS = (86400.0, 3600.0, 60.0, 1.0)


class ActiveRun(StrEnum):
    """What to do about a run of the iModel that is active already."""

    JOIN = "join"
    WAIT = "wait"
    RAISE = "raise"


class Tier(StrEnum):
    """The subscription, which decides how many calls are allowed."""

    COMMUNITY = "community"
    STANDARD = "standard"

    @property
    def rate_limit(self) -> RateLimit:
        """The calls that it allows."""
        return RateLimit.COMMUNITY if self is Tier.COMMUNITY else RateLimit.STANDARD


def choice(members: Iterable[StrEnum]) -> dict[str, Callable[..., Any]]:
    """Arguments of an option that takes one of the values, in any case."""
    known = {member.value.casefold(): member.value for member in members}

    def check(value: str | None) -> str | None:
        if value is None or value.casefold() in known:
            return None if value is None else known[value.casefold()]
        names = ", ".join(map(repr, known.values()))
        raise typer.BadParameter(f"{value!r} is not one of {names}")

    def complete(begun: str) -> list[str]:
        fitting = [value for folded, value in known.items() if folded.startswith(begun.casefold())]
        return [begun + value[len(begun) :] for value in fitting]  # a shell does not respell

    return {"callback": check, "autocompletion": complete}


def _check_ifc_version(value: str | None) -> str | None:
    try:
        return None if value is None else check_ifc_version(value)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None


def parse_duration(text: str | float) -> float:
    """Seconds of a duration: 90m, 2h, 1h30m, 45s, or a plain number of seconds."""
    found = _DURATION.fullmatch(str(text).replace(" ", ""))
    parts = [] if found is None else [float(part or 0) for part in found.groups()]
    seconds = sum(part * unit for part, unit in zip(parts, _UNITS, strict=False))
    if not seconds > 0:
        raise typer.BadParameter(f"{text!r} is not a duration: write 90m, 2h, 1h30m or seconds")
    return seconds


def parse_since(text: str | datetime) -> datetime:
    """A moment: a date, a date with a time, or how long ago (24h, 7d). Without a zone it is UTC."""
    if isinstance(text, datetime):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except (typer.BadParameter, OverflowError):
        raise typer.BadParameter(f"{text!r} is neither a date (2026-11-28) nor 24h or 7d") from None


Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        help="File or folder to write to; - for standard output.",
        metavar="PATH",
    ),
]
Folder = Annotated[
    str,
    typer.Option("--output", "-o", help="Folder of all destinations.", metavar="FOLDER"),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        parser=parse_duration,
        help="How long to wait, such as 90m or 2h, then exit code 3. 24 hours by default.",
        show_default=False,
        metavar="DURATION",
    ),
]
Version = Annotated[
    str | None,
    typer.Option(
        callback=_check_ifc_version,
        autocompletion=choice(IfcVersion)["autocompletion"],
        help=f"IFC schema: {_IFC_VERSIONS}. Left out, the service chooses.",
        show_default=False,
        metavar="VERSION",
    ),
]
ConnectionName = Annotated[
    str, typer.Option(help="Name of the connection to find or create.", metavar="NAME")
]
AuthenticationTypeOption = Annotated[
    str | None,
    typer.Option(
        **choice(AuthenticationType),
        help="Identity of the runs: User or Service. Left out, the service chooses.",
        show_default=False,
        metavar="TYPE",
    ),
]
IfActive = Annotated[
    str,
    typer.Option(
        **choice(ActiveRun),
        help="If the iModel has an active run: join it, wait for its end, or fail.",
        metavar=f"<{'|'.join(ActiveRun)}>",
    ),
]
TierOption = Annotated[
    str,
    typer.Option(
        **choice(Tier),
        help="Your subscription: community allows 500 calls a minute and 5,000 an hour, "
        "standard 5,000 a minute.",
        metavar=f"<{'|'.join(Tier)}>",
        rich_help_panel="Options of every command",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(help="HTML report to write.", show_default=False, metavar="FILE"),
]
KeepPartial = Annotated[
    bool,
    typer.Option("--keep-partial", help="Keep the files of a run that failed in part."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Speed = Annotated[float, typer.Option(min=0.001, help="How much faster than real the runs are.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal runs.")]
ConnectionId = Annotated[
    str, typer.Argument(help="The connection's id.", metavar="CONNECTION_ID", show_default=False)
]
RunId = Annotated[str, typer.Argument(help="The run's id.", metavar="RUN_ID", show_default=False)]
IModelId = Annotated[
    str, typer.Argument(help="The iModel's id.", metavar="IMODEL_ID", show_default=False)
]
