"""Commands of the app: what all of them take, and what they run with.

A command is a coroutine function whose first parameter is its `Invocation`; the others are its own
arguments and options, annotated for Typer. It returns the exit code, None for 0. Each option can be
set by a variable: `--if-active` by `ITP_EXPORT_IF_ACTIVE`.
"""

import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Coroutine
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from attrs import field, frozen
from typer.core import TyperCommand

from itwin_export_async import ExportClient, RateLimit
from itwin_export_async.cli.errors import MissingToken, user_input
from itwin_export_async.cli.options import Tier, TierOption
from itwin_export_async.cli.output.progress import StandardError
from itwin_export_async.cli.runner import (
    EXIT_CODES,
    log_message,
    reconstruct_command,
    run_command,
)
from itwin_export_async.cli.runtime import Runtime

VARIABLES = "ITP_EXPORT"
TOKEN = "ITWIN_ACCESS_TOKEN"
_APPLICATION = ("ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET")
_LIKE_AN_ID = re.compile(r"-[\w-]{30,}", re.ASCII)  # no option is as long
_PANEL = "Options of every command"

BaseUrl = Annotated[
    str | None,
    typer.Option(
        help="URL of the API; by default ITP_API_URL, or Bentley's own.",
        show_default=False,
        metavar="URL",
        rich_help_panel=_PANEL,
    ),
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        help="Log to standard error; -vv for everything.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print results and errors only.", rich_help_panel=_PANEL),
]
NoProgress = Annotated[
    bool,
    typer.Option("--no-progress", help="Show no progress.", rich_help_panel=_PANEL),
]
_SHARED: tuple[tuple[str, Any, Any], ...] = (
    ("base_url", BaseUrl, None),
    ("tier", TierOption, Tier.STANDARD.value),
    ("verbose", Verbose, 0),
    ("quiet", Quiet, False),
    ("no_progress", NoProgress, False),
)


def has_token() -> bool:
    """Whether the environment has a token, which is never renewed."""
    return bool(os.environ.get(TOKEN, "").strip())


@frozen(kw_only=True)
class Invocation:
    """One call of a command.

    `runtime`: its client and event loop. `base_url` None: that of the environment. `rate_limit`:
    the calls that the tier allows. `rerun_command`: the command line that gives it again.
    """

    runtime: Runtime = field(factory=Runtime)
    base_url: str | None = None
    rate_limit: RateLimit = RateLimit.STANDARD
    quiet: bool = False
    no_progress: bool = False
    rerun_command: str = "itwin-export"

    @property
    def shows_progress(self) -> bool:
        """Whether progress is wanted at all."""
        return not (self.quiet or self.no_progress)

    def note(self, text: str) -> None:
        """Print a message that is no error."""
        if not self.quiet:
            log_message(text)

    def open_client(self) -> ExportClient:
        """A client with the credentials of the environment, to be opened.

        Raises `MissingToken` without credentials, and a `UsageError` for a wrong variable.
        """
        missing = [name for name in _APPLICATION if not os.environ.get(name, "").strip()]
        if missing and not has_token():
            names = " and ".join(missing)
            raise MissingToken(
                f"no credentials: set {TOKEN}, or {names} of a service application"
                if len(missing) == 2
                else f"no credentials: {names} is not set"
            )
        options: dict[str, Any] = {"rate_limit": self.rate_limit}
        if self.base_url is not None:
            options["base_url"] = self.base_url
        with user_input():
            return self.runtime.client_factory(**options)


class IdCommand(TyperCommand):
    """A command whose argument may be an id that begins with a hyphen, as one of 64 does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for parameter in self.params:  # one rule for all variables is in the help of the app
            vars(parameter)["show_envvar"] = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; what can only be an id is no option."""
        glued = tuple(name for option in self.params for name in option.opts if len(name) == 2)
        ids = [word for word in args if _LIKE_AN_ID.fullmatch(word) and not word.startswith(glued)]
        if ids and "--" not in args:
            args = [*(word for word in args if word not in ids), "--", *ids]
        return super().parse_args(ctx, args)


def add_command(
    app: typer.Typer,
    name: str,
    function: Callable[..., Coroutine[Any, Any, int | None]],
    *,
    example: str,
    epilog: str = "",
    is_service: bool = False,
) -> None:
    """Add a command to the app, with the options of every command.

    `is_service`: it has no client, and Ctrl-C is its regular end.
    """
    own = inspect.signature(function).parameters
    shared = [each for each in _SHARED if each[0] not in own]

    def call(context: typer.Context, **values: Any) -> None:
        set_up_streams(as_json=bool(values.get("as_json")))
        given = {name: values.pop(name) for name, _, _ in shared}
        set_up_logging(given["verbose"])
        if is_service:
            run_command(function(**values), interruptible=True)
        else:
            invocation = Invocation(
                runtime=context.ensure_object(Runtime),
                base_url=given["base_url"],
                rate_limit=Tier(given["tier"]).rate_limit,
                quiet=given["quiet"],
                no_progress=given["no_progress"],
                rerun_command=reconstruct_command(context),
            )
            run_command(function(invocation, **values), run=invocation.runtime.run)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter("context", keyword, annotation=typer.Context),
        *(each.replace(kind=keyword) for name, each in own.items() if name != "invocation"),
        *(
            inspect.Parameter(name, keyword, annotation=kind, default=default)
            for name, kind, default in shared
        ),
    ]
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    texts = [epilog, f"Example: itwin-export {example}", EXIT_CODES]
    app.command(
        name,
        cls=IdCommand,
        epilog="\n\n".join(filter(None, texts)),
        context_settings={"auto_envvar_prefix": VARIABLES},
    )(call)


def set_up_logging(verbose: int) -> None:
    """Log to standard error: INFO for 1, DEBUG for more, nothing for 0."""
    if verbose:
        level = logging.DEBUG if verbose > 1 else logging.INFO
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(format=form, stream=StandardError())
        logging.getLogger("itwin_export_async").setLevel(level)


def set_up_streams(*, as_json: bool) -> None:
    """JSON is UTF-8, whatever the terminal's encoding."""
    if as_json and isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
