"""The command line: in this process for what it says, in its own for how it ends."""

import asyncio
import errno
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import pytest
import typer
from rich.cells import cell_len

from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    DownloadError,
    ExportClient,
    ExportError,
    RunFailed,
    RunTimeout,
    RunUnreachable,
    TokenError,
)
from itwin_export_async.cli.commands.demo import names
from itwin_export_async.cli.commands.emulator import serve_emulator
from itwin_export_async.cli.commands.run import Delivery, ExportOrder, run_export
from itwin_export_async.cli.runner import conclude, exit_code
from itwin_export_async.emulator import Emulator
from tests.support.command import COMMAND, Service, invoke, on_terminal, serving, start
from tests.support.fakes import answer

COMMANDS = ["run", "watch", "batch", "runs", "connections", "authorize", "demo", "emulator"]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(Emulator(seed=1, run_seconds=0.3), monkeypatch) as service:
        yield service


def test_the_demo_ends_with_files_that_are_ifc(tmp_path: Path) -> None:
    code, out, _ = invoke("demo", "-o", str(tmp_path / "new"), "--imodels", "3", "--speed", "900")
    assert code == 0
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["Bridge.ifc", "Station.ifc", "Tunnel.ifc"]
    for file in files:
        assert file.read_bytes().startswith(b"ISO-10303-21;")
        assert re.search(rf"{file.stem}\s+[0-9a-f]{{8}}\s.*Completed.* s\s+{file.name}.*kB", out)


def test_a_terminal_gets_a_live_table(tmp_path: Path) -> None:
    code, shown = on_terminal("demo", "-o", "out", "--imodels", "2", "--speed", "900", cwd=tmp_path)
    assert code == 0
    assert b"starting" in shown or b"Executing" in shown
    assert b"Traceback" not in shown
    assert b"Tunnel.ifc" in shown


def test_a_folder_is_told_as_it_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "[/x] :bug:"
    code, out, _ = invoke("demo", "-o", str(folder), "--imodels", "1", "--speed", "900")
    assert (code, out.endswith(f"The files are in {folder}\n")) == (0, True)


def test_a_demo_that_fails_says_why_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise DownloadError(message="the disk is full")

    monkeypatch.setattr("itwin_export_async.cli.commands.demo._export", fail)
    code, _, err = invoke("demo", "-o", str(tmp_path))
    assert (code, err.count("\n"), "the disk is full\n" in err) == (1, 2, True)


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


def test_what_no_file_may_replace_is_told_before_anything_is_sent(
    service: Service, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "f")
    imodel_id = service.emulator.add_imodel("Bridge")
    code, out, err = invoke("run", imodel_id, "-o", str(tmp_path / "f"))
    assert (code, out) == (1, "")
    assert "cannot be written: it is neither file nor folder" in " ".join(err.split())
    assert service.emulator.requests == []


@pytest.mark.parametrize("words", [[], ["--synchronization"]])
def test_a_consent_that_lacks_is_exit_code_4(service: Service, words: list[str]) -> None:
    assert invoke("authorize", *words)[0] == 0
    service.emulator.user_authorized = False
    code, out, err = invoke("authorize", "--timeout", "0.01", *words)
    assert code == 4
    assert "https://connect-itwinbridgeportal" in out
    assert "has not authorized exports" in err


def test_a_path_is_told_whole_on_a_narrow_terminal(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    folder = "a folder whose name is longer than this terminal is wide/"
    code, shown = on_terminal("run", imodel_id, "-o", folder, cwd=tmp_path, columns=40)
    assert (code, f"{folder}Bridge.ifc (".encode() in shown) == (0, True)


def test_a_folder_is_a_folder_also_before_it_exists(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    assert invoke("run", imodel_id, "-o", f"{tmp_path}/new/")[0] == 0
    assert (tmp_path / "new/Bridge.ifc").is_file()


def test_a_failed_run_is_not_to_be_continued(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.plan_next_run(imodel_id, "Error")
    code, _, err = invoke("run", imodel_id, "-o", f"{tmp_path}/")
    assert code == 1
    assert "TAE_" in err
    assert "continues" not in err


def test_a_joined_run_is_told(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.plan_next_run(imodel_id, "Success", duration=2)
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
    service.emulator.plan_next_run(imodel_id, "Success", duration=1)
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
        (["run", "m", "-o", "x", "--ifc-version", "9"], 2, "'9' is not one of 'IFC4.3', 'IFC2x3"),
        (["run", "m", "-o", "x", "--if-active", "no"], 2, "'no' is not one of 'join'"),
        (["run", "m", "-o", "x", "--authentication-type", "no"], 2, "'no' is not one of 'User"),
        (["emulator", "--port", "1x"], 2, "--port"),
        (["run", "m"], 2, "where to? A file, or a folder"),
        (["watch", "{}", "-o", ""], 2, "where to? A file, or a folder"),
        (["batch", "no.csv", "-o", ""], 2, "where to? A file, or a folder"),
        (["run", "m", "--no-wait", "--report", "r.html"], 2, "does not go with --report"),
        (["run", "m", "-o", "x", "--report", "./x"], 2, "x cannot be the output and the report"),
        (
            ["run", "m", "-o", "x", "--report", "."],
            2,
            ".: a report is a file, and this is a folder",
        ),
        (["runs", "-short"], 2, "No such option: -s"),
        (["runs", "--jsno", "c"], 2, "No such option: --jsno"),
        (["runs", ".."], 2, "'..' is not an id"),
        (["connections", ""], 2, "imodel_id is empty"),
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
    monkeypatch.setattr("itwin_export_async._http.retry.RetryPolicy.max_delay", lambda *_: 0.001)
    if "127.0.0.1:1" in str(words):
        monkeypatch.setenv("ITWIN_ACCESS_TOKEN", "token")
    ended, _, err = invoke(*words)
    err = " ".join(err.replace("│", " ").split())  # a box, and lines that were broken
    assert (ended, told in err, "Value error" in err) == (code, True, False)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_waited_for_is_taken_up_by_its_token(
    service: Service, tmp_path: Path
) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    code, token, err = invoke("run", imodel_id, "--no-wait")
    assert code == 0
    assert json.loads(token)["run"]
    assert f"watch '{token.strip()}' -o ." in err
    folder, report = f"{tmp_path}/", tmp_path / "new" / "r.html"
    code, out, _ = invoke("watch", token, "-o", folder, "--json", "--report", str(report))
    told = json.loads(out)
    assert (code, told["ok"], told["imodel_id"]) == (0, True, None)
    assert told["files"][0]["path"] == str(tmp_path / "Bridge.ifc")
    assert "All exports are good" in report.read_text()


def test_an_export_is_told_as_json(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.plan_next_run(imodel_id, "Success", duration=2)
    words = ["run", imodel_id, "-o", f"{tmp_path}/", "--json", "--report", f"{tmp_path}/r.html"]
    code, out, err = invoke(*words, "--timeout", "0.2")
    told = json.loads(out)
    assert (code, told["ok"], told["error"]["type"]) == (3, False, "RunTimeout")
    assert "resume(" not in out + err
    assert json.loads(told["error"]["token"])["run"] == told["run_id"]
    assert f"--json --report {tmp_path}/r.html" in err
    code, out, _ = invoke(*words)
    told = json.loads(out)
    assert (code, told["ok"], told["result"], told["error"]) == (0, True, "Success", None)
    assert told["run_started"] < told["run_ended"]


def continuation(err: str) -> list[str]:
    """The words of the command that was said to continue; it is the last thing said."""
    *_, said, line = err.splitlines()
    assert said == "itwin-export: this continues:"
    assert line.startswith("  itwin-export watch ")
    return shlex.split(line)[1:]


def test_a_download_that_fails_is_continued(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("itwin_export_async._http.retry.RetryPolicy.max_delay", lambda *_: 0.001)
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.inject("get_blob", *[answer(503)] * 5)
    code, out, err = invoke("run", imodel_id, "-o", str(tmp_path / "b.ifc"), "--json")
    assert (code, "b.ifc: gave up at try 5 of 5: 503" in err) == (1, True)
    assert "\n  Check the network and try again" in err
    words = continuation(err)
    assert words[1] == json.loads(out)["error"]["token"]
    assert invoke(*words)[0] == 0
    assert (tmp_path / "b.ifc").is_file()
    assert service.emulator.count("create_run") == 1


def test_a_token_that_ends_while_a_run_goes_on_loses_no_run(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.inject("get_run", answer(401))
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", service.emulator.token())
    code, _, err = invoke("run", imodel_id, "-o", str(tmp_path / "b.ifc"))
    assert (code, "\n  Get a new ITWIN_ACCESS_TOKEN" in err) == (4, True)
    assert invoke(*continuation(err))[0] == 0
    assert service.emulator.count("create_run") == 1


async def test_a_run_that_cannot_be_looked_at_is_continued(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.inject("get_run", *[answer(503)] * 500)
    order = an_order(emulator.add_imodel())
    client = ExportClient(emulator.token(), transport=emulator, max_outage=10.0)
    with pytest.raises(RunUnreachable) as caught:
        await run_export(lambda: client, order, delivery_to(f"{tmp_path}/"))
    (note,) = caught.value.__notes__
    assert note.startswith("this continues:\n  itwin-export watch '{")
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "RunUnreachable"


def test_notes_are_said_last(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        error = DownloadError(message="x", destination="b.ifc")
        error.add_note("this continues:\n  it")
        raise error

    with pytest.raises(typer.Exit):
        conclude(fail())
    assert capsys.readouterr().err.endswith("try again.\nitwin-export: this continues:\n  it\n")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_run_that_was_skipped_is_good(service: Service, tmp_path: Path, words: list[str]) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.plan_next_run(imodel_id, "Skipped")
    code, out, err = invoke("run", imodel_id, "-o", f"{tmp_path}/", *words)
    assert (code, bool(out)) == (0, bool(words))
    if words:
        told = json.loads(out)
        assert (told["ok"], told["result"], told["files"]) == (True, "Skipped", [])
    assert "itwin-export: nothing was exported: the service skipped the run\n" in err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports do not fit any more; all else does."""

    def full(*_: object, **__: object) -> None:
        raise OSError(f"r.html: the report cannot be written: {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr("itwin_export_async.cli.commands.run.write_report", full)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(("fate", "code", "told"), [("Success", 1, ""), ("Error", 1, "TAE_")])
def test_a_report_that_fails_hides_nothing(
    service: Service, tmp_path: Path, fate: str, code: int, told: str
) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.plan_next_run(imodel_id, fate)
    words = ["run", imodel_id, "-o", f"{tmp_path}/", "--report", str(tmp_path / "r.html")]
    ended, out, err = invoke(*words)
    assert (ended, bool(out)) == (code, not told)
    assert "r.html: the report cannot be written: No space left on device\n" in err
    assert told in err


@pytest.mark.usefixtures("full_disk")
def test_a_report_that_fails_changes_no_exit_code(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.plan_next_run(imodel_id, "Success", duration=1000)
    words = ["run", imodel_id, "-o", f"{tmp_path}/", "--report", str(tmp_path / "r.html")]
    code, _, err = invoke(*words, "--timeout", "0.2")
    assert (code, "report cannot be written" in err, "watch" in err) == (3, True, True)


def test_a_consent_that_lacks_is_told_before_the_run(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    service.emulator.user_authorized = False
    words = ["run", imodel_id, "-o", str(tmp_path), "--authentication-type", "User"]
    code, _, err = invoke(*words)
    assert code == 4
    assert "https://connect-itwinbridgeportal" in err
    assert "itwin-export authorize" in err
    assert service.emulator.count("create_run") == 0


def test_connections_and_runs_are_listed(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    code, out, err = invoke("connections", imodel_id)
    assert (code, out, "no connections yet" in err) == (0, "", True)
    for _ in range(2):
        invoke("run", imodel_id, "-o", f"{tmp_path}/", "--connection", "nightly")
    code, out, _ = invoke("connections", imodel_id)
    assert (code, "nightly" in out) == (0, True)
    told = json.loads(invoke("connections", imodel_id, "--json")[1])
    assert told["display_name"] == "nightly"
    code, out, _ = invoke("runs", told["connection_id"], "--json")
    runs = [json.loads(line) for line in out.splitlines()]
    assert [run["result"] for run in runs] == ["Success", "Success"]
    assert runs[0]["run_started"] > runs[1]["run_started"]
    table = invoke("runs", told["connection_id"])[1].splitlines()
    assert [line.split()[0] for line in table] == ["run", *(run["run_id"] for run in runs)]


def test_a_run_that_has_not_begun_is_the_newest(service: Service) -> None:
    done = {"state": "Completed", "result": "Success"}
    told = [
        {"id": "old", "startDateTime": "2026-01-01T00:00:00Z", **done},
        {"id": "queued", "state": "Queued"},
        {"id": "new", "startDateTime": "2026-01-02T00:00:00Z", **done},
    ]
    service.emulator.inject("list_runs", answer(200, json.dumps({"runs": told})))
    code, out, _ = invoke("runs", "c")
    assert (code, [line.split()[0] for line in out.splitlines()[1:]]) == (
        0,
        ["queued", "new", "old"],
    )


HYPHENS = [
    "-VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7",
    "--RZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7",
]


@pytest.mark.parametrize("an_id", [*HYPHENS, HYPHENS[0].replace("V", "h")])
@pytest.mark.parametrize("command", ["run", "connections", "runs"])
def test_an_id_may_begin_with_a_hyphen(
    service: Service, tmp_path: Path, command: str, an_id: str
) -> None:
    words = ["--base-url", service.base_url]
    words += ["-o", str(tmp_path / "x.ifc")] if command == "run" else []
    for each in (
        [command, an_id, *words],
        [command, *words, an_id],
        [command, *words, "--", an_id],
    ):
        code, out, err = invoke(*each)
        assert (code, out, " 422 " in err or " 404 " in err) == (1, "", True)
        assert (an_id in err) is (command == "runs")


def test_an_option_may_have_its_value_glued_to_it(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "exports_of_the_whole_northern_section"
    Path(folder).mkdir()
    assert invoke("run", f"-o{folder}", service.emulator.add_imodel("Bridge"))[0] == 0
    assert Path(folder, "Bridge.ifc").is_file()


def test_what_is_listed_is_whole_and_each_on_its_line(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    name = "橋 a:100:[b] " + "x" * 180
    for each in (name, "itwin-export"):
        assert invoke("run", imodel_id, "-o", f"{tmp_path}/", "--connection", each)[0] == 0
    code, shown = on_terminal("connections", imodel_id, cwd=tmp_path, columns=80)
    lines = shown.decode().splitlines()
    assert (code, len(lines), lines[0].split()) == (
        0,
        3,
        ["connection", "name", "in", "the", "name", "of"],
    )
    assert {cell_len(line[: line.index("User")]) for line in lines[1:]} == {
        43 + 2 + cell_len(name) + 2
    }
    (connection_id,) = [line.split()[0] for line in lines if name in line]
    run = json.loads(invoke("runs", connection_id, "--json")[1])
    code, shown = on_terminal("runs", connection_id, cwd=tmp_path, columns=80)
    head, row = shown.decode().splitlines()
    assert row.startswith(f"{run['run_id']}  20")
    assert max(map(len, (head, row))) < 80


@pytest.mark.parametrize("command", ["run", "watch"])
def test_a_missing_token_names_what_to_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    for name in ("ITWIN_ACCESS_TOKEN", "ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = invoke(command, "m", "-o", str(tmp_path / "new/x"))
    assert (code, err.count("\n")) == (4, 2)
    assert "set ITWIN_ACCESS_TOKEN, or ITP_SERVICE_CLIENT_ID" in err
    monkeypatch.setenv("ITP_SERVICE_CLIENT_ID", "app")
    code, _, err = invoke(command, "m", "-o", str(tmp_path / "new/x"))
    assert (code, "ITP_SERVICE_CLIENT_SECRET is not set" in err) == (4, True)
    monkeypatch.setenv("ITP_SERVICE_CLIENT_SECRET", "s")
    monkeypatch.setenv("ITP_ISSUER_URL", "rubbish")
    assert invoke(command, "m", "-o", str(tmp_path / "new/x"))[0] == 2
    assert not list(tmp_path.iterdir())


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
    assert "--install-completion" in out
    for command in COMMANDS:
        assert command in out
        code, text, _ = invoke(command, "--help")
        assert code == 0
        assert f"Example: itwin-export {command}" in " ".join(text.split())
        assert "Exit codes: 0 all good" in " ".join(text.split())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunTimeout(connection_id="c", run_id="r"), 3),
        (RunFailed(connection_id="c", run_id="r"), 1),
        (AuthenticationFailed(status=401), 4),
        (AuthorizationRequired(), 4),
        (TokenError(message="x"), 4),
        (TokenError(message="x", is_transient=True), 1),
        (DownloadError(message="x"), 1),
        (ExportError(), 1),
        (OSError(), 1),
        (ValueError(), 2),
    ],
)
def test_an_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


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
    service.emulator.plan_next_run(imodel_id, "Success", duration=1000)
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


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stderr", "shown"), [(StringIO(), ""), (Terminal(), "\x1b[?25h\n")])
def test_a_second_ctrl_c_ends_it_at_once_and_gives_the_cursor_back(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    stderr: StringIO,
    shown: str,
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("sys.stderr", stderr)

    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(10)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(typer.Exit) as caught:
        conclude(stubborn())
    assert (ended, caught.value.exit_code) == ([130], 0)
    assert capfd.readouterr().err == shown


def an_order(imodel_id: str) -> ExportOrder:
    return ExportOrder(
        imodel_id=imodel_id,
        ifc_version=None,
        connection="itwin-export",
        authentication_type=None,
        if_active="join",
    )


def delivery_to(output: str, report: Path | None = None) -> Delivery:
    return Delivery(output=output, base_url=None, timeout=None, json=True, report=report)


async def test_before_there_is_a_run_there_is_nothing_to_continue(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.latency = 100.0
    order = an_order(emulator.add_imodel())
    delivery = delivery_to(f"{tmp_path}/", report=tmp_path / "r.html")
    work = run_export(lambda: ExportClient(emulator.token(), transport=emulator), order, delivery)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50):
            await work
    assert capsys.readouterr() == ("", "")
    assert "1 not finished" in (tmp_path / "r.html").read_text()


def test_a_cancellation_that_nobody_asked_for_is_a_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        conclude(cancelled())


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_terminal_cannot_write_is_spelled_out(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    imodel_id = service.emulator.add_imodel("橋")
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    process = start("run", imodel_id, "-o", "out/", cwd=tmp_path)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out.partition(" ")[0]) == (0, "out/\\u6a4b.ifc")


def test_a_reader_that_has_gone_is_no_error_of_ours(service: Service, tmp_path: Path) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    process = start("run", imodel_id, "-o", "b.ifc", cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait() == 1
    process.stderr.close()
    assert "Traceback" not in err
    assert "Errno" not in err
    assert (tmp_path / "b.ifc").exists()


@pytest.mark.parametrize("command", ["connections", "runs", "emulator", "demo"])
def test_a_table_that_nobody_reads_is_no_error_of_ours(
    service: Service, tmp_path: Path, command: str
) -> None:
    imodel_id = service.emulator.add_imodel("Bridge")
    assert invoke("run", imodel_id, "--no-wait")[0] == 0
    told = json.loads(invoke("connections", imodel_id, "--json")[1])
    words = {"connections": [imodel_id], "runs": [told["connection_id"]]}
    words |= {"emulator": ["--port", "0"], "demo": ["-o", "out", "--speed", "900"]}
    ours, theirs = os.pipe()
    os.close(ours)
    with subprocess.Popen(
        [*COMMAND, command, *words[command]],
        cwd=tmp_path,
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(theirs)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (1, "")


def test_a_port_that_cannot_be_had_is_named(service: Service) -> None:
    port = service.base_url.rpartition(":")[2]
    code, out, err = invoke("emulator", "--port", port)
    assert (code, out) == (2, "")
    assert err == f"itwin-export: port {port} is taken; --port 0 takes one that is free\n"


async def test_a_port_that_is_not_for_everybody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "error while attempting to bind")

    monkeypatch.setattr(Emulator, "serve", refuse)
    with pytest.raises(ValueError, match="port 80 cannot be used: permission denied"):
        await serve_emulator(port=80, imodels=1, speed=1.0, seed=0)


def test_ctrl_c_before_anything_began_is_quiet() -> None:
    press = "import signal, sys, types; sys.meta_path.insert(0, types.SimpleNamespace(find_spec="
    press += (
        "lambda name, *_: signal.raise_signal(2) if name.endswith('cli.batch_file') else None)); "
    )
    done = subprocess.run(
        [*COMMAND[:-1], press + COMMAND[-1]], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_shell_completes_what_an_option_takes() -> None:
    asked = {"COMP_WORDS": "itwin-export run m --ifc-version ifc2x", "COMP_CWORD": "4"}
    done = subprocess.run(
        COMMAND,
        env={**os.environ, **asked, "_ITWIN_EXPORT_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["ifc2x3", "ifc2x3 CV 2.0"]


def test_the_release_is_told() -> None:
    assert invoke("--version") == (0, f"itwin-export {version('itwin-export-async')}\n", "")


def test_no_other_command_waits_for_the_emulator() -> None:
    ask = "import sys; from itwin_export_async.cli.app import app; "
    ask += "sys.exit('itwin_export_async.emulator' in sys.modules)"
    assert subprocess.run([*COMMAND[:-1], ask], check=False).returncode == 0


def test_the_log_goes_to_standard_error(tmp_path: Path) -> None:
    process = start("-v", "demo", "-o", "out", "--imodels", "1", "--speed", "900", cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert " INFO itwin_export_async._runs.starter: started run " in err


def test_another_missing_module_is_a_fault_to_be_seen() -> None:
    hide = "import sys; sys.modules['itwin_export_async.cli.output.progress'] = None; "
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
