"""Texts for people: nothing in them acts on their terminal."""

import json
import re
from functools import partial
from io import StringIO
from pathlib import Path
from urllib.parse import quote

import pytest
from rich.console import Console
from rich.table import Table

from itwin_export_async import (
    ExecutionResult,
    ExecutionState,
    FixedSchedule,
    Job,
    Run,
    RunFailed,
    RunUpdate,
    ServerError,
    Task,
    TaskErrorInfo,
    TokenError,
)
from itwin_export_async.cli.errors import message, summary_line
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.batch_progress import BatchProgress
from itwin_export_async.cli.output.console import SafeConsole, echo, escape_controls, table_cell
from itwin_export_async.cli.output.progress import RunProgress, StandardError
from itwin_export_async.cli.runner import log_message
from itwin_export_async.cli.runtime import Runtime
from tests.support.command import CommandLine, Stream, invoke
from tests.support.fakes import answer

ODD = "a\x1b[2J\x07b\x9b31m\x7f\u202ec\u2066"
MARKUP = "[link=https://evil.example/]x[/link][/y]:bug:[red]"
ESCAPED = "a\\x1b[2J\\x07b\\x9b31m\\x7f\\u202ec\\u2066"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Brücke 橋 \U0001f309, bridge's", "Brücke 橋 \U0001f309, bridge's"),
        ("two\n\tlines", "two\n\tlines"),
        (ODD, ESCAPED),
        ("\r\ud800", "\\r\\ud800"),
    ],
)
def test_control_characters_are_spelled_out(text: str, shown: str) -> None:
    assert escape_controls(text) == shown


def test_printed_texts_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    echo(ODD)
    log_message(ODD)
    StandardError().write(ODD)
    assert capsys.readouterr() == (f"{ESCAPED}\n", f"itwin-export: {ESCAPED}\n{ESCAPED}")


def test_console_keeps_its_own_colours_only() -> None:
    file = StringIO()
    window = SafeConsole(file=file, force_terminal=True, color_system="standard", width=80)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(table_cell(f"[b]{ODD}"), style="red")
    window.print(table)
    window.print(ODD)
    window.show_cursor(False)
    shown = file.getvalue()
    assert f"\x1b[31m[b]{ESCAPED}\x1b[0m\n" in shown
    assert "\na\\x1b[2J" in shown
    assert shown.count("\x1b") == shown.count("\x1b[") == 3
    assert shown.endswith("\x1b[?25l")


def test_console_raises_for_a_closed_pipe() -> None:
    class Gone(StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        SafeConsole(file=Gone()).print("x")


def test_texts_are_no_markup() -> None:
    file = StringIO()
    window = SafeConsole(file=file, force_terminal=True, color_system="standard", width=80)
    table = Table("[b]:bug:[/b]", box=None, pad_edge=False, header_style="")
    table.add_row(MARKUP)
    window.print(table)
    window.print(f"{MARKUP} 1 'x'")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(table_cell(f"{MARKUP}\n  two"))
    Console(file=file, width=80).print(table)
    shown = [line.rstrip() for line in file.getvalue().splitlines()]
    assert shown == ["[b]:bug:[/b]", MARKUP, f"{MARKUP} 1 'x'", f"{MARKUP} two"]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("command", ["run", "batch"])
def test_texts_of_a_run_do_not_act_on_a_terminal(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    (tmp_path / "m.csv").write_text(f"imodel_id,key\n{imodel_id},{MARKUP}\n")
    location = f"/export/connections/c/runs/{quote(f'r{MARKUP}', safe='')}"
    cli.emulator.inject("create_run", answer(202, Location=location))
    shown = {"run": {"id": f"r{MARKUP}", "connectionId": "c", "state": f"s{MARKUP}\n{ODD}"}}
    cli.emulator.inject("get_run", *[answer(200, json.dumps(shown))] * 1000)
    words = (command, "m.csv" if command == "batch" else imodel_id, "-o", "out/")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    screen = Stream(is_terminal=True, interrupt_at=f"s{MARKUP} {ESCAPED}")
    client_factory = partial(cli.runtime.client_factory, schedule=FixedSchedule(0.05))
    runtime = Runtime(client_factory=client_factory)  # a terminal is drawn in real time
    code, shown, _ = invoke(*words, runtime=runtime, out=screen, err=screen)
    assert code == 130, shown
    assert f"r{MARKUP}" in shown
    assert [
        piece for piece in shown.split("\x1b")[1:] if not re.match(r"\[[0-9;?]*[A-Za-z]", piece)
    ] == []
    assert "\N{BUG}" not in shown


def failed(description: str) -> RunFailed:
    error = TaskErrorInfo(error_code="X", description=description)
    state, result = ExecutionState.COMPLETED, ExecutionResult.ERROR
    task = Task(id="t", state=state, result=result, error=error)
    job = Job(id="j", state=state, result=result, tasks=(task,))
    return RunFailed(
        connection_id="c", run_id="r", run=Run(id="r", state=state, result=result, jobs=(job,))
    )


def test_summary_line_is_one_line() -> None:
    assert summary_line(failed("bad\r\nitwin-export: all good")).endswith(
        "X: bad itwin-export: all good"
    )


def test_progress_lines_are_single_lines() -> None:
    file = StringIO()
    record = Record(name="a\nb", destination="x")
    runs = RunProgress(SafeConsole(file=file))
    runs.add(record)
    runs.updated(record, RunUpdate(run=Run(id="r", state=ExecutionState("s\nitwin-export:"))))
    progress = BatchProgress(SafeConsole(file=file), 1, lambda: None)
    record.finish()
    progress.finished(record)
    looked, ended = file.getvalue().splitlines()
    assert looked.endswith(" s  a b: s itwin-export:")
    assert ended.startswith("[1/1] s itwin-export:  a b: no files, ")


FAKE = "bad\r\n  itwin-export: all good"


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (failed(FAKE), 2),
        (ServerError(status=503, message=FAKE), 1),
        (TokenError(message=FAKE), 1),
    ],
)
def test_message_has_no_lines_of_the_service(error: Exception, lines: int) -> None:
    shown = message(error).splitlines()
    assert len(shown) == lines
    assert "bad itwin-export: all good" in shown[-1]


def test_commands_print_escaped_texts(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    (tmp_path / "m.csv").write_text(f"imodel_id,key\n{imodel_id},{ODD}\n")
    sheet = str(tmp_path / "m.csv")
    refusal = json.dumps({"error": {"code": f"C{ODD}", "message": f"M{ODD}"}})
    printed = []
    for command in (
        ("run", imodel_id, "-o", f"{tmp_path}/F{ODD}/", "--connection", f"N{ODD}"),
        ("connections", "list", imodel_id),
        ("connections", "list", imodel_id, "--json"),
        ("-v", "batch", sheet, "-o", f"{tmp_path}/out"),
        ("batch", sheet, "-o", f"{tmp_path}/out", "--json"),
    ):
        code, out, err = cli.invoke(*command)
        assert code == 0
        printed += [out, err]
    for name, what, ends in (("run", imodel_id, 4), ("batch", sheet, 1)):
        cli.emulator.inject("create_run", answer(403, refusal))
        code, out, err = cli.invoke(name, what, "-o", f"{tmp_path}/")
        assert (code, f"C{ESCAPED}: M{ESCAPED}" in out + err) == (ends, True)
        printed += [out, err]
    every = "".join(printed)
    assert f"N{ESCAPED}" in every
    assert f"F{ESCAPED}/Bridge.ifc" in every
    assert [sign for sign in every if escape_controls(sign) != sign] == []
