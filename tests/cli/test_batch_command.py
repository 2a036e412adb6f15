"""`itwin-export batch`: what its file may say, and what comes of it."""

import asyncio
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import pytest
from attrs import evolve
from rich.console import Console

from itwin_export_async import (
    ExecutionState,
    ExportClient,
    ExportOutcome,
    ExportRequest,
    LedgerError,
    OutputLocation,
    Run,
    RunUpdate,
    TokenError,
)
from itwin_export_async.cli.batch_file import leads_out, read_sheet
from itwin_export_async.cli.commands.batch import BatchOrder, run_batch
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.batch_progress import Overview, to_go
from itwin_export_async.cli.output.format import duration, size
from itwin_export_async.emulator import Emulator
from tests.support.command import COMMAND, Service, invoke, serving, start
from tests.support.fakes import answer

Batch = Callable[..., Any]


def sheet(text: str | bytes, **defaults: str | None) -> list[ExportRequest]:
    data = text if isinstance(text, bytes) else text.encode()
    return read_sheet(data, "models.csv", folder="out", defaults=defaults)


def test_a_table_needs_ids_only() -> None:
    one, two = sheet("imodel_id\nm1\n\nm2\n", display_name="nightly", ifc_version=None)
    assert one == ExportRequest(imodel_id="m1", destination="out/m1/", display_name="nightly")
    assert two.destination == "out/m2/"


def test_a_table_says_all_that_an_export_can_be_asked_for() -> None:
    head = "iModel ID,Output,key,displayName,IFC-Version,changeset_id,mapping_file_id,"
    head += "saved_view_id,model_ids,folder_id,replace_older_file,save_logs"
    row = "m1,a/b.ifc,k1,nightly,IFC4.3,c1,f1,v1,0x1; 0x2;,d1,yes,FALSE"
    (request,) = sheet(f"{head}\n{row}\n", ifc_version="IFC2x3")
    assert (request.imodel_id, request.key, request.display_name) == ("m1", "k1", "nightly")
    assert request.destination == "out/a/b.ifc"
    asked = request.options
    assert asked.ifc_version == "IFC4.3"
    assert (asked.input.changeset_id, asked.input.mapping_file_id) == ("c1", "f1")
    assert (asked.input.saved_view_id, asked.input.model_ids) == ("v1", ("0x1", "0x2"))
    assert (asked.output.folder_id, asked.output.save_logs) == ("d1", False)
    assert asked.output.replace_older_file is True


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffimodel_id;key\r\nm1;Brücke\r\n".encode(),
        "sep=;\r\nimodel_id;key\r\nm1;Brücke\r\n".encode(),
        "imodel_id;key;\r\nm1;Brücke;\r\n;;\r\n".encode(),
        "imodel_id\tkey\r\nm1\tBrücke\r\n".encode("utf-16"),
        "key,imodel_id\nBrücke,m1".encode(),
        '\n{"iModelId": "m1", "key": "Brücke"}\n\n'.encode(),
    ],
)
def test_what_a_spreadsheet_saves_is_read(data: bytes) -> None:
    (request,) = sheet(data)
    assert request == ExportRequest(imodel_id="m1", destination="out/Brücke/", key="Brücke")


def test_lines_of_json_keep_their_types() -> None:
    line = {
        "imodel_id": "m1",
        "output": "elsewhere/",
        "model_ids": ["0x1"],
        "save_logs": True,
        "location": "USER_BLOB_STORAGE",
        "output_sas_url": "https://a.blob.example/x?sig=1",
        "logs_sas_url": "https://a.blob.example/y?sig=1",
        "key": None,
    }
    (request,) = sheet(json.dumps(line))
    assert (request.destination, request.key) == ("out/elsewhere/", None)
    assert request.options.input.model_ids == ("0x1",)
    assert request.options.output.location is OutputLocation.USER_BLOB_STORAGE
    assert request.options.output.save_logs is True


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "models.csv asks for no export"),
        ("imodel_id\n", "models.csv asks for no export"),
        ("key\nx\n", "models.csv, line 1: there is no imodel_id"),
        ("imodel_id,chnageset\n", "line 1, column 2: 'chnageset' is not known, did you mean 'chan"),
        ("imodel_id,x\n", "column 2: 'x' is not known, known are imodel_id, destination, key"),
        ("imodel_id,iModelId\n", "line 1, column 2: 'iModelId' is there twice"),
        ("imodel_id,output,destination\n", "column 3: 'destination' is there twice"),
        ("imodel_id,key\nm1,a\n,b\n", "models.csv, line 3: imodel_id is empty"),
        ("imodel_id\n..\n", "line 2: imodel_id '..' is not an id"),
        ("imodel_id\nm1,x\n", "line 2, column 2: 'x' stands under no name"),
        ("imodel_id,\nm1,x\n", "line 2, column 2: 'x' stands under no name"),
        ("imodel_id,save_logs\nm1,maybe\n", "line 2: save_logs must be true or false, not 'maybe'"),
        ("imodel_id,key\nm1,a\nm2,a\n", "line 3: key 'a' stands in line 2 already"),
        ("imodel_id\nm1\n\nm1\n", "line 4: destination 'out/m1' stands in line 2 already"),
        ("imodel_id,output\nm1,a.ifc\nm2,./a.ifc\n", "line 3: destination 'out/a.ifc' stands in"),
        ("imodel_id,output\nm1,a/\nm1,a/\n", "line 3: export 'm1 out/a/' stands in line 2"),
        ("imodel_id,key\nm1,a/x\nm2,b/x\n", "line 3: destination 'out/x' stands in line 2"),
        ("imodel_id,output\nm1,../../x.ifc\n", "line 2, column 2: destination '../../x.ifc' leads"),
        ("output,imodel_id\n/etc/x,m1\n", "column 1: destination '/etc/x' leads out of the output"),
        ('{"imodel_id": "m", "key": "k", "output": "a/../.."}', "column 3: destination 'a/../..'"),
        ('imodel_id,key\n"m\n1",a\nm2,"a', "line 2: imodel_id 'm\\n1' is not an id"),
        ('imodel_id\nm1\n"m2', "line 3: is no CSV: unexpected end of data"),
        ('sep=,\nimodel_id\n"m2', "line 3: is no CSV"),
        ('{"imodel_id": "m1"}\n{', "line 2: is no JSON"),
        ("[]", "line 1: is not one JSON object"),
        ('{"imodel_id": 5}', "line 1: imodel_id must be a text, not 5"),
        ('{"imodel_id": "m", "model_ids": []}', "line 1: model_ids is empty"),
        ('{"imodle_id": "m"}', "column 1: 'imodle_id' is not known, did you mean 'imodel_id'?"),
        (b"imodel_id,key\nm1,Br\xfccke", 'line 2: is not UTF-8; save the file as "CSV UTF-8"'),
    ],
)
def test_a_wrong_file_is_one_sentence_that_says_where(text: str | bytes, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        sheet(text)
    assert "\n" not in str(caught.value)


SAS = "https://acc.blob.example/c/x.ifc?sv=1&sig=planted%3D"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"imodel_id,key\nm,k,{SAS}\n", "column 3: 'https://acc.blob.example/c/x.ifc?***' stands"),
        (f"{SAS},imodel_id\n", "column 1: 'https://acc.blob.example/c/x.ifc?***' is not known"),
        (f"imodel_id,save_logs\nm,{SAS}\n", "line 2: save_logs holds a signed address: are the "),
        (f"imodel_id,key\nm,{SAS}\n", "line 2: key holds a signed address: are the columns shi"),
        (f"imodel_id,output\nm,{SAS}\n", "line 2: destination holds a signed address"),
        (f"imodel_id,output\nm,{SAS}/../../../../..\n", "c/x.ifc?***' leads out of"),
        (f'{{"imodel_id": "m", "key": ["{SAS}"]}}', "not ['https://acc.blob.example/c/x.ifc?***']"),
    ],
)
def test_a_signed_address_in_a_wrong_place_is_not_told(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        sheet(text)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "flavour", "leads"),
    [
        ("a/../b.ifc", PurePosixPath, False),
        ("./", PurePosixPath, False),
        ("..a/b..", PurePosixPath, False),
        ("C:\\x.ifc", PurePosixPath, False),
        ("a/../../b.ifc", PurePosixPath, True),
        ("/", PurePosixPath, True),
        ("a\\b.ifc", PureWindowsPath, False),
        ("..\\x.ifc", PureWindowsPath, True),
        ("C:x.ifc", PureWindowsPath, True),
        ("\\x.ifc", PureWindowsPath, True),
        ("\\\\host\\share\\x.ifc", PureWindowsPath, True),
    ],
)
def test_a_destination_is_below_the_output_folder(
    place: str, flavour: type[PurePath], leads: bool
) -> None:
    assert leads_out(place, flavour) is leads


def test_folders_may_take_many() -> None:
    one, two = sheet("imodel_id,output\nm1,a/\nm2,a/\n")
    assert one.destination == two.destination == "out/a/"
    assert len(sheet("imodel_id,output,key\nm1,a/,x\nm1,a/,y\n")) == 2


@pytest.fixture
def run(emulator: Emulator, tmp_path: Path) -> Batch:
    """Runs a batch in virtual time; its exit code."""

    async def run(lines: str, **changes: Any) -> int:
        file = tmp_path / "models.csv"
        file.write_text(lines)
        order = BatchOrder(
            file=str(file),
            folder=str(tmp_path / "out"),
            ledger=None,
            concurrency=20,
            ifc_version=None,
            connection="itwin-export",
            authentication_type=None,
            if_active="wait",
            timeout=None,
            report=None,
            json=False,
            again="itwin-export batch models.csv",
        )
        order = evolve(order, **changes)
        return await run_batch(lambda: ExportClient(emulator.token(), transport=emulator), order)

    return run


def table(*imodels: str) -> str:
    return "imodel_id,key\n" + "".join(f"{id},b{n}\n" for n, id in enumerate(imodels))


async def test_all_good_is_exit_code_0(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(*(emulator.add_imodel(f"Bridge {n}") for n in range(3)))
    report = tmp_path / "new" / "r.html"
    assert await run(lines, ifc_version="IFC2x3", connection="nightly", report=report) == 0
    out, err = capsys.readouterr()
    assert b"IFC2X3" in (tmp_path / "out/b1/Bridge 1.ifc").read_bytes()
    assert re.search(r"^3 of 3 exports done in .*: 3 files, .* kB below .*/out$", out, re.MULTILINE)
    assert f"The report is {report}" in out
    assert re.search(r"^\[3/3\] Success  b\d: .*/Bridge \d.ifc \(.* kB\), ", err, re.MULTILINE)
    assert "All exports are good" in report.read_text()
    calls = len(emulator.requests) - emulator.count("get_blob")
    assert f"{calls} calls to the service" in report.read_text()


async def test_failures_come_first_and_say_what_to_do(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = emulator.add_imodel("Tunnel")
    emulator.plan_next_run(bad, "Error")
    secret = emulator.add_imodel("Secret", authorized=False)
    lines = table(emulator.add_imodel(), bad, secret)
    assert await run(lines, ledger=tmp_path / "l.db") == 1
    out, err = capsys.readouterr()
    assert out.startswith("2 of 3 exports failed:\n\n  b1: ")
    assert re.search(r"b1: .*\n    the run ended with Error: TAE_.*\n", out)
    assert re.search(r"b2: .*\n    403 .*\n    -> Ask the iTwin's administrator", out)
    assert "1 of 3 exports done" in out
    assert "this tries again what failed:\n  itwin-export batch models.csv" in err
    assert "failed   b1: the run ended with Error: TAE_" in err

    assert await run(lines, ledger=tmp_path / "l.db") == 1  # one is done, one comes now
    out, err = capsys.readouterr()
    assert "b0: " in err
    assert "done by an earlier call" in err
    assert "2 of 3 exports done" in out


async def test_more_failures_than_anybody_reads_are_counted(
    emulator: Emulator, run: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(*(emulator.add_imodel("Secret", authorized=False) for _ in range(23)))
    assert await run(lines) == 1
    out, err = capsys.readouterr()
    assert (out.count("->"), "and 3 more; --report and --json tell all" in out) == (20, True)
    assert "itwin-export:" not in err


async def test_json_is_alone_on_stdout(
    emulator: Emulator, run: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = emulator.add_imodel("Tunnel")
    emulator.plan_next_run(bad, "Error")
    secret = emulator.add_imodel("Secret", authorized=False)
    assert await run(table(emulator.add_imodel(), bad, secret), json=True) == 1
    out, err = capsys.readouterr()
    told = {line["key"]: line for line in map(json.loads, out.splitlines())}
    assert set(told["b0"]) == {
        *("key", "imodel_id", "destination", "ok", "connection_id", "run_id", "result"),
        *("run_started", "run_ended", "files", "error"),
    }
    assert (told["b0"]["ok"], told["b0"]["result"], told["b0"]["error"]) == (True, "Success", None)
    (file,) = told["b0"]["files"]
    assert Path(file["path"]).stat().st_size == file["size"]
    assert told["b1"]["error"]["tasks"][0]["code"].startswith("TAE_")
    assert (told["b2"]["error"]["status"], told["b2"]["run_id"]) == (403, None)
    assert "2 of 3 exports failed" in err


async def test_a_run_that_was_never_seen_is_told_with_its_token(
    emulator: Emulator, run: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.inject("get_run", *[answer(503)] * 2000)
    assert await run(table(emulator.add_imodel()), json=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["error"]["type"] == "RunUnreachable"
    assert json.loads(told["error"]["token"])["run"] == told["run_id"]


async def test_time_that_is_over_is_exit_code_3(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.plan_next_run(slow := emulator.add_imodel(), "Success", duration=500)
    report = tmp_path / "r.html"
    assert await run(table(slow), timeout=100, report=report) == 3
    out, err = capsys.readouterr()
    assert "0 of 1 export done" in out
    assert "1 export not finished" in err
    assert "With --ledger FILE the same command would have continued" in err
    assert "1 not finished" in report.read_text()

    emulator.plan_next_run(slow := emulator.add_imodel(), "Success", duration=500)
    assert await run(table(slow), timeout=100, ledger=tmp_path / "l.db") == 3
    assert "this continues:\n  itwin-export batch models.csv" in capsys.readouterr().err
    before = emulator.count("create_run")
    assert await run(table(slow), ledger=tmp_path / "l.db") == 0
    assert emulator.count("create_run") == before


@pytest.mark.parametrize(("fate", "code"), [("Success", 1), ("Error", 1), ("slow", 3)])
async def test_a_report_that_fails_hides_nothing(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fate: str,
    code: int,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("r.html: the report cannot be written: No space left on device")

    monkeypatch.setattr("itwin_export_async.cli.commands.batch.write_report", full)
    imodel_id = emulator.add_imodel()
    emulator.plan_next_run(imodel_id, *(("Success",) if fate == "slow" else (fate,)), duration=500)
    timeout = 100 if fate == "slow" else None
    places = {"report": tmp_path / "r.html", "ledger": tmp_path / "l.db"}
    assert await run(table(imodel_id), timeout=timeout, **places) == code
    out, err = capsys.readouterr()
    assert f"{int(fate == 'Success')} of 1 export done" in out
    assert "The report is" not in out
    assert ("itwin-export batch models.csv" in err) is (fate != "Success")
    assert err.endswith(
        "itwin-export: r.html: the report cannot be written: No space left on device\n"
    )


async def test_a_summary_that_nobody_reads_keeps_no_report_from_being_written(
    emulator: Emulator, run: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        with pytest.raises(BrokenPipeError):
            await run(table(emulator.add_imodel()), report=tmp_path / "r.html")
        with suppress(BrokenPipeError):
            closed.close()
    assert "All exports are good" in (tmp_path / "r.html").read_text()


async def test_ctrl_c_stays_ctrl_c_where_the_report_fails(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("itwin_export_async.cli.commands.batch.write_report", full)
    emulator.plan_next_run(slow := emulator.add_imodel(), "Success", duration=500)
    work = asyncio.create_task(run(table(slow), report=tmp_path / "r.html"))
    asyncio.get_running_loop().call_later(100, work.cancel)
    with pytest.raises(asyncio.CancelledError):
        await work
    out, err = capsys.readouterr()
    assert ("0 of 1 export done" in out, err.endswith("itwin-export: full\n")) == (True, True)


async def test_a_time_out_of_another_kind_is_no_end_of_the_time(
    emulator: Emulator, run: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise TimeoutError("another")

    monkeypatch.setattr("itwin_export_async.cli.commands.batch._Batch._export", fail)
    with pytest.raises(TimeoutError, match="another"):
        await run(table(emulator.add_imodel()), timeout=100)


async def test_a_token_that_nothing_works_with_ends_it(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = table(*(emulator.add_imodel() for _ in range(200)))
    monkeypatch.setattr(Emulator, "token", lambda _: "wrong")
    assert await run(lines, report=tmp_path / "r.html", concurrency=2) == 4
    assert capsys.readouterr().err.endswith("199 exports not tried: they would fail alike\n")
    assert len(emulator.requests) < 50
    assert "1 failed, 199 not finished" in (tmp_path / "r.html").read_text()


async def test_a_token_that_has_ended_since_an_earlier_call_ends_it(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = [emulator.add_imodel() for _ in range(200)]
    assert await run(table(*ids[:1]), ledger=tmp_path / "l.db") == 0
    before = len(emulator.requests)
    monkeypatch.setattr(Emulator, "token", lambda _: "ended")
    assert await run(table(*ids), ledger=tmp_path / "l.db", concurrency=2) == 4
    assert capsys.readouterr().err.endswith("198 exports not tried: they would fail alike\n")
    assert len(emulator.requests) - before < 50


async def test_a_missing_consent_ends_it(
    emulator: Emulator, run: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.user_authorized = False
    assert await run(table(emulator.add_imodel()), authentication_type="User") == 4
    out, err = capsys.readouterr()
    assert "-> Sign in and agree: itwin-export authorize --open." in out
    assert "itwin-export:" not in err


async def test_trouble_with_tokens_that_passes_ends_nothing(
    emulator: Emulator,
    run: Batch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def outcomes(*_: object, **__: object) -> Any:
        for passing in (True, False):
            yield ExportOutcome(
                request=request, error=TokenError(message="x", is_transient=passing)
            )

    imodel_id = emulator.add_imodel()
    (request,) = sheet(table(imodel_id))
    monkeypatch.setattr(ExportClient, "export_many", outcomes)
    assert await run(table(imodel_id)) == 4
    assert capsys.readouterr().err.count("failed ") == 2


async def test_a_ledger_of_others_is_left_alone(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "l.db"
    ledger.write_text("not a database at all" * 100)
    with pytest.raises(LedgerError):
        await run(table(emulator.add_imodel()), ledger=ledger)
    assert capsys.readouterr() == ("", "")  # nothing began, and the same command never would


async def test_a_ledger_that_breaks_later_has_the_command_continue(
    emulator: Emulator, run: Batch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = emulator.add_imodel(), emulator.add_imodel()
    emulator.plan_next_run(second, "Success", duration=1000)

    def break_it(self: Record, outcome: ExportOutcome) -> None:
        raise LedgerError(message="cannot be used: disk I/O error", path="l.db")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "close", break_it)
        with pytest.raises(LedgerError):
            await run(table(first, second), ledger=tmp_path / "l.db")
    assert "this continues:\n  itwin-export batch models.csv" in capsys.readouterr().err


async def test_files_are_told_alike_by_every_call(
    emulator: Emulator,
    run: Batch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = "imodel_id,destination\n"
    lines += f"{emulator.add_imodel('Bridge')},\n{emulator.add_imodel('Tunnel')},x/t.ifc\n"
    told = []
    for _ in range(2):
        assert await run(lines, folder="out", ledger=tmp_path / "l.db", json=True) == 0
        out = map(json.loads, capsys.readouterr().out.splitlines())
        told.append({line["imodel_id"]: line["files"][0]["path"] for line in out})
    assert sorted(told[0].values(), key=len)[0] == "out/x/t.ifc"
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("ledger", "told"),
    [
        ("junk.db", "cannot be used: file is not a database"),
        ("link.db", "cannot be used: unable to open database file"),
        ("busy.db", "is in use by another call"),
    ],
)
def test_a_ledger_that_cannot_be_had_is_exit_code_2(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ledger: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models.csv").write_text(table("m"))
    Path("junk.db").write_text("no database at all" * 100)
    Path("link.db").symlink_to("nowhere/l.db")
    with closing(sqlite3.connect("busy.db-lock", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        words = ("models.csv", "-o", "out", "--report", "r.html", "--ledger", ledger)
        code, out, err = invoke("batch", *words)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first == f"itwin-export: ledger {ledger}: {told}"
    assert second.startswith("  Name another file with --ledger")
    assert service.emulator.requests == []
    assert not Path("r.html").exists()


@pytest.mark.parametrize(
    ("folder", "ledger"), [("out", "out/l.db"), ("a/b/", "a/l.db"), ("./out", "x/../out/l.db")]
)
def test_a_ledger_may_be_in_the_folder_that_the_batch_makes(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, ledger: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "models.csv").write_text(table(service.emulator.add_imodel()))
    assert invoke("batch", "models.csv", "-o", folder, "--ledger", ledger)[0] == 0
    assert (tmp_path / ledger).is_file()


async def test_a_folder_spelled_otherwise_is_the_same_to_a_ledger(
    emulator: Emulator, run: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = table(emulator.add_imodel()) + f"{emulator.add_imodel()},\n"
    for folder in ("out", "./out/", "out//"):
        assert await run(lines, folder=folder, ledger=tmp_path / "l.db") == 0
    assert emulator.count("create_run") == 2


def test_without_a_token_nothing_begins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ITWIN_ACCESS_TOKEN", "ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "models.csv").write_text("imodel_id\nm\n")
    code, out, err = invoke("batch", f"{tmp_path}/models.csv", "-o", f"{tmp_path}/new")
    assert (code, out, err.count("\n")) == (4, "", 2)
    assert not (tmp_path / "new").exists()


async def test_lines_come_from_standard_input_too(
    emulator: Emulator,
    run: Batch,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    emulator.plan_next_run(bad := emulator.add_imodel(), "Error")
    stdin = TextIOWrapper(BytesIO(table(bad).encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert await run("", file="-", ledger=tmp_path / "l.db") == 1
    assert "tries again what failed (with the same lines):" in capsys.readouterr().err


SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]


@pytest.mark.parametrize(("number", "code", "last"), SIGNALS)
def test_a_signal_ends_the_reading_of_standard_input(
    tmp_path: Path, number: signal.Signals, code: int, last: str
) -> None:
    theirs, ours = os.pipe()
    process = start("batch", "-", "-o", "out", cwd=tmp_path, stdin=theirs)
    os.close(theirs)
    os.write(ours, b"\n" * 100_000)  # more than a pipe holds: some of it was read
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    os.close(ours)
    assert (process.returncode, out, err) == (code, "", f"itwin-export: {last}\n")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    with serving(Emulator(seed=1, run_seconds=0.3), monkeypatch) as service:
        yield service


@pytest.mark.parametrize(
    ("lines", "words", "code", "told"),
    [
        ("imodel_id\n", [], 2, "models.csv asks for no export"),
        ("imodel_id\nm\n", ["--tier", "gold"], 2, "'gold' is not one of 'community', 'standard'"),
        ("imodel_id\nm\n", ["--concurrency", "0"], 2, "Invalid value for '--concurrency'"),
        ("imodel_id\nm\n", ["--report", "/dev/null/r.html"], 1, "/dev/null: the folder cannot be"),
        ("imodel_id\nm\n", ["--report", "."], 2, ".: a report is a file, and this is a folder"),
        ("imodel_id\nm\n", ["-o", "/dev/null/out"], 1, "/dev/null/out: the folder cannot be"),
        ("imodel_id\nm\n", ["--ledger", "no/l.db"], 2, "no/l.db: the folder no does not exist"),
        ("imodel_id\nm\n", ["--report", "./models.csv"], 2, "cannot be the file of exports and"),
        ("imodel_id\nm\n", ["--ledger", "models.csv"], 2, "cannot be the file of exports and"),
        ("imodel_id\nm\n", ["--ledger", "a", "--report", "a"], 2, "cannot be the ledger and the r"),
        ("imodel_id,output\nm,a\n", ["--report", "out/a", "-o", "out"], 2, "be the report and an"),
        ("imodel_id\nm\n", ["--ledger", "."], 2, ".: a ledger is a file, and this is a folder"),
        ("imodel_id,output\nm,/etc/x\n", [], 2, "models.csv, line 2, column 2: destination"),
        (None, [], 2, "models.csv cannot be read: No such file or directory"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(
    service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: str | None,
    words: list[str], code: int, told: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if lines is not None:
        Path("models.csv").write_text(lines)
    ended, _, err = invoke("batch", "models.csv", "-o", "out", *words)
    assert (ended, told in " ".join(err.replace("│", " ").split())) == (code, True)
    assert service.emulator.requests == []
    assert "--report" in words or not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code", "last"), SIGNALS)
def test_a_signal_leaves_the_command_that_continues(
    service: Service, tmp_path: Path, number: signal.Signals, code: int, last: str
) -> None:
    ids = [service.emulator.add_imodel(f"Bridge {n}") for n in range(3)]
    service.emulator.plan_next_run(ids[2], "Success", duration=3)
    (tmp_path / "models 1.csv").write_text(table(*ids))
    words = ["batch", "models 1.csv", "-o", "out", "--ledger", "l.db", "--tier", "community"]
    words += ["--json", "--report", "r.html"]
    process = start(*words, cwd=tmp_path)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["ok"]
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.endswith(f"itwin-export: {last}\n")
    assert "not finished" in (tmp_path / "r.html").read_text()
    again = next(line for line in err.splitlines() if line.startswith("  itwin-export batch"))
    assert "'models 1.csv'" in again
    shell = ["bash", "-c", again.replace("itwin-export", "printf '%s\\n'", 1)]
    said = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
    assert sorted(said) == sorted(words)
    done = start(*said, cwd=tmp_path)
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    assert [json.loads(line)["ok"] for line in out.splitlines()] == [True] * 3
    assert service.emulator.count("create_run") == 3


def test_a_file_that_looks_like_an_option_is_named_as_one_that_is_none(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service.emulator.plan_next_run(bad := service.emulator.add_imodel(), "Error")
    Path("-m.csv").write_text(table(bad))
    words = ["batch", "-o", "out", "--ledger", "l.db", "--json"]
    code, _, err = invoke(*words, "--", "-m.csv")
    assert (code, err.splitlines()[-1].split()) == (1, ["itwin-export", *words, "--", "-m.csv"])


def test_a_terminal_shows_how_far_it_is(service: Service, tmp_path: Path) -> None:
    ids = [service.emulator.add_imodel(f"Bridge {n}") for n in range(3)]
    service.emulator.plan_next_run(ids[1], "Error")
    (tmp_path / "models.csv").write_text(table(*ids))
    ours, theirs = pty.openpty()
    words = [*COMMAND, "batch", "models.csv", "-o", "out", "--json"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    with subprocess.Popen(
        words, cwd=tmp_path, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(ours, 65536):
                shown += piece
        assert process.stdout is not None
        out = process.stdout.read()
    os.close(ours)
    assert process.returncode == 1
    assert b"Traceback" not in shown
    assert b"0 failed" in shown
    assert b"2 of 3 exports done" in shown
    assert len([json.loads(line) for line in out.splitlines()]) == 3  # nothing else went there


def picture(overview: Overview, console: Console) -> list[str]:
    with console.capture() as captured:
        console.print(overview.picture())
    return [line.rstrip() for line in captured.get().splitlines()]


async def test_the_picture_fits_its_terminal(
    client: ExportClient, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    console = Console(file=StringIO(), force_terminal=True, width=100, height=14, color_system=None)
    overview = Overview(console, 40, lambda: 4812)
    assert "0 done  0 failed  40 left, 0 of them active" in picture(overview, console)[0]
    requests = [
        ExportRequest(imodel_id=emulator.add_imodel(), destination=f"[b{n}]/") for n in range(20)
    ]
    records = {request.imodel_id: Record.of(request) for request in requests}
    emulator.plan_next_run(requests[0].imodel_id, "Error", duration=1)
    emulator.plan_next_run(requests[1].imodel_id, "Success", duration=1)

    def updated(update: RunUpdate) -> None:
        assert update.request is not None
        overview.updated(records[update.request.imodel_id], update)

    several = client.export_many(requests, on_update=updated)
    ended = 0
    async for outcome in several:
        record = records[outcome.request.imodel_id]
        record.close(outcome)
        overview.ended(record)
        ended += 1
        if ended == 10:
            break
    await several.aclose()
    lines = picture(overview, console)
    assert len(lines) <= 14
    assert re.search(r"9 done  1 failed  30 left, 10 of them active", lines[0])
    assert re.search(r"about .* to go at this pace · 4,812 calls left in the rate limit", lines[1])
    assert any(re.match(r"\[b\d+\] +Executing +0/1 ", line) for line in lines)
    assert any(re.match(r"and \d+ more", line) for line in lines)
    assert lines[-1].startswith("failed  [b0]: the run ended with Error: TAE_")


def test_a_run_without_tasks_is_shown_without_any() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=100, color_system=None)
    overview = Overview(console, 1, lambda: None)
    record = Record(name="b", destination="b/")
    overview.updated(record, RunUpdate(run=Run(id="r1", state=ExecutionState.QUEUED)))
    assert re.fullmatch(r"b +Queued +0.0 s +r1", picture(overview, console)[-1])


def test_the_pace_is_that_of_what_was_done_here() -> None:
    assert to_go(10, 0, 60) is None
    assert to_go(10, 5, 60) == 120


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(1.25, "1.2 s"), (45, "45 s"), (150, "2 min"), (5400, "90 min"), (12000, "3 h 20 min")],
)
def test_times_are_told_as_people_do(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_file_that_is_gone_is_told() -> None:
    record = Record(name="x", destination="x")
    record.end(paths=[Path("/nowhere/x.ifc")])
    assert size(record.files[0].size) == "gone"
