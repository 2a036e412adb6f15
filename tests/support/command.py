"""The command line: in this process and in virtual time, or as a process of its own."""

import logging
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from attrs import frozen

from itwin_export_async import ExportClient
from itwin_export_async.cli import main
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.runtime import Runtime
from itwin_export_async.emulator import Emulator, run_virtual
from tests.support.environment import environment

# not `-X dev`: asyncio would report on standard error that the machine is slow
COMMAND = [sys.executable, "-W", "error", "-c"]
COMMAND += ["from itwin_export_async.cli import main; main()"]


class Stream(TextIOWrapper):
    """Standard output or error of a command in this process.

    `interrupt_at`: the text on which Ctrl-C is pressed once, or `signal_number` is raised.
    """

    def __init__(
        self,
        *,
        encoding: str = "utf-8",
        is_terminal: bool = False,
        interrupt_at: str | None = None,
        signal_number: int = signal.SIGINT,
    ) -> None:
        super().__init__(BytesIO(), encoding=encoding, newline="\n", write_through=True)
        self._is_terminal = is_terminal
        self._interrupt_at = interrupt_at
        self._signal_number = signal_number

    @property
    def text(self) -> str:
        """What was written so far."""
        assert isinstance(self.buffer, BytesIO)
        return self.buffer.getvalue().decode(self.encoding)

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str, /) -> int:
        length = super().write(text)
        if self._interrupt_at is not None and self._interrupt_at in self.text:
            self._interrupt_at = None
            signal.raise_signal(self._signal_number)
        return length


def invoke(
    *words: str,
    runtime: Runtime | None = None,
    out: Stream | None = None,
    err: Stream | None = None,
) -> tuple[int, str, str]:
    """The exit code of a command in this process, and what it printed."""
    out, err = out or Stream(), err or Stream()
    with _restored(), redirect_stdout(out), redirect_stderr(err):
        with pytest.raises(SystemExit) as exit:
            main(words, runtime=runtime)
    assert isinstance(exit.value.code, int)
    return exit.value.code, out.text, err.text


@contextmanager
def _restored() -> Iterator[None]:
    """Restore logging and the hook for exceptions afterwards."""
    root, package = logging.getLogger(), logging.getLogger("itwin_export_async")
    before = root.handlers[:], package.level, sys.excepthook
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:], level, sys.excepthook = before
        package.setLevel(level)


@frozen(kw_only=True)
class CommandLine:
    """The command in this process, with an emulator in memory as its service."""

    emulator: Emulator
    runtime: Runtime

    @property
    def invocation(self) -> Invocation:
        """A call of a command, for functions that take one."""
        return Invocation(runtime=self.runtime, rerun_command="itwin-export batch models.csv")

    def invoke(
        self, *words: str, out: Stream | None = None, err: Stream | None = None
    ) -> tuple[int, str, str]:
        """The exit code, standard output and standard error of a command."""
        return invoke(*words, runtime=self.runtime, out=out, err=err)


@pytest.fixture
def cli(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command in virtual time."""
    for name, value in environment(emulator).items():
        monkeypatch.setenv(name, value)
    client_factory = partial(ExportClient.from_env, transport=emulator)
    return CommandLine(
        emulator=emulator, runtime=Runtime(client_factory=client_factory, run=run_virtual)
    )


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size and kind of the terminal that a `Stream` stands for."""
    for name, value in {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"}.items():
        monkeypatch.setenv(name, value)


@contextmanager
def start(*words: str, cwd: Path, stdin: int | None = None) -> "Iterator[subprocess.Popen[str]]":
    """A command in its own process, which has ended after the block.

    `stdin`: what it reads, None for what this process does.
    """
    with subprocess.Popen(
        [*COMMAND, *words],
        cwd=cwd,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def on_terminal(*words: str, cwd: Path) -> tuple[int, bytes]:
    """The exit code of a process on a real terminal, and what that was sent."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *words], cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the terminal was closed
            while piece := os.read(ours, 65536):
                shown += piece
    os.close(ours)
    return process.returncode, shown
