"""The options that commands share, so that each is called alike everywhere."""

import os
from collections.abc import Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from itwin_export_async import AuthenticationType, ExportClient, IfcVersion, RateLimit
from itwin_export_async.cli.errors import MissingToken
from itwin_export_async.cli.runtime import runtime_of

_IFC_VERSIONS = ", ".join(f"'{version.value}'" for version in IfcVersion)
_ACCOUNT = ("ITWIN_ACCESS_TOKEN", "ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET")
_ENVIRONMENT = "by default ITP_API_URL of the environment, or Bentley's own."


class ActiveRun(StrEnum):
    """What to do about a run of the iModel that is active already."""

    JOIN = "join"
    WAIT = "wait"
    RAISE = "raise"


class Tier(StrEnum):
    """The subscription, which says how many calls it allows."""

    COMMUNITY = "community"
    STANDARD = "standard"

    @property
    def rate_limit(self) -> RateLimit:
        """The calls that it allows."""
        return RateLimit.COMMUNITY if self is Tier.COMMUNITY else RateLimit.STANDARD


def _one_of(members: Iterable[StrEnum]) -> dict[str, Callable[..., Any]]:
    """What has an option take one of the values, in any case, and speak of them as they are."""
    known = {member.value.casefold(): member.value for member in members}

    def checked(said: str | None) -> str | None:
        if said is None or said.casefold() in known:
            return None if said is None else known[said.casefold()]
        told = ", ".join(map(repr, known.values()))
        raise typer.BadParameter(f"{said!r} is not one of {told}")

    def completed(begun: str) -> list[str]:
        fitting = [value for folded, value in known.items() if folded.startswith(begun.casefold())]
        return [begun + value[len(begun) :] for value in fitting]  # a shell does not respell

    return {"callback": checked, "autocompletion": completed}


BaseUrl = Annotated[
    str | None,
    typer.Option(help=f"Address of the API; {_ENVIRONMENT}", show_default=False, metavar="URL"),
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        help="File to write, or a folder (it gets its name there).",
        metavar="PATH",
    ),
]
Folder = Annotated[
    str,
    typer.Option(
        "--output", "-o", help="Folder that the destinations are below.", metavar="FOLDER"
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Seconds to wait, then exit code 3. 24 hours for a run by default.",
        show_default=False,
        metavar="SECONDS",
    ),
]
Version = Annotated[
    str | None,
    typer.Option(
        **_one_of(IfcVersion),
        help=f"IFC schema: {_IFC_VERSIONS}. The service chooses otherwise.",
        show_default=False,
        metavar="VERSION",
    ),
]
ConnectionName = Annotated[
    str, typer.Option(help="Name of the connection that is used, or made.", metavar="NAME")
]
InTheNameOf = Annotated[
    str | None,
    typer.Option(
        **_one_of(AuthenticationType),
        help="In whose name runs work: User or Service. The service chooses otherwise.",
        show_default=False,
        metavar="TYPE",
    ),
]
IfActive = Annotated[
    str,
    typer.Option(
        **_one_of(ActiveRun),
        help="If the iModel has an active run: join it, wait for its end, or fail.",
        metavar=f"<{'|'.join(ActiveRun)}>",
    ),
]
Calls = Annotated[
    str,
    typer.Option(
        **_one_of(Tier),
        help="Your subscription: 500 calls a minute and 5,000 an hour, or 5,000 a minute.",
        metavar=f"<{'|'.join(Tier)}>",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(help="HTML file to write a report to.", show_default=False, metavar="FILE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Speed = Annotated[float, typer.Option(min=0.001, help="How much faster than life the runs go.")]
Seed = Annotated[int, typer.Option(help="Equal seeds give equal runs.")]


def where_to(output: str) -> None:
    """Refuse a place that is none, as a variable makes it that is not set."""
    if not output:
        raise typer.BadParameter("where to? A file, or a folder", param_hint="--output")


OpenClient = Callable[[], ExportClient]


def client_of(context: typer.Context, base_url: str | None, **options: Any) -> OpenClient:
    """What makes the client, from the environment and what the command line says."""
    client_factory = runtime_of(context).client_factory
    if base_url is not None:
        options["base_url"] = base_url

    def open_client() -> ExportClient:
        try:
            return client_factory(**options)
        except ValueError as exc:
            if _has_account():
                raise
            raise MissingToken(str(exc)) from exc

    return open_client


def _has_account() -> bool:
    token, *application = (os.environ.get(name, "").strip() for name in _ACCOUNT)
    return bool(token) or all(application)
