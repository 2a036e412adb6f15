"""How commands end: bugs, signals and closed terminals."""

import asyncio
import errno
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from itwin_export_async import ExportClient, TransportError
from itwin_export_async.cli.checks import prepare_folder
from itwin_export_async.cli.errors import UsageError, user_input
from itwin_export_async.cli.output.console import echo
from itwin_export_async.cli.runner import SignalGuard, join_command, run_command
from itwin_export_async.cli.runtime import Runtime
from itwin_export_async.emulator import Emulator, run_virtual
from itwin_export_async.transport import Request, Response
from tests.support.command import CommandLine, Stream, invoke

M = "7dbd531d-6967-47b2-8945-a722a437ad7a"
BUGS = [
    TypeError("bug?sig=planted-secret"),
    ValueError("bug"),
    KeyError("bug"),
    RuntimeError("bug"),
]


class Broken(Emulator):
    """An emulator in whose transport there is a bug."""

    error: Exception = RuntimeError()

    async def send(self, request: Request, /) -> Response:
        raise self.error


@pytest.mark.usefixtures("cli")
@pytest.mark.parametrize("error", BUGS)
@pytest.mark.parametrize("command", ["runs", "batch"])
def test_bug_shows_its_traceback(tmp_path: Path, error: Exception, command: str) -> None:
    broken = Broken()
    broken.error = error
    client_factory = partial(ExportClient.from_env, transport=broken)
    runtime = Runtime(client_factory=client_factory, run=run_virtual)
    (tmp_path / "m.csv").write_text(f"imodel_id\n{M}\n")
    words: tuple[str, ...] = ("runs", "list", "c")
    if command == "batch":
        words = ("batch", f"{tmp_path}/m.csv", "-o", f"{tmp_path}/out")
    code, _, err = invoke(*words, runtime=runtime)
    assert code == 70
    assert "Traceback (most recent call last):" in err
    assert "    raise self.error" in err
    assert err.endswith("itwin-export: this is a bug; please report it with the lines above\n")
    assert "planted-secret" not in err


def test_bug_in_a_callback_of_typer_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("planted")

    monkeypatch.setattr("itwin_export_async.cli.command.set_up_logging", fail)
    code, _, err = invoke("runs", "list", "c")
    assert (code, "TypeError: planted" in err) == (70, True)


def test_user_input_is_no_bug() -> None:
    with pytest.raises(UsageError, match=r"^x$"), user_input():
        raise ValueError("x")
    with pytest.raises(UsageError, match=r"^y$"), user_input():
        raise UsageError("y")
    with pytest.raises(TransportError), user_input():
        raise TransportError(message="z")


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        guard = SignalGuard()
        guard.install()
        handlers = [signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)]
        assert handlers == [signal.SIG_IGN, guard]
        guard.remove()
        assert signal.getsignal(signal.SIGTERM) is not guard
    finally:
        signal.signal(signal.SIGHUP, before)


def test_interruptible_command_ends_regularly() -> None:
    async def serve() -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(100)

    run_command(serve(), interruptible=True, run=run_virtual)


class Gone(Stream):
    """A terminal that was closed."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


class Full(Stream):
    """A file on a full disk."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_closed_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Gone())
    echo("x")
    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(OSError, match="No space left"):
        echo("x")


def test_closed_terminal_keeps_no_report_from_being_written(
    cli: CommandLine, tmp_path: Path
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    (tmp_path / "m.csv").write_text(f"imodel_id\n{imodel_id}\n")
    words = (
        "batch",
        f"{tmp_path}/m.csv",
        "-o",
        f"{tmp_path}/out",
        "--report",
        f"{tmp_path}/r.html",
    )
    assert cli.invoke(*words, out=Gone(), err=Gone())[0] == 0
    assert "All exports succeeded" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(("system", "expected"), [("posix", "a 'b c'"), ("nt", 'a "b c"')])
def test_command_is_quoted_for_its_shell(
    monkeypatch: pytest.MonkeyPatch, system: str, expected: str
) -> None:
    monkeypatch.setattr("itwin_export_async.cli.runner.os.name", system)
    command = join_command(["a", "b c"])
    monkeypatch.undo()
    assert command == expected


@pytest.mark.parametrize("purpose", ["output", "report"])
async def test_folder_without_permission_is_named_with_its_purpose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, purpose: str
) -> None:
    def deny(*_: Any) -> bool:
        return False

    monkeypatch.setattr("os.access", deny)
    with pytest.raises(UsageError, match=f"{purpose}: the folder .* cannot be written: Permission"):
        await prepare_folder(tmp_path, purpose=purpose)


def test_permission_of_a_report_is_exit_code_2(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    denied = partial(raise_error, PermissionError(13, "Permission denied"))
    monkeypatch.setattr(Path, "touch", staticmethod(denied))
    words = ("run", imodel_id, "-o", f"{tmp_path}/", "--report", f"{tmp_path}/r.html")
    code, _, err = cli.invoke(*words)
    assert (code, err) == (
        2,
        f"itwin-export: report: {tmp_path}/r.html cannot be written: Permission denied\n",
    )
    assert cli.emulator.requests == []


def raise_error(error: Exception, *_: object, **__: object) -> None:
    raise error
