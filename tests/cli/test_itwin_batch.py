"""`itwin-export batch --itwin` and `itwin-export report`: the nightly job."""

import csv
import json
import os
import re
import sqlite3
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest

from itwin_export_async.cli.ledger_file import read_durations
from tests.support.command import CommandLine
from tests.support.fakes import answer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def itwin(cli: CommandLine) -> str:
    """The id of an iTwin with three iModels, each at a changeset."""
    first = cli.emulator.add_imodel("Bridge")
    itwin = cli.emulator.itwin_id(first)
    others = [cli.emulator.add_imodel(name, itwin_id=itwin) for name in ("Tunnel", "Station")]
    for imodel_id in (first, *others):
        cli.emulator.push_changeset(imodel_id)
    return itwin


def imodel_named(cli: CommandLine, name: str) -> str:
    return next(id for id, each in cli.emulator.imodels.items() if each == name)


def test_second_night_exports_only_what_changed(cli: CommandLine, itwin: str) -> None:
    code, out, err = cli.invoke("batch", "--itwin", itwin, "-o", "out", "--report", "r.html")
    assert code == 0
    assert f"iTwin {itwin} lists 3 iModels, 3 of them initialized" in err
    assert "lists 3 iModels" in Path("r.html").read_text()
    assert "3 of 3 exports done in" in out
    assert sorted(path.name for path in Path("out").glob("*.ifc")) == [
        "Bridge.ifc",
        "Station.ifc",
        "Tunnel.ifc",
    ]
    cli.emulator.push_changeset(imodel_named(cli, "Tunnel"))
    code, out, err = cli.invoke("batch", "--itwin", itwin, "-o", "out")
    assert (code, "1 of 3 exports done, 2 up to date in" in out) == (0, True)
    assert re.search(r"up to date  Bridge: out/Bridge.ifc", err)
    assert cli.emulator.count("create_run") == 4


def test_no_ledger_exports_everything_again(cli: CommandLine, itwin: str) -> None:
    for _ in range(2):
        code, out, _ = cli.invoke("batch", "--itwin", itwin, "-o", "out", "--no-ledger")
        assert (code, "3 of 3 exports done" in out) == (0, True)
    assert [path.name for path in Path("out").iterdir() if path.suffix != ".ifc"] == []


def test_named_versions_are_exported(cli: CommandLine, itwin: str) -> None:
    tender = cli.emulator.push_changeset(imodel_named(cli, "Bridge"))
    cli.emulator.add_named_version(imodel_named(cli, "Bridge"), "Tender", tender)
    words = ("--version", "named", "--filename", "{imodel_name}-{version_name}.ifc", "--json")
    code, out, err = cli.invoke("batch", "--itwin", itwin, "-o", "out", *words)
    lines = {line["name"]: line for line in map(json.loads, out.splitlines())}
    assert code == 1
    assert lines["Bridge"]["revision"] == tender
    assert Path("out/Bridge-Tender.ifc").is_file()
    assert lines["Tunnel"]["error"]["type"] == "NothingToExport"
    assert "2 exports: " in err
    assert "-> Create a named version on a changeset" in err


def test_list_that_has_shrunk_starts_nothing(cli: CommandLine, itwin: str) -> None:
    code, out, err = cli.invoke("batch", "--itwin", itwin, "-o", "out", "--expected", "4")
    assert (code, out) == (2, "")
    assert f"itwin-export: iTwin {itwin} lists 3 iModels: at least 4 expected" in err
    assert cli.emulator.count("create_connection") == 0
    assert cli.invoke("batch", "--itwin", itwin, "-o", "out", "--expected", "3")[0] == 0


def test_filters_choose_imodels(cli: CommandLine, itwin: str) -> None:
    code, out, _ = cli.invoke("batch", "--itwin", itwin, "-o", "out", "--name", "Tunnel")
    assert (code, "1 of 1 export done" in out) == (0, True)
    code, out, _ = cli.invoke("batch", "--itwin", itwin, "-o", "out", "--search", "ation")
    assert (code, "1 of 1 export done" in out) == (0, True)


def test_empty_itwin_says_why(cli: CommandLine) -> None:
    hidden = cli.emulator.itwin_id(cli.emulator.add_imodel("Bridge", authorized=False))
    code, _, err = cli.invoke("batch", "--itwin", hidden, "-o", "out")
    assert (code, "has to be a member of the iTwin" in err) == (0, True)


def test_outage_while_listing_is_waited_out(cli: CommandLine, itwin: str) -> None:
    cli.emulator.inject("list_imodels", *[answer(503)] * 6)
    code, out, err = cli.invoke("batch", "--itwin", itwin, "-o", "out")
    assert (code, "3 of 3 exports done" in out, "[3/?] " in err) == (0, True, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give either a FILE or --itwin ID"),
        (("m.csv", "--itwin", "x"), "give either a FILE or --itwin ID"),
        (("--itwin", "x"), "--itwin 'x' is not a GUID"),
        (("--itwin", "x", "--version", "old"), "--version must be latest or named, not 'old'"),
        (("--itwin", "x", "--name", "a", "--search", "b"), "--name does not go with --search"),
        (("m.csv", "--no-ledger", "--ledger", "l.db"), "--no-ledger does not go with --ledger"),
    ],
)
def test_mistake_is_exit_code_2(cli: CommandLine, words: tuple[str, ...], message: str) -> None:
    code, out, err = cli.invoke("batch", *words, "-o", "out")
    assert (code, out, message in err) == (2, "", True)


@pytest.mark.parametrize("template", ["x.ifc", "{nope}.ifc", "a/{imodel_name}"])
def test_template_that_cannot_name_files_is_refused(
    cli: CommandLine, itwin: str, template: str
) -> None:
    code, _, err = cli.invoke("batch", "--itwin", itwin, "-o", "out", "--filename", template)
    assert (code, "itwin-export: filename " in err) == (2, True)
    assert cli.emulator.requests == []


@pytest.fixture
def ledger(cli: CommandLine, itwin: str) -> Path:
    """The ledger of a night with a success, a failure and a partial success."""
    cli.emulator.plan_next_run(imodel_named(cli, "Tunnel"), "Error")
    cli.emulator.plan_next_run(imodel_named(cli, "Station"), "PartialSuccess")
    assert cli.invoke("batch", "--itwin", itwin, "-o", "out")[0] == 1
    return Path("out/itwin-export.db")


def test_report_needs_the_ledger_alone(cli: CommandLine, ledger: Path) -> None:
    before = len(cli.emulator.requests)
    code, out, _ = cli.invoke("report", str(ledger))
    assert code == 0
    rows = {line.split()[0]: " ".join(line.split()) for line in out.splitlines()[1:4]}
    assert "Bridge.ifc succeeded" in rows["Bridge.ifc"]
    assert "Tunnel.ifc failed" in rows["Tunnel.ifc"]
    assert "Station.ifc partly failed" in rows["Station.ifc"]
    assert "1 of 3 exports done, 1 partly failed, 1 failed in" in out
    assert "the run ended with Error task" in out
    assert len(cli.emulator.requests) == before


def test_report_leaves_no_file_beside_the_ledger(cli: CommandLine, ledger: Path) -> None:
    before = sorted(os.listdir(ledger.parent))
    content = ledger.read_bytes()
    assert cli.invoke("report", str(ledger))[0] == 0
    assert sorted(os.listdir(ledger.parent)) == before
    assert ledger.read_bytes() == content


def test_report_reads_the_ledger_of_a_batch_that_continues(cli: CommandLine, ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as batch:
        batch.execute("UPDATE exports SET destination = 'elsewhere/Bridge.ifc'")
        batch.commit()
        assert "Bridge.ifc" in cli.invoke("report", str(ledger))[1]
        assert Path(f"{ledger}-wal").stat().st_size > 0


def test_report_has_several_formats(cli: CommandLine, ledger: Path) -> None:
    rows = list(csv.DictReader(StringIO(cli.invoke("report", str(ledger), "--format", "CSV")[1])))
    assert {row["name"]: row["status"] for row in rows} == {
        "Bridge.ifc": "succeeded",
        "Tunnel.ifc": "failed",
        "Station.ifc": "partly failed",
    }
    lines = [
        json.loads(line) for line in cli.invoke("report", str(ledger), "--json")[1].splitlines()
    ]
    assert {line["error"] and line["error"]["type"] for line in lines} == {
        *(None, "RunFailed", "RunPartlyFailed")
    }
    code, out, err = cli.invoke("report", str(ledger), "-o", "new/r.html")
    assert (code, out, "the report is new/r.html" in err) == (0, "", True)
    html = Path("new/r.html").read_text()
    assert "<h1>Exports: 2 failed</h1>" in html
    assert f"From {ledger}" in html
    for suffix in ("csv", "json", "txt"):
        assert cli.invoke("report", str(ledger), "-o", f"r.{suffix}", "--quiet") == (0, "", "")
        assert "Tunnel" in Path(f"r.{suffix}").read_text()


def test_report_chooses_exports_by_time(cli: CommandLine, ledger: Path) -> None:
    assert "Bridge" in cli.invoke("report", str(ledger), "--since", "1h")[1]
    assert "Bridge" in cli.invoke("report", str(ledger), "--since", "2026-01-01T00:00:00+00:00")[1]
    code, out, _ = cli.invoke("report", str(ledger), "--since", "2999-01-01")
    assert (code, out) == (0, f"{ledger} has no exports in this time\n")
    code, _, err = cli.invoke("report", str(ledger), "--since", "yesterday")
    assert (code, "is neither a date" in " ".join(err.split())) == (2, True)


def test_report_tells_up_to_date_from_succeeded(cli: CommandLine, itwin: str, ledger: Path) -> None:
    assert cli.invoke("batch", "--itwin", itwin, "-o", "out")[0] == 0
    out = cli.invoke("report", str(ledger))[1]
    assert "2 of 3 exports done, 1 up to date in" in out


def test_report_shows_that_there_was_nothing_to_export(cli: CommandLine, itwin: str) -> None:
    bridge = imodel_named(cli, "Bridge")
    cli.emulator.add_named_version(bridge, "Tender", cli.emulator.push_changeset(bridge))
    words = ("batch", "--itwin", itwin, "-o", "out", "--version", "named")
    assert cli.invoke(*words)[0] == 1
    out = cli.invoke("report", "out/itwin-export.db", "--since", "1h")[1]
    assert "1 of 3 exports done, 2 failed in" in out
    assert re.search(r"Tunnel.ifc +failed +iModel [0-9a-f-]+ has no", out)
    assert "-> Create a named version on a changeset" in out


def test_report_shows_the_refusal_of_an_export_in_place_until_it_passes(
    cli: CommandLine, itwin: str
) -> None:
    bridge = imodel_named(cli, "Bridge")
    cli.emulator.add_named_version(bridge, "Tender", cli.emulator.push_changeset(bridge))
    words = ("batch", "--itwin", itwin, "-o", "out", "--version", "named", "--name", "Bridge")
    report = ("report", "out/itwin-export.db", "--json")
    assert cli.invoke(*words)[0] == 0
    first = json.loads(cli.invoke(*report)[1])
    cli.emulator.inject("list_named_versions", answer(403))
    assert cli.invoke(*words)[0] == 1
    assert json.loads(cli.invoke(*report)[1])["error"]["type"] == "PermissionDenied"
    assert cli.invoke(*words)[0] == 0
    last = json.loads(cli.invoke(*report)[1])
    assert (first["status"], last["status"]) == ("succeeded", "up to date")
    for name in ("files", "run_id", "run_started", "run_ended", "error"):
        assert first[name] == last[name]


def test_report_shows_what_is_not_finished(cli: CommandLine, itwin: str) -> None:
    for name, seconds in {"Bridge": 60, "Tunnel": 5000, "Station": 60}.items():
        cli.emulator.plan_next_run(imodel_named(cli, name), "Success", duration=seconds)
    words = ("batch", "--itwin", itwin, "-o", "out", "--timeout", "20m", "--connection", "x")
    assert cli.invoke(*words)[0] == 3
    out = cli.invoke("report", "out/itwin-export.db")[1]
    assert re.search(r"Tunnel.ifc +not finished", out)
    Path("out/Bridge.ifc").unlink()
    assert re.search(
        r"Bridge.ifc +succeeded .*0 bytes", cli.invoke("report", words[4] + "/itwin-export.db")[1]
    )


def test_report_has_exports_without_a_run(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Secret", authorized=False)
    Path("m.csv").write_text(f"imodel_id,key\n{imodel_id},secret\n")
    assert cli.invoke("batch", "m.csv", "-o", "out")[0] == 1
    out = cli.invoke("report", "out/itwin-export.db")[1]
    assert re.search(r"secret +failed +403", out)


def test_cells_of_a_spreadsheet_do_not_act(cli: CommandLine) -> None:
    Path("m.csv").write_text(f"imodel_id,key\n{cli.emulator.add_imodel('Bridge')},=1+1\n")
    assert cli.invoke("batch", "m.csv", "-o", "out")[0] == 0
    out = cli.invoke("report", "out/itwin-export.db", "--format", "csv")[1]
    assert out.splitlines()[1].startswith("'=1+1,")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"no database at all" * 100, "cannot be read: file is not a database"),
        (b"", "has version 0, and this release reads version 2"),
    ],
)
def test_file_that_is_no_ledger_is_refused(
    cli: CommandLine, content: bytes | None, message: str
) -> None:
    if content is not None:
        Path("x.db").write_bytes(content)
    code, out, err = cli.invoke("report", "x.db")
    assert (code, out, message in err) == (2, "", True)
    assert read_durations(Path("x.db")) == ()


def test_damaged_ledger_is_refused(cli: CommandLine, ledger: Path) -> None:
    with closing(sqlite3.connect(ledger)) as file, file:
        file.execute("UPDATE exports SET files = '[[1]]'")
    code, _, err = cli.invoke("report", str(ledger))
    assert (code, "is damaged: " in err) == (2, True)


@pytest.mark.parametrize(
    "words", [("--json", "--format", "csv"), ("--format", "pdf"), ("-o", "out/itwin-export.db")]
)
def test_report_refuses_a_mistake(cli: CommandLine, ledger: Path, words: tuple[str, ...]) -> None:
    before = ledger.read_bytes()
    assert cli.invoke("report", str(ledger), *words)[0] == 2
    assert ledger.read_bytes() == before


def test_durations_of_earlier_runs_are_read(ledger: Path) -> None:
    (seconds,) = read_durations(ledger)
    assert seconds > 0
    assert read_durations(Path("missing.db")) == ()
