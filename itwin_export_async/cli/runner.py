"""How a command ends: with what exit code, and with what last words."""

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine
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
from itwin_export_async.cli.errors import MissingToken, RefusedLedger, remedy, words
from itwin_export_async.cli.output.console import tell

EXIT_CODES = (
    "Exit codes: 0 all good, 1 some failed, 2 wrong usage, 3 still running, "
    "4 not authorized, 130 interrupted, 143 terminated."
)
FAULTS = (ExportError, ValueError, TypeError, OSError)  # what is told in words
_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_BY_SIGNAL = 128  # what a shell adds to a signal's number
_SHOW_CURSOR = b"\x1b[?25h\n"


def conclude(
    work: Coroutine[Any, Any, int | None],
    *,
    interruptible: bool = False,
    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run,
) -> None:
    """Do the work and end the command with the exit code that it gives, None for 0.

    What went wrong is said, with what to do about it, and then the notes of the error.
    `interruptible`: Ctrl-C is how it is meant to end. `run`: runs a coroutine to its end.
    """
    interrupts = _Interrupts()
    before = {number: signal.signal(number, interrupts) for number in _SIGNALS}
    try:
        code = run(interrupts.over(work)) or 0
    except BrokenPipeError:  # nobody reads on: typer ends quietly for it
        raise
    except FAULTS as error:
        say(words(error))
        code = exit_code(error)
        if code in (1, 4) or isinstance(error, RefusedLedger):
            tell(f"  {remedy(error)}", to=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            say(note)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code > _BY_SIGNAL:
        if interruptible:
            return
        say(_SIGNALS[signal.Signals(code - _BY_SIGNAL)])
    raise typer.Exit(code)


class _Interrupts:
    """Ctrl-C and its like: the first ends the work cleanly, the next one at once."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._code = 0

    def __call__(self, number: int, _: object) -> None:
        if self._task is None or self._code:
            _leave_at_once(_BY_SIGNAL + number)
        else:
            self._code = _BY_SIGNAL + number
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def over(self, work: Coroutine[Any, Any, int | None]) -> int | None:
        """What the work gives, or the exit code of the signal that ended it."""
        self._task = task = asyncio.create_task(work)
        await asyncio.wait({task})
        self._task = None
        return self._code if task.cancelled() and self._code else task.result()


def _leave_at_once(code: int) -> None:
    if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)
    os._exit(code)


def exit_code(error: BaseException) -> int:
    """The exit code that an error stands for."""
    match error:
        case RunTimeout() | RunUnreachable():
            return 3
        case RefusedLedger():
            return 2
        case TokenError(is_transient=True):
            return 1
        case AuthenticationFailed() | AuthorizationRequired() | PermissionDenied():
            return 4
        case TokenError() | MissingToken():
            return 4
        case ExportError() | OSError():
            return 1
        case _:
            return 2


def say(text: str) -> None:
    """Words for the person, apart from the output."""
    tell(f"itwin-export: {text}", to=sys.stderr)


def same_command(context: typer.Context) -> str:
    """The command as it was given, to be given once more."""
    options: list[str] = []
    arguments: list[str] = []
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        value = getattr(context.params[name], "value", context.params[name])
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        else:
            options += [parameter.opts[-1]] if value is True else [parameter.opts[-1], str(value)]
    if any(len(word) > 1 and word.startswith("-") for word in arguments):
        arguments = [*options, "--", *arguments]
        options = []
    return shlex.join([*context.command_path.split(), *arguments, *options])
