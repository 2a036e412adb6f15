"""The commands: mostly in this process, in processes of their own for how they end."""

import asyncio
import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
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
    RetryPolicy,
    RunFailed,
    RunTimeout,
    RunUnreachable,
    TokenError,
)
from itwin_export_async.cli import main
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.commands.demo import names
from itwin_export_async.cli.commands.emulator import serve_emulator
from itwin_export_async.cli.commands.run import run_export
from itwin_export_async.cli.errors import MissingToken, RefusedLedger, UsageError
from itwin_export_async.cli.runner import exit_code, run_command
from itwin_export_async.cli.running_export import OutputArgs, RunArgs
from itwin_export_async.cli.runtime import Runtime
from itwin_export_async.emulator import Emulator
from tests.support.command import COMMAND, CommandLine, Stream, invoke, on_terminal, start
from tests.support.environment import CREDENTIALS, environment
from tests.support.fakes import answer

COMMANDS = ["run", "watch", "batch", "check", "report", "demo", "emulator"]
GROUPS = {
    "runs": ["list", "show", "download"],
    "connections": ["list", "create", "delete"],
    "imodels": ["list", "versions"],
    "storage": ["list", "upload", "download"],
    "auth": ["status", "consent"],
}
M = "7dbd531d-6967-47b2-8945-a722a437ad7a"


@pytest.mark.usefixtures("integration")
def test_demo_ends_with_ifc_files(tmp_path: Path) -> None:
    code, out, _ = invoke("demo", "-o", str(tmp_path / "new"), "--imodels", "3", "--speed", "9000")
    assert code == 0
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["Bridge.ifc", "Station.ifc", "Tunnel.ifc"]
    for file in files:
        assert file.read_bytes().startswith(b"ISO-10303-21;")
        assert re.search(rf"{file.stem}\s+[0-9a-f]{{8}}\s.*Completed.* s\s+{file.name}.*kB", out)


@pytest.mark.usefixtures("integration")
def test_terminal_gets_a_live_table(tmp_path: Path) -> None:
    code, shown = on_terminal(
        "demo", "-o", "out", "--imodels", "2", "--speed", "9000", cwd=tmp_path
    )
    assert code == 0
    _, hidden, live = shown.partition(b"\x1b[?25l")  # the cursor, while a live table is drawn
    live, back, _ = live.partition(b"\x1b[?25h")
    assert (bool(hidden), bool(back), b"iModel" in live) == (True, True, True)
    assert b"Traceback" not in shown
    assert b"Tunnel.ifc" in shown


@pytest.mark.usefixtures("integration")
def test_folder_is_printed_as_it_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "[/x] :bug:"
    code, out, _ = invoke("demo", "-o", str(folder), "--imodels", "1", "--speed", "9000")
    assert (code, out.endswith(f"The files are in {folder}\n")) == (0, True)


@pytest.mark.usefixtures("integration")
def test_demo_that_fails_says_why_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Bridge.ifc")
    code, _, err = invoke("demo", "-o", str(tmp_path), "--speed", "9000")
    assert (code, err.count("\n"), err.count("is a device or pipe")) == (2, 1, 1)


def test_names_of_imodels_differ() -> None:
    assert len(set(names(100))) == 100
    assert names(8)[-1] == "Bridge 2"


def test_run_prints_the_path_alone(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    file = tmp_path / "bridge.ifc"
    code, out, err = cli.invoke("run", imodel_id, "-o", str(file), "--ifc-version", "IFC2x3")
    assert (code, out) == (0, f"{file}\n")
    assert b"IFC2X3" in file.read_bytes()
    assert "Success" in err


def test_pipe_as_output_is_refused_before_anything_is_sent(
    cli: CommandLine, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "f")
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, out, err = cli.invoke("run", imodel_id, "-o", str(tmp_path / "f"))
    assert (code, out) == (2, "")
    assert "is a device or pipe" in " ".join(err.split())
    assert cli.emulator.requests == []


@pytest.mark.usefixtures("terminal")
def test_path_is_printed_whole_on_a_narrow_terminal(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    imodel_id = cli.emulator.add_imodel("Bridge")
    folder = "a folder whose name is longer than this terminal is wide/"
    screen = Stream(is_terminal=True)
    code, shown, _ = cli.invoke("run", imodel_id, "-o", folder, out=screen, err=screen)
    assert (code, f"{folder}Bridge.ifc\r\n" in shown or f"{folder}Bridge.ifc\n" in shown) == (
        0,
        True,
    )


def test_folder_is_a_folder_before_it_exists(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    assert cli.invoke("run", imodel_id, "-o", f"{tmp_path}/new/")[0] == 0
    assert (tmp_path / "new/Bridge.ifc").is_file()


def test_failed_run_has_no_command_that_continues(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Error")
    code, _, err = cli.invoke("run", imodel_id, "-o", f"{tmp_path}/")
    assert code == 1
    assert "TAE_" in err
    assert "continues" not in err


def test_joined_run_is_named(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Success", duration=1000)
    args = ("run", imodel_id, "-o", f"{tmp_path}/")
    code, _, err = cli.invoke(*args, "--timeout", "100")
    assert code == 3
    assert "has no output on disk after the timeout" in err
    code, out, err = cli.invoke("-v", *args, "--authentication-type", "user")
    assert code == 0
    assert "joined run " in err
    assert out.startswith(str(tmp_path / "Bridge.ifc"))


def test_printed_command_continues_the_run(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Success", duration=1000)
    file = str(tmp_path / "b.ifc")
    base_url = ("--base-url", "https://api.bentley.com")
    _, _, err = cli.invoke("run", imodel_id, "-o", file, "--timeout", "100", *base_url)
    line = next(line for line in err.splitlines() if line.startswith("  itwin-export watch"))
    words = shlex.split(line)[1:]
    code, out, _ = cli.invoke(*words)
    assert code == 0
    assert out.startswith(file)


@pytest.mark.parametrize(
    ("words", "code", "printed"),
    [
        (["run", "", "-o", "x"], 2, "imodel_id is empty"),
        (["run", "..", "-o", "x"], 2, "imodel_id '..' is not an id"),
        (["run", M, "-o", "x", "--ifc-version", "9"], 2, "'9' is not one of 'IFC4.3', 'IFC2x3"),
        (["run", M, "-o", "x", "--if-active", "no"], 2, "'no' is not one of 'join'"),
        (["run", M, "-o", "x", "--authentication-type", "no"], 2, "'no' is not one of 'User"),
        (["emulator", "--port", "1x"], 2, "--port"),
        (["run", M], 2, "--output is empty: give a file or a folder"),
        (["watch", "1.a.b", "-o", ""], 2, "--output is empty: give a file or a folder"),
        (["batch", "no.csv", "-o", ""], 2, "--output is empty: give a file or a folder"),
        (["run", M, "--no-wait", "--report", "r.html"], 2, "--no-wait does not go with --report"),
        (["run", M, "-o", "x", "--report", "./x"], 2, "x cannot be both the output and the report"),
        (
            ["run", M, "-o", "x", "--report", "."],
            2,
            "report: . is a folder, not a file",
        ),
        (["runs", "list", "-short"], 2, "No such option: -s"),
        (["runs", "list", "--jsno", "c"], 2, "No such option: --jsno"),
        (["runs", "list", ".."], 2, "'..' is not an id"),
        (["connections", "list", ""], 2, "imodel_id is empty"),
        (["run", M, "-o", "x", "--base-url", "http://x.example"], 2, "base_url"),
        (["run", M, "-o", "/dev/null/x.ifc"], 2, "/dev/null: the folder cannot be written"),
        (["run", "bridge", "-o", "x"], 2, "imodel_id 'bridge' is not a GUID such as"),
        (["run", M, "-o", "x", "--ifc-version", "IFC4"], 2, "'IFC4' is called 'IFC4 RV 1.2' here"),
        (["run", M, "-o", "x", "--timeout", "soon"], 2, "'soon' is not a duration: write 90m"),
        (["run", M, "-o", "-", "--json"], 2, "--json does not go with -o -"),
        (["watch", "rubbish", "-o", "x"], 2, "not a valid resume token"),
    ],
)
def test_mistake_is_one_clear_sentence(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str],
    code: int, printed: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    ended, _, err = cli.invoke(*words)
    err = " ".join(err.replace("│", " ").split())  # a box, and lines that were broken
    assert (ended, printed in err, "Value error" in err) == (code, True, False)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("integration")
def test_unreachable_service_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", "token")
    client_factory = partial(ExportClient.from_env, retry=RetryPolicy(attempts=1), max_outage=0.0)
    words = ["run", M, "-o", f"{tmp_path}/x", "--base-url", "http://127.0.0.1:1"]
    code, _, err = invoke(*words, runtime=Runtime(client_factory=client_factory))
    assert (code, "cannot connect to" in err) == (1, True)


def test_run_that_was_only_started_is_continued_by_its_token(
    cli: CommandLine, tmp_path: Path
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, token, err = cli.invoke("run", imodel_id, "--no-wait")
    assert code == 0
    assert re.fullmatch(r"[\w.-]+\n", token)
    assert f"watch {token.strip()} -o ." in err
    folder, report = f"{tmp_path}/", tmp_path / "new" / "r.html"
    words = ("-o", folder, "--json", "--report", str(report))
    code, out, _ = cli.invoke("watch", token.strip(), *words)
    line = json.loads(out)
    assert (code, line["ok"], line["imodel_id"]) == (0, True, None)
    assert line["files"][0]["path"] == str(tmp_path / "Bridge.ifc")
    assert "All exports succeeded" in report.read_text()


def test_run_that_was_only_started_is_printed_as_json(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, out, _ = cli.invoke("run", imodel_id, "--no-wait", "--json")
    line = json.loads(out)
    assert (code, line["imodel_id"], line["joined"]) == (0, imodel_id, False)
    code, out, err = cli.invoke("run", imodel_id, "--no-wait", "--json")
    again = json.loads(out)
    assert (code, again["run_id"], again["joined"]) == (0, line["run_id"], True)
    assert "joined run" in err
    words = shlex.split(line["command"])[1:]
    words[words.index("-o") + 1] = f"{tmp_path}/"
    assert cli.invoke(*words)[0] == 0


def test_export_is_printed_as_json(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Success", duration=1000)
    words = ["run", imodel_id, "-o", f"{tmp_path}/", "--json", "--report", f"{tmp_path}/r.html"]
    code, out, err = cli.invoke(*words, "--timeout", "100")
    line = json.loads(out)
    assert (code, line["ok"], line["error"]["type"]) == (3, False, "RunTimeout")
    assert "resume(" not in out + err
    assert line["error"]["resume_token"] in err
    assert f"--json --report {tmp_path}/r.html" in err
    code, out, _ = cli.invoke(*words)
    line = json.loads(out)
    assert (code, line["ok"], line["result"], line["error"]) == (0, True, "Success", None)
    assert line["run_started"] < line["run_ended"]


def continuation(err: str) -> list[str]:
    """The words of the command that was said to continue; it is the last thing said."""
    *_, said, line = err.splitlines()
    assert said == "itwin-export: this continues:"
    assert line.startswith("  itwin-export watch ")
    return shlex.split(line)[1:]


def test_failed_download_is_continued(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.inject("download_file", *[answer(302)])
    code, out, err = cli.invoke("run", imodel_id, "-o", str(tmp_path / "b.ifc"), "--json")
    assert (code, "this continues" in err) == (1, True)
    words = continuation(err)
    assert words[1] == json.loads(out)["error"]["resume_token"]
    assert cli.invoke(*words)[0] == 0
    assert (tmp_path / "b.ifc").is_file()
    assert cli.emulator.count("create_run") == 1


def test_token_that_expires_during_a_run_loses_no_run(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.inject("get_run", answer(401))
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", cli.emulator.token())
    code, _, err = cli.invoke("run", imodel_id, "-o", str(tmp_path / "b.ifc"))
    assert (code, "\n  Get a new ITWIN_ACCESS_TOKEN" in err) == (4, True)
    assert cli.invoke(*continuation(err))[0] == 0
    assert cli.emulator.count("create_run") == 1


async def test_run_that_cannot_be_polled_is_continued(
    cli: CommandLine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.emulator.inject("get_run", *[answer(503)] * 500)
    imodel_id = cli.emulator.add_imodel()
    client = ExportClient(cli.emulator.token(), transport=cli.emulator, max_outage=10.0)
    with pytest.raises(RunUnreachable) as caught:
        await run_export(invocation_of(client), run_args(imodel_id), output_to(f"{tmp_path}/"))
    (note,) = caught.value.__notes__
    assert note.startswith("this continues:\n  itwin-export watch 1.")
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "RunUnreachable"


def test_notes_are_printed_last(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        error = DownloadError(message="x", destination="b.ifc")
        error.add_note("this continues:\n  it")
        raise error

    with pytest.raises(typer.Exit):
        run_command(fail())
    assert capsys.readouterr().err.endswith("support.\nitwin-export: this continues:\n  it\n")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_skipped_run_is_a_success(cli: CommandLine, tmp_path: Path, words: list[str]) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Skipped")
    code, out, err = cli.invoke("run", imodel_id, "-o", f"{tmp_path}/", *words)
    assert (code, bool(out)) == (0, bool(words))
    if words:
        printed = json.loads(out)
        assert (printed["ok"], printed["result"], printed["files"]) == (True, "Skipped", [])
    assert "itwin-export: nothing was exported: the service skipped the run\n" in err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports do not fit any more; all else does."""

    def full(*_: object, **__: object) -> None:
        raise OSError(f"r.html: the report cannot be written: {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr("itwin_export_async.cli.running_export.write_report", full)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize(("fate", "code", "printed"), [("Success", 1, ""), ("Error", 1, "TAE_")])
def test_report_that_fails_hides_nothing(
    cli: CommandLine, tmp_path: Path, fate: str, code: int, printed: str
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, fate)
    words = ["run", imodel_id, "-o", f"{tmp_path}/", "--report", str(tmp_path / "r.html")]
    ended, out, err = cli.invoke(*words)
    assert (ended, bool(out)) == (code, not printed)
    assert "r.html: the report cannot be written: No space left on device\n" in err
    assert printed in err


@pytest.mark.usefixtures("full_disk")
def test_report_that_fails_changes_no_exit_code(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Success", duration=1000)
    words = ["run", imodel_id, "-o", f"{tmp_path}/", "--report", str(tmp_path / "r.html")]
    code, _, err = cli.invoke(*words, "--timeout", "100")
    assert (code, "report cannot be written" in err, "watch" in err) == (3, True, True)


def test_missing_consent_is_reported_before_the_run(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.user_authorized = False
    words = ["run", imodel_id, "-o", str(tmp_path), "--authentication-type", "User"]
    code, _, err = cli.invoke(*words)
    assert code == 4
    assert "https://connect-itwinbridgeportal" in err
    assert "itwin-export auth consent" in err
    assert cli.emulator.count("create_run") == 0


def test_connections_and_runs_are_listed(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, out, err = cli.invoke("connections", "list", imodel_id)
    assert (code, out, "no connections yet" in err) == (0, "", True)
    for _ in range(2):
        cli.invoke("run", imodel_id, "-o", f"{tmp_path}/", "--connection", "nightly")
    code, out, _ = cli.invoke("connections", "list", imodel_id)
    assert (code, "nightly" in out) == (0, True)
    printed = json.loads(cli.invoke("connections", "list", imodel_id, "--json")[1])
    assert printed["display_name"] == "nightly"
    code, out, _ = cli.invoke("runs", "list", printed["connection_id"], "--json")
    runs = [json.loads(line) for line in out.splitlines()]
    assert [run["result"] for run in runs] == ["Success", "Success"]
    assert runs[0]["run_started"] > runs[1]["run_started"]
    table = cli.invoke("runs", "list", printed["connection_id"])[1].splitlines()
    assert [line.split()[0] for line in table] == ["run", *(run["run_id"] for run in runs)]


def test_run_without_a_start_is_the_newest(cli: CommandLine) -> None:
    done = {"state": "Completed", "result": "Success"}
    printed = [
        {"id": "old", "startDateTime": "2026-01-01T00:00:00Z", **done},
        {"id": "queued", "state": "Queued"},
        {"id": "new", "startDateTime": "2026-01-02T00:00:00Z", **done},
    ]
    cli.emulator.inject("list_runs", answer(200, json.dumps({"runs": printed})))
    code, out, _ = cli.invoke("runs", "list", "c")
    assert (code, [line.split()[0] for line in out.splitlines()[1:]]) == (
        0,
        ["queued", "new", "old"],
    )


HYPHENS = [
    "-VRZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7",
    "--RZHoBhrnkGrAev0-_-d_xwvyrzjgaVGka5wU967Q7",
]


@pytest.mark.parametrize("an_id", [*HYPHENS, HYPHENS[0].replace("V", "h")])
@pytest.mark.parametrize("command", ["runs list", "runs show"])
def test_id_can_begin_with_a_hyphen(cli: CommandLine, command: str, an_id: str) -> None:
    words = ["--base-url", "https://api.bentley.com"]
    ids = [an_id] if command == "runs list" else [an_id, an_id]
    name = command.split()
    for each in ([*name, *ids, *words], [*name, *words, *ids], [*name, *words, "--", *ids]):
        code, out, err = cli.invoke(*each)
        assert (code, out, " 404 " in err, an_id in err) == (1, "", True, True)


def test_option_can_have_its_value_glued_to_it(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = "exports_of_the_whole_northern_section"
    Path(folder).mkdir()
    assert cli.invoke("run", f"-o{folder}", cli.emulator.add_imodel("Bridge"))[0] == 0
    assert Path(folder, "Bridge.ifc").is_file()


@pytest.mark.usefixtures("terminal")
def test_lists_have_whole_lines(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    imodel_id = cli.emulator.add_imodel("Bridge")
    name = "橋 a:100:[b] " + "x" * 180
    for each in (name, "itwin-export"):
        assert cli.invoke("run", imodel_id, "-o", f"{tmp_path}/", "--connection", each)[0] == 0
    code, out, _ = cli.invoke("connections", "list", imodel_id, out=Stream(is_terminal=True))
    lines = out.splitlines()
    assert (code, len(lines), lines[0].split()) == (
        0,
        3,
        ["connection", "name", "authentication", "type"],
    )
    assert {cell_len(line[: line.index("User")]) for line in lines[1:]} == {
        43 + 2 + cell_len(name) + 2
    }
    (connection_id,) = [line.split()[0] for line in lines if name in line]
    run = json.loads(cli.invoke("runs", "list", connection_id, "--json")[1])
    code, out, _ = cli.invoke("runs", "list", connection_id, out=Stream(is_terminal=True))
    head, row = out.splitlines()
    assert row.startswith(f"{run['run_id']}  20")
    assert max(map(len, (head, row))) < 80


@pytest.mark.parametrize("command", ["run", "watch"])
def test_missing_credentials_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    code, _, err = invoke(command, M, "-o", str(tmp_path / "new/x"))
    assert (code, err.count("\n")) == (4, 2)
    assert "set ITWIN_ACCESS_TOKEN, or ITP_SERVICE_CLIENT_ID" in err
    monkeypatch.setenv("ITP_SERVICE_CLIENT_ID", "app")
    code, _, err = invoke(command, M, "-o", str(tmp_path / "new/x"))
    assert (code, "ITP_SERVICE_CLIENT_SECRET is not set" in err) == (4, True)
    monkeypatch.setenv("ITP_SERVICE_CLIENT_SECRET", "s")
    monkeypatch.setenv("ITP_ISSUER_URL", "rubbish")
    assert invoke(command, M, "-o", str(tmp_path / "new/x"))[0] == 2
    assert not list(tmp_path.iterdir())


def test_wrong_secret_is_exit_code_4(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ITP_SERVICE_CLIENT_SECRET", "planted-secret")
    code, out, err = cli.invoke("run", M, "-o", str(tmp_path / "x"))
    assert code == 4
    assert "invalid_client" in err
    assert "planted-secret" not in out + err


def test_help_has_an_example_and_the_exit_codes() -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert "130 interrupted" in " ".join(out.split())
    assert "--install-completion" in out
    for group, commands in GROUPS.items():
        assert group in out
        assert "Exit codes: 0 all good" in " ".join(invoke(group, "--help")[1].split())
        for name in commands:
            check_help(group, name)
    for command in COMMANDS:
        assert command in out
        check_help(command)


def check_help(*command: str) -> None:
    code, out, _ = invoke(*command, "--help")
    text = " ".join(out.split())
    assert code == 0
    assert f"Example: itwin-export {' '.join(command)}" in text
    assert "Exit codes: 0 all good" in text
    assert "70 a bug" in text
    for option in ("--base-url", "--tier", "--verbose", "--quiet", "--no-progress", "--help"):
        assert option in text


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
        (UsageError(), 2),
        (MissingToken(), 4),
        (RefusedLedger(message="x"), 2),
        (ValueError(), 70),
    ],
)
def test_error_has_its_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code


@pytest.mark.usefixtures("integration")
def test_ctrl_c_ends_a_demo_cleanly(tmp_path: Path) -> None:
    err = Stream(interrupt_at=": run ")
    code, out, text = invoke("demo", "-o", str(tmp_path / "out"), "--speed", "1", err=err)
    assert (code, out) == (130, "")
    assert text.endswith("itwin-export: interrupted\n")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.usefixtures("integration")
async def test_ctrl_c_ends_an_export_with_the_command_that_continues(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, "Success", duration=1000)
    async with emulator.serve() as served:
        for name, value in environment(emulator, served).items():
            monkeypatch.setenv(name, value)
        with start("run", imodel_id, "-o", "b.ifc", cwd=tmp_path) as process:
            assert process.stderr is not None
            said = await asyncio.to_thread(process.stderr.readline)
            assert ": run " in said
            process.send_signal(signal.SIGINT)
            _, err = await asyncio.to_thread(process.communicate)
    assert process.returncode == 130
    assert "itwin-export watch" in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("integration")
def test_ctrl_c_is_the_regular_end_of_the_emulator() -> None:
    out = Stream(interrupt_at="itwin-export run ")
    code, _, err = invoke("emulator", "--port", "0", out=out)
    assert (code, err) == (0, "")


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stderr", "shown"), [(StringIO(), ""), (Terminal(), "\x1b[?25h\n")])
def test_second_ctrl_c_exits_at_once_and_shows_the_cursor(
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
        run_command(stubborn())
    assert (ended, caught.value.exit_code) == ([130], 0)
    assert capfd.readouterr().err == shown


def invocation_of(client: ExportClient) -> Invocation:
    return Invocation(runtime=Runtime(client_factory=lambda **_: client))


def run_args(imodel_id: str) -> RunArgs:
    return RunArgs(
        imodel_id=imodel_id,
        ifc_version=None,
        connection="itwin-export",
        authentication_type=None,
        if_active="join",
    )


def output_to(path: str, report: Path | None = None) -> OutputArgs:
    return OutputArgs(path=path, timeout=None, json=True, report=report)


async def test_export_without_a_run_has_nothing_to_continue(
    cli: CommandLine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.emulator.latency = 100.0
    imodel_id = cli.emulator.add_imodel()
    client = ExportClient(cli.emulator.token(), transport=cli.emulator)
    output = output_to(f"{tmp_path}/", report=tmp_path / "r.html")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(50):
            await run_export(invocation_of(client), run_args(imodel_id), output)
    assert capsys.readouterr() == ("", "")
    assert "1 not finished" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_encoding_that_lacks_a_character_gets_it_spelled_out(
    cli: CommandLine, tmp_path: Path, encoding: str
) -> None:
    imodel_id = cli.emulator.add_imodel("橋")
    out = Stream(encoding=encoding)
    code, printed, _ = cli.invoke("run", imodel_id, "-o", f"{tmp_path}/", out=out)
    assert (code, printed) == (0, f"{tmp_path}/\\u6a4b.ifc\n")


@pytest.mark.usefixtures("integration")
def test_closed_pipe_of_the_emulator_is_no_traceback(tmp_path: Path) -> None:
    with start("emulator", "--port", "0", cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
    assert (process.returncode, err) == (1, "")


class Unread(Stream):
    """A pipe whose reader has gone."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@pytest.mark.parametrize("command", ["connections", "runs"])
def test_closed_pipe_of_a_list_is_no_traceback(cli: CommandLine, command: str) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    assert cli.invoke("run", imodel_id, "--no-wait")[0] == 0
    connection = json.loads(cli.invoke("connections", "list", imodel_id, "--json")[1])
    words = {"connections": imodel_id, "runs": connection["connection_id"]}
    code, _, err = cli.invoke(command, "list", words[command], out=Unread())
    assert (code, err) == (1, "")


@pytest.mark.usefixtures("integration")
def test_closed_pipe_of_the_demo_is_no_traceback(tmp_path: Path) -> None:
    code, _, err = invoke("demo", "-o", str(tmp_path), "--speed", "9000", out=Unread())
    assert (code, "Traceback" in err, "Errno" in err) == (1, False, False)


def test_closed_pipe_of_an_export_comes_after_its_file(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, _, err = cli.invoke("run", imodel_id, "-o", f"{tmp_path}/b.ifc", out=Unread())
    assert (code, "Success" in err, "Errno" in err) == (1, True, False)
    assert (tmp_path / "b.ifc").exists()


@pytest.mark.usefixtures("integration")
def test_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = invoke("emulator", "--port", str(port))
    assert (code, out) == (2, "")
    assert err == f"itwin-export: port {port} is taken; --port 0 takes one that is free\n"


async def test_forbidden_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "error while attempting to bind")

    monkeypatch.setattr(Emulator, "serve", refuse)
    with pytest.raises(ValueError, match="port 80 cannot be used: permission denied"):
        await serve_emulator(port=80, imodels=1, speed=1.0, seed=0)


def test_shell_completes_values_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ITWIN_EXPORT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "itwin-export run m --ifc-version ifc2x")
    monkeypatch.setenv("COMP_CWORD", "4")
    assert invoke()[1].splitlines() == ["ifc2x3", "ifc2x3 CV 2.0"]


def test_version_is_printed() -> None:
    assert invoke("--version") == (0, f"itwin-export {version('itwin-export-async')}\n", "")


@pytest.mark.usefixtures("integration")
def test_other_commands_do_not_import_the_emulator() -> None:
    ask = "import sys; from itwin_export_async.cli.app import app; "
    ask += "sys.exit('itwin_export_async.emulator' in sys.modules)"
    assert subprocess.run([*COMMAND[:-1], ask], check=False).returncode == 0


def test_log_goes_to_standard_error(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, _, err = cli.invoke("-v", "run", imodel_id, "-o", f"{tmp_path}/")
    assert code == 0
    assert re.search(r" INFO itwin_export_async\S*: started run ", err)


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands are imported when they are next needed."""
    for name in ("app", "batch_file", "command", "commands.batch"):
        parent, _, leaf = f"itwin_export_async.cli.{name}".rpartition(".")
        import_module(f"{parent}.{leaf}")
        module = sys.modules[parent]
        monkeypatch.setattr(module, leaf, getattr(module, leaf))  # restored afterwards
        monkeypatch.delitem(sys.modules, f"{parent}.{leaf}")


class Interrupting:
    """A finder of modules that presses Ctrl-C when a module is looked for."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        if name == "itwin_export_async.cli.batch_file":
            signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("not_loaded")
def test_ctrl_c_during_the_imports_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert invoke("--version") == (130, "", "")


@pytest.mark.usefixtures("not_loaded")
def test_another_missing_module_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "itwin_export_async.cli.output.progress", None)
    with pytest.raises(ModuleNotFoundError):
        main(["--version"])


@pytest.mark.usefixtures("not_loaded")
def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == (
        "itwin-export needs typer: install it with pip install 'itwin-export-async[cli]'"
    )
