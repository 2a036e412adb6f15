"""How a command ends: its exit code, and what it says last."""

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType, TracebackType
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
from itwin_export_async._redaction import redacted  # no public name yet
from itwin_export_async.cli.errors import (
    MissingToken,
    RefusedLedger,
    UsageError,
    hint,
    message,
)
from itwin_export_async.cli.output.console import echo

EXIT_CODES = (
    "Exit codes: 0 all good, 1 some failed, 2 wrong usage, 3 still running, 4 not authorized, "
    "70 a bug, 129 hung up, 130 interrupted, 143 terminated."
)
EXPECTED = (ExportError, UsageError, OSError)  # everything else is a bug
BUG = 70
_SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):  # pragma: no branch - not on Windows
    _SIGNALS[signal.SIGHUP] = "hung up"
_BY_SIGNAL = 128  # what a shell adds to a signal's number
_SHOW_CURSOR = b"\x1b[?25h\n"
_MAX_LINE = 2000  # characters of one line of a traceback


def run_command(
    work: Coroutine[Any, Any, int | None],
    *,
    interruptible: bool = False,
    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run,
) -> None:
    """Do the work, and end the command with the exit code that it returns, None for 0.

    An expected error is printed with a hint and its notes; any other one propagates.
    `interruptible`: Ctrl-C is the regular end. `run`: runs a coroutine to its end.
    """
    guard = SignalGuard()
    try:
        guard.install()
        code = run(guard.run(work)) or 0
    except BrokenPipeError:  # the reader is gone: typer ends quietly for it
        raise
    except EXPECTED as error:
        log_message(message(error))
        code = exit_code(error)
        if code in (1, 4) or isinstance(error, RefusedLedger):
            echo(f"  {hint(error)}", to=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            log_message(note)
    finally:
        guard.remove()
    if code > _BY_SIGNAL:
        if interruptible:
            return
        log_message(_SIGNALS[signal.Signals(code - _BY_SIGNAL)])
    raise typer.Exit(code)


class SignalGuard:
    """Ctrl-C, SIGTERM and SIGHUP: the first cancels the work, the next one exits at once.

    A signal that was ignored before, as SIGHUP is under nohup, stays ignored.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._code = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Handle the signals."""
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self)

    def remove(self) -> None:
        """Handle the signals as before."""
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self._task is None or self._code:
            _exit_at_once(_BY_SIGNAL + number)
        else:
            self._code = _BY_SIGNAL + number
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    async def run(self, work: Coroutine[Any, Any, int | None]) -> int | None:
        """The result of the work, or the exit code of the signal that cancelled it."""
        self._task = task = asyncio.create_task(work)
        await asyncio.wait({task})
        self._task = None
        return self._code if task.cancelled() and self._code else task.result()


def _exit_at_once(code: int) -> None:
    if sys.stderr.isatty():
        with suppress(OSError):
            os.write(2, _SHOW_CURSOR)
    os._exit(code)


class BugExit:
    """A context that turns an exception nothing expected into its traceback and exit code 70."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            print_bug(error)
            sys.exit(BUG)


def print_bug(error: BaseException) -> None:
    """Print the traceback of a bug, without locals and secrets."""
    for text in traceback.format_exception(error):
        for line in text.splitlines():
            indent = line[: len(line) - len(line.lstrip())]
            echo(indent + redacted(line, limit=_MAX_LINE), to=sys.stderr)
    log_message("this is a bug; please report it with the lines above")


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    match error:
        case RunTimeout() | RunUnreachable():
            return 3
        case TokenError(is_transient=True):
            return 1
        case AuthenticationFailed() | AuthorizationRequired() | PermissionDenied():
            return 4
        case TokenError() | MissingToken():
            return 4
        case RefusedLedger() | UsageError():
            return 2
        case ExportError() | OSError():
            return 1
        case _:
            return BUG


def log_message(text: str) -> None:
    """Print a message to standard error, apart from the results."""
    echo(f"itwin-export: {text}", to=sys.stderr)


def join_command(words: list[str]) -> str:
    """The words as a command line for this system's shell."""
    if os.name == "nt":
        return subprocess.list2cmdline(words)
    return shlex.join(words)


def reconstruct_command(context: typer.Context) -> str:
    """The command line as it was given, to be given again. Variables are not repeated."""
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
        elif value is True:
            options.append(parameter.opts[-1])
        elif getattr(parameter, "count", False):
            options += [parameter.opts[-1]] * value
        else:
            options += [parameter.opts[-1], str(value)]
    if any(len(word) > 1 and word.startswith("-") for word in arguments):
        arguments = [*options, "--", *arguments]
        options = []
    return join_command([*context.command_path.split(), *arguments, *options])
