"""What is printed for people: nothing in it acts on their terminal."""

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
from itwin_export_async.cli.errors import headline, words
from itwin_export_async.cli.export_record import Record
from itwin_export_async.cli.output.batch_progress import Overview
from itwin_export_async.cli.output.console import Window, cell, harmless, tell
from itwin_export_async.cli.output.progress import Board, StandardError
from itwin_export_async.cli.runner import say
from itwin_export_async.cli.runtime import Runtime
from tests.support.command import CommandLine, Stream, invoke
from tests.support.fakes import answer

ODD = "a\x1b[2J\x07b\x9b31m\x7f\u202ec\u2066"
MARKUP = "[link=https://evil.example/]x[/link][/y]:bug:[red]"
TOLD = "a\\x1b[2J\\x07b\\x9b31m\\x7f\\u202ec\\u2066"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Brücke 橋 \U0001f309, bridge's", "Brücke 橋 \U0001f309, bridge's"),
        ("two\n\tlines", "two\n\tlines"),
        (ODD, TOLD),
        ("\r\ud800", "\\r\\ud800"),
    ],
)
def test_what_could_act_on_a_terminal_is_spelled_out(text: str, told: str) -> None:
    assert harmless(text) == told


def test_everything_that_is_said_is_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    tell(ODD)
    say(ODD)
    StandardError().write(ODD)
    assert capsys.readouterr() == (f"{TOLD}\n", f"itwin-export: {TOLD}\n{TOLD}")


def test_a_window_keeps_its_colours_and_no_others() -> None:
    file = StringIO()
    window = Window(file=file, force_terminal=True, color_system="standard", width=80)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(cell(f"[b]{ODD}"), style="red")
    window.print(table)
    window.print(ODD)
    window.show_cursor(False)
    told = file.getvalue()
    assert f"\x1b[31m[b]{TOLD}\x1b[0m\n" in told
    assert "\na\\x1b[2J" in told
    assert told.count("\x1b") == told.count("\x1b[") == 3
    assert told.endswith("\x1b[?25l")


def test_a_window_that_nobody_looks_through_says_so() -> None:
    class Gone(StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        Window(file=Gone()).print("x")


def test_nothing_that_is_shown_is_markup() -> None:
    file = StringIO()
    window = Window(file=file, force_terminal=True, color_system="standard", width=80)
    table = Table("[b]:bug:[/b]", box=None, pad_edge=False, header_style="")
    table.add_row(MARKUP)
    window.print(table)
    window.print(f"{MARKUP} 1 'x'")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(cell(f"{MARKUP}\n  two"))
    Console(file=file, width=80).print(table)
    told = [line.rstrip() for line in file.getvalue().splitlines()]
    assert told == ["[b]:bug:[/b]", MARKUP, f"{MARKUP} 1 'x'", f"{MARKUP} two"]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("command", ["run", "batch"])
def test_nothing_of_a_run_acts_on_a_terminal(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    (tmp_path / "m.csv").write_text(f"imodel_id,key\n{imodel_id},{MARKUP}\n")
    location = f"/export/connections/c/runs/{quote(f'r{MARKUP}', safe='')}"
    cli.emulator.inject("create_run", answer(202, Location=location))
    told = {"run": {"id": f"r{MARKUP}", "connectionId": "c", "state": f"s{MARKUP}\n{ODD}"}}
    cli.emulator.inject("get_run", *[answer(200, json.dumps(told))] * 1000)
    words = (command, "m.csv" if command == "batch" else imodel_id, "-o", "out/")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    screen = Stream(is_terminal=True, interrupt_at=f"s{MARKUP} {TOLD}")
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


def test_a_headline_is_one_line() -> None:
    assert headline(failed("bad\r\nitwin-export: all good")).endswith(
        "X: bad itwin-export: all good"
    )


def test_a_line_is_one_line_where_nobody_looks() -> None:
    file = StringIO()
    record = Record(name="a\nb", destination="x")
    board = Board(Window(file=file))
    board.add(record)
    board.updated(record, RunUpdate(run=Run(id="r", state=ExecutionState("s\nitwin-export:"))))
    overview = Overview(Window(file=file), 1, lambda: None)
    record.end()
    overview.ended(record)
    looked, ended = file.getvalue().splitlines()
    assert looked.endswith(" s  a b: s itwin-export:")
    assert ended.startswith("[1/1] s itwin-export: a b: no files, ")


FAKE = "bad\r\n  itwin-export: all good"


@pytest.mark.parametrize(
    ("error", "lines"),
    [
        (failed(FAKE), 2),
        (ServerError(status=503, message=FAKE), 1),
        (TokenError(message=FAKE), 1),
    ],
)
def test_the_last_words_have_no_lines_of_the_service(error: Exception, lines: int) -> None:
    told = words(error).splitlines()
    assert len(told) == lines
    assert "bad itwin-export: all good" in told[-1]


def test_no_command_prints_what_acts(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    (tmp_path / "m.csv").write_text(f"imodel_id,key\n{imodel_id},{ODD}\n")
    sheet = str(tmp_path / "m.csv")
    refusal = json.dumps({"error": {"code": f"C{ODD}", "message": f"M{ODD}"}})
    printed = []
    for command in (
        ("run", imodel_id, "-o", f"{tmp_path}/F{ODD}/", "--connection", f"N{ODD}"),
        ("connections", imodel_id),
        ("connections", imodel_id, "--json"),
        ("-v", "batch", sheet, "-o", f"{tmp_path}/out"),
        ("batch", sheet, "-o", f"{tmp_path}/out", "--json"),
    ):
        code, out, err = cli.invoke(*command)
        assert code == 0
        printed += [out, err]
    for name, what, ends in (("run", imodel_id, 4), ("batch", sheet, 1)):
        cli.emulator.inject("create_run", answer(403, refusal))
        code, out, err = cli.invoke(name, what, "-o", f"{tmp_path}/")
        assert (code, f"C{TOLD}: M{TOLD}" in out + err) == (ends, True)
        printed += [out, err]
    every = "".join(printed)
    assert f"N{TOLD}" in every
    assert f"F{TOLD}/Bridge.ifc" in every
    assert [sign for sign in every if harmless(sign) != sign] == []
