"""How a command ends: with what exit code, and with what last words."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

import typer

from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    ExportError,
    PermissionDenied,
    RunTimeout,
    RunUnreachable,
    TokenError,
)

EXIT_CODES = (
    "Exit codes: 0 all good, 1 failed, 2 wrong usage, 3 the run still goes on, "
    "4 not authorized, 130 interrupted."
)


def conclude(work: Coroutine[Any, Any, None], *, interruptible: bool = False) -> None:
    """Do the work and end the command. `interruptible`: Ctrl-C is how it is meant to end."""
    try:
        asyncio.run(work)
    except KeyboardInterrupt:
        if interruptible:
            return
        say("interrupted")
        raise typer.Exit(130) from None
    except (ExportError, ValueError, TypeError, OSError) as error:
        say(f"{error}")
        raise typer.Exit(exit_code(error)) from None


def exit_code(error: BaseException) -> int:
    """The exit code that an error stands for."""
    match error:
        case RunTimeout() | RunUnreachable():
            return 3
        case AuthenticationFailed() | AuthorizationRequired() | PermissionDenied() | TokenError():
            return 4
        case ExportError() | OSError():
            return 1
        case _:
            return 2


def say(text: str) -> None:
    """Words for the person, apart from the output."""
    print(f"itwin-export: {text}", file=sys.stderr)
