"""The command line: in this process for what it says, in its own for how it ends."""

import asyncio
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    DownloadError,
    ExportError,
    RunFailed,
    RunTimeout,
)
from itwin_export_async.cli.app import app
from itwin_export_async.cli.demo import names
from itwin_export_async.cli.ending import exit_code
from itwin_export_async.emulator import Emulator

COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-c"]
COMMAND += ["from itwin_export_async.cli import main; main()"]


class Service:
    """An emulator behind a server in a thread of its own."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator
        self.ready, self.stop = threading.Event(), asyncio.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        async with self.emulator.serve() as served:
            self.base_url, self.token_url = served.base_url, served.token_url
            self.ready.set()
            await self.stop.wait()

    def environment(self) -> dict[str, str]:
        return {
            "ITP_API_URL": self.base_url,
            "ITP_ISSUER_URL": self.token_url.removesuffix("/connect/token"),
            "ITP_SERVICE_CLIENT_ID": self.emulator.client_id,
            "ITP_SERVICE_CLIENT_SECRET": self.emulator.client_secret,
            "ITWIN_ACCESS_TOKEN": "",
        }


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service(Emulator(seed=1, run_seconds=0.3))
    service.thread.start()
    service.ready.wait(10)
    for name, value in service.environment().items():
        monkeypatch.setenv(name, value)
    yield service
    service.loop.call_soon_threadsafe(service.stop.set)
    service.thread.join(10)


def invoke(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words), prog_name="itwin-export")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_demo_ends_with_files_that_are_ifc(tmp_path: Path) -> None:
    code, out, _ = invoke("demo", "-o", str(tmp_path / "new"), "--imodels", "3", "--speed", "900")
    assert code == 0
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["Bridge.ifc", "Station.ifc", "Tunnel.ifc"]
    for file in files:
        assert file.read_bytes().startswith(b"ISO-10303-21;")
        assert re.search(rf"{file.stem}\s+[0-9a-f]{{8}}\s.*Completed.* s\s+{file.name}.*kB", out)


def test_a_terminal_gets_a_live_table(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = [*COMMAND, "demo", "-o", "out", "--imodels", "2", "--speed", "900"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(
        words, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(ours, 65536):
                shown += piece
    os.close(ours)
    assert process.returncode == 0
    assert b"starting" in shown or b"Executing" in shown
    assert b"Traceback" not in shown
    assert b"Tunnel.ifc" in shown


def test_there_are_names_for_any_number_of_imodels() -> None:
    assert len(set(names(100))) == 100
    assert names(8)[-1] == "Bridge 2"


def test_one_export_ends_with_its_file(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    file = tmp_path / "bridge.ifc"
    code, out, err = invoke("run", imodel_id, "-o", str(file), "--ifc-version", "IFC2x3")
    assert (code, out.split(" (")[0]) == (0, str(file))
    assert b"IFC2X3" in file.read_bytes()
    assert "Success" in err


def test_a_folder_is_a_folder_also_before_it_exists(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    assert invoke("run", imodel_id, "-o", f"{tmp_path}/new/")[0] == 0
    assert (tmp_path / "new/Bridge.ifc").is_file()


def test_a_failed_run_is_not_to_be_continued(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.fate(imodel_id, "Error")
    code, _, err = invoke("run", imodel_id, "-o", f"{tmp_path}/")
    assert code == 1
    assert "TAE_" in err
    assert "continues" not in err


def test_a_joined_run_is_told(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.fate(imodel_id, "Success", seconds=2)
    args = ("run", imodel_id, "-o", f"{tmp_path}/")
    code, _, err = invoke(*args, "--timeout", "0.2")
    assert code == 3
    assert "after the time allowed" in err
    code, out, err = invoke("-v", *args, "--authentication-type", "user")
    assert code == 0
    assert "was active already" in err
    assert out.startswith(str(tmp_path / "Bridge.ifc"))


def test_what_is_printed_on_leaving_continues_the_run(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.fate(imodel_id, "Success", seconds=1)
    file = str(tmp_path / "b.ifc")
    base_url = ("--base-url", service.base_url)
    _, _, err = invoke("run", imodel_id, "-o", file, "--timeout", "0.1", *base_url)
    line = next(line for line in err.splitlines() if line.startswith("  itwin-export watch"))
    shell = f"{line.replace('itwin-export', '$ITWIN', 1)}"
    script = f'ITWIN() {{ "$@"; }}; {shell}'
    words = subprocess.run(
        ["bash", "-c", script.replace("$ITWIN", "printf '%s\\n'")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    code, out, _ = invoke(*words)
    assert code == 0
    assert out.startswith(file)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["run", "", "-o", "x"], 2, "imodel_id is empty"),
        (["run", "..", "-o", "x"], 2, "imodel_id '..' is not an id"),
        (["run", "m", "-o", "x", "--ifc-version", "IFC9"], 2, "ifc_version 'IFC9' is not one of"),
        (["run", "m", "-o", "x", "--if-active", "no"], 2, "if_active must be"),
        (["run", "m", "-o", "x", "--authentication-type", "no"], 2, "authentication_type 'no'"),
        (["run", "m", "-o", "x", "--base-url", "http://x.example"], 2, "base_url"),
        (["run", "m", "-o", "/dev/null/x.ifc"], 1, "/dev/null: the folder cannot be written"),
        (["run", "not-a-guid", "-o", "x"], 1, "422 InvalidExportConnectionRequest"),
        (["run", "m", "-o", "x", "--base-url", "http://127.0.0.1:1"], 1, "cannot connect to"),
        (["watch", "rubbish", "-o", "x"], 2, "no resume token"),
    ],
)
def test_a_mistake_is_one_clear_sentence(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str],
    code: int, told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("itwin_export_async._protocol.retry.RetryPolicy.bound", lambda *_: 0.001)
    if "127.0.0.1:1" in str(words):
        monkeypatch.setenv("ITWIN_ACCESS_TOKEN", "token")
    assert (invoke(*words)[0], told in invoke(*words)[2]) == (code, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["run", "watch"])
def test_a_missing_token_names_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    for name in ("ITWIN_ACCESS_TOKEN", "ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = invoke(command, "m", "-o", str(tmp_path / "x"))
    assert (code, err.count("\n")) == (2, 1)
    assert "set ITWIN_ACCESS_TOKEN, or ITP_SERVICE_CLIENT_ID" in err


def test_a_wrong_secret_is_not_authorized(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ITP_SERVICE_CLIENT_SECRET", "planted-secret")
    code, out, err = invoke("run", "m", "-o", str(tmp_path / "x"))
    assert code == 4
    assert "invalid_client" in err
    assert "planted-secret" not in out + err


def test_every_command_has_help_with_an_example() -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert "130 interrupted" in " ".join(out.split())
    for command in ("demo", "emulator", "run", "watch"):
        assert command in out
        code, text, _ = invoke(command, "--help")
        assert code == 0
        assert f"Example: itwin-export {command}" in " ".join(text.split())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunTimeout(connection_id="c", run_id="r"), 3),
        (RunFailed(connection_id="c", run_id="r"), 1),
        (AuthenticationFailed(status=401), 4),
        (AuthorizationRequired(), 4),
        (DownloadError(message="x"), 1),
        (ExportError(), 1),
        (OSError(), 1),
        (ValueError(), 2),
    ],
)
def test_an_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def start(*words: str, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*COMMAND, *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def interrupt_after(process: "subprocess.Popen[str]", text: str) -> tuple[int, str, str]:
    """Press Ctrl-C once this was printed; what came of it."""
    seen, stream = "", process.stderr if text.startswith("run") else process.stdout
    assert stream is not None
    while text not in seen:
        line = stream.readline()
        assert line, f"ended before it printed {text!r}: {seen}"
        seen += line
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_ctrl_c_ends_a_demo_cleanly(tmp_path: Path) -> None:
    process = start("demo", "-o", "out", "--speed", "1", cwd=tmp_path)
    code, _, err = interrupt_after(process, ": run ")
    assert (code, err) == (130, "itwin-export: interrupted\n")
    assert not list((tmp_path / "out").iterdir())


def test_ctrl_c_ends_an_export_with_the_command_that_continues(
    service: Service, tmp_path: Path
) -> None:
    imodel_id = service.emulator.add_imodel()
    service.emulator.fate(imodel_id, "Success", seconds=1000)
    process = start("run", imodel_id, "-o", "b.ifc", cwd=tmp_path)
    code, _, err = interrupt_after(process, "run ")
    assert code == 130
    assert "itwin-export watch" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_is_how_the_emulator_is_meant_to_end(tmp_path: Path) -> None:
    process = start("emulator", "--port", "0", cwd=tmp_path)
    code, _, err = interrupt_after(process, "itwin-export run ")
    assert (code, err) == (0, "")


def test_another_missing_module_is_a_fault_to_be_seen() -> None:
    hide = "import sys; sys.modules['itwin_export_async.cli.board'] = None; "
    done = subprocess.run(
        [*COMMAND[:-1], hide + COMMAND[-1]], capture_output=True, text=True, check=False
    )
    assert "ModuleNotFoundError" in done.stderr


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    hide = "import sys; sys.modules['typer'] = None; "
    done = subprocess.run(
        [*COMMAND[:-1], hide + COMMAND[-1]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == (
        "itwin-export needs typer: install it with pip install 'itwin-export-async[cli]'\n"
    )
