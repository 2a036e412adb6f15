"""Groups of commands: runs, connections, iModels and Storage."""

import json
from pathlib import Path

import pytest

from tests.support.command import CommandLine, Stream
from tests.support.fakes import answer

M = "7dbd531d-6967-47b2-8945-a722a437ad7a"


@pytest.fixture
def run(cli: CommandLine, tmp_path: Path) -> tuple[str, str]:
    """The ids of a finished run, and of its connection."""
    imodel_id = cli.emulator.add_imodel("Bridge")
    out = cli.invoke("run", imodel_id, "-o", f"{tmp_path}/first/", "--json")[1]
    line = json.loads(out)
    return line["connection_id"], line["run_id"]


def test_run_is_shown_with_its_tasks(cli: CommandLine, run: tuple[str, str]) -> None:
    code, out, _ = cli.invoke("runs", "show", *run)
    assert (code, "state       Completed Success\n" in out) == (0, True)
    assert out.count("\njob ") == out.count("\ntask ") == 1
    line = json.loads(cli.invoke("runs", "show", *run, "--json")[1])
    assert (line["run_id"], line["failures"]) == (run[1], [])
    assert line["resume_token"] in out


def test_failed_run_is_shown_with_its_reasons(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Error")
    line = json.loads(cli.invoke("run", imodel_id, "-o", f"{tmp_path}/", "--json")[1])
    ids = (line["connection_id"], line["run_id"])
    code, out, _ = cli.invoke("runs", "show", *ids)
    assert (code, "failed: TAE_" in out) == (0, True)
    (failure,) = json.loads(cli.invoke("runs", "show", *ids, "--json")[1])["failures"]
    assert failure["reason"].startswith("TAE_")


def test_known_cause_is_shown_with_its_hint(cli: CommandLine) -> None:
    error = {"errorCode": "X", "description": "the mapping file is broken", "kbArticleLink": ""}
    link = {**error, "kbArticleLink": "https://kb.example/1"}
    task = {"id": "t", "state": "Completed", "result": "Error", "error": link}
    job = {"id": "j", "state": "Completed", "result": "Error", "tasks": [task]}
    run = {"id": "r", "state": "Completed", "result": "Error", "jobs": [job]}
    cli.emulator.inject("get_run", answer(200, json.dumps({"run": run})))
    code, out, _ = cli.invoke("runs", "show", "c", "r")
    assert code == 0
    assert "see https://kb.example/1" in out
    assert "start again from the current default mapping file" in out


def test_run_that_is_queued_is_shown_without_jobs(cli: CommandLine) -> None:
    run = {"id": "r", "state": "Queued"}
    cli.emulator.inject("get_run", answer(200, json.dumps({"run": run})))
    code, out, _ = cli.invoke("runs", "show", "c", "r")
    assert (code, "state       Queued\n" in out, "job" in out) == (0, True, False)


def test_files_of_a_run_are_downloaded(
    cli: CommandLine, run: tuple[str, str], tmp_path: Path
) -> None:
    code, out, err = cli.invoke("runs", "download", *run, "-o", f"{tmp_path}/again/")
    assert (code, out) == (0, f"{tmp_path}/again/Bridge.ifc\n")
    assert "Bridge.ifc: " in err
    line = json.loads(cli.invoke("runs", "download", *run, "-o", f"{tmp_path}/x/", "--json")[1])
    assert line["size"] == (tmp_path / "again/Bridge.ifc").stat().st_size


def test_file_of_a_run_goes_to_standard_output(
    cli: CommandLine, run: tuple[str, str], tmp_path: Path
) -> None:
    code, out, _ = cli.invoke("runs", "download", *run, "-o", "-")
    assert (code, out) == (0, (tmp_path / "first/Bridge.ifc").read_text())


@pytest.mark.parametrize("command", [["runs", "download", "c", "r"], ["storage", "download", "f"]])
def test_standard_output_takes_either_file_or_json(cli: CommandLine, command: list[str]) -> None:
    code, out, err = cli.invoke(*command, "-o", "-", "--json")
    assert (code, out, "--json does not go with -o -" in err) == (2, "", True)


def test_empty_lists_are_no_error(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    connection = cli.invoke("connections", "create", imodel_id)[1].strip()
    hidden = cli.emulator.add_imodel("Tunnel", authorized=False)
    for command in (
        ("runs", "list", connection),
        ("imodels", "versions", imodel_id),
        ("imodels", "list", cli.emulator.itwin_id(hidden)),
        ("storage", "list", "--itwin", cli.emulator.itwin_id(imodel_id)),
    ):
        code, out, err = cli.invoke(*command)
        assert (code, out, err.startswith("itwin-export: ")) == (0, "", True)
        assert cli.invoke(*command, "--quiet") == (0, "", "")


def test_connection_is_created_and_deleted(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    words = ("connections", "create", imodel_id, "--name", "nightly")
    code, out, _ = cli.invoke(*words, "--authentication-type", "service", "--json")
    line = json.loads(out)
    assert (code, line["display_name"], line["authentication_type"]) == (0, "nightly", "Service")
    code, out, _ = cli.invoke("connections", "create", imodel_id)
    assert (code, len(out.strip()) > 30) == (0, True)
    code, deleted, err = cli.invoke("connections", "delete", out.strip())
    assert (code, deleted, "deleted connection" in err) == (0, "", True)
    code, out, _ = cli.invoke("connections", "delete", line["connection_id"], "--json")
    assert (code, json.loads(out)["deleted"]) == (0, True)
    assert cli.invoke("connections", "list", imodel_id)[1] == ""


def test_imodels_and_versions_are_listed(cli: CommandLine) -> None:
    first = cli.emulator.add_imodel("Bridge")
    itwin = cli.emulator.itwin_id(first)
    cli.emulator.add_imodel("Tunnel", itwin_id=itwin)
    changeset = cli.emulator.push_changeset(first)
    cli.emulator.add_named_version(first, "Tender", changeset)
    code, out, _ = cli.invoke("imodels", "list", itwin)
    assert (code, [line.split()[1] for line in out.splitlines()[1:]]) == (0, ["Bridge", "Tunnel"])
    line = json.loads(cli.invoke("imodels", "list", itwin, "--name", "Bridge", "--json")[1])
    assert (line["imodel_id"], line["itwin_id"]) == (first, itwin)
    assert cli.invoke("imodels", "list", itwin, "--search", "unn")[1].count("\n") == 2
    assert cli.invoke("imodels", "list", itwin, "--search", "a", "--name", "b")[0] == 2
    code, out, _ = cli.invoke("imodels", "versions", first)
    assert (code, out.splitlines()[1].split()) == (0, ["1", "Tender", "visible", changeset])
    line = json.loads(cli.invoke("imodels", "versions", first, "--json")[1])
    assert (line["display_name"], line["changeset_index"]) == ("Tender", 1)


def test_file_goes_up_to_storage_and_comes_down(cli: CommandLine, tmp_path: Path) -> None:
    itwin = cli.emulator.itwin_id(cli.emulator.add_imodel("Bridge"))
    source = tmp_path / "mapping.json"
    source.write_text("{}\n")
    code, out, _ = cli.invoke("storage", "upload", str(source), "--itwin", itwin)
    assert code == 0
    file_id = out.strip()
    line = json.loads(cli.invoke("storage", "list", "--itwin", itwin, "--json")[1])
    assert (line["id"], line["display_name"], line["size"]) == (file_id, "mapping.json", 3)
    assert "mapping.json  3 bytes" in cli.invoke("storage", "list", "--itwin", itwin)[1]
    code, out, _ = cli.invoke("storage", "download", file_id, "-o", f"{tmp_path}/down/")
    assert (code, out) == (0, f"{tmp_path}/down/mapping.json\n")
    assert cli.invoke("storage", "download", file_id, "-o", "-")[:2] == (0, "{}\n")
    words = ("storage", "download", file_id, "-o", f"{tmp_path}/x.json", "--json")
    assert json.loads(cli.invoke(*words)[1]) == {"path": f"{tmp_path}/x.json", "size": 3}


def test_file_goes_to_a_folder_under_another_name(cli: CommandLine, tmp_path: Path) -> None:
    itwin = cli.emulator.itwin_id(cli.emulator.add_imodel("Bridge"))
    folder = cli.emulator.root_folder(itwin)
    source = tmp_path / "mapping.json"
    source.write_text("{}\n")
    words = ("storage", "upload", str(source), folder, "--name", "new.json", "--json")
    assert json.loads(cli.invoke(*words)[1])["display_name"] == "new.json"
    assert "new.json" in cli.invoke("storage", "list", folder)[1]


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("list", "f", "--itwin", M),
        ("list", "--itwin", "nope"),
        ("upload", "missing.json", "f"),
        ("download", "f", "-o", ""),
        ("download", "a b", "-o", "x"),
        ("download", "https://a.example/x?sig=1", "-o", "x"),
    ],
)
def test_mistake_in_a_storage_command_sends_nothing(
    cli: CommandLine, words: tuple[str, ...]
) -> None:
    code, out, _ = cli.invoke("storage", *words)
    assert (code, out, cli.emulator.requests) == (2, "", [])


def test_json_is_utf8_on_any_terminal(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("橋")
    out = Stream(encoding="cp1252")
    itwin = cli.emulator.itwin_id(imodel_id)
    code, text, _ = cli.invoke("imodels", "list", itwin, "--json", out=out)
    assert (code, json.loads(text)["display_name"]) == (0, "橋")
    assert "橋" in text


def test_control_characters_are_escaped_in_json(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("a\u202eb\x9bc")
    itwin = cli.emulator.itwin_id(imodel_id)
    out = cli.invoke("imodels", "list", itwin, "--json")[1]
    assert json.loads(out)["display_name"] == "a\u202eb\x9bc"
    assert "\\u202e" in out
