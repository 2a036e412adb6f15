"""Results on standard output, everything else on standard error."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from itwin_export_async import ExportClient, RunOutput, TransportError, __version__
from itwin_export_async.cli.errors import UsageError
from itwin_export_async.cli.options import parse_duration, parse_since
from itwin_export_async.cli.output.streams import write_output
from tests.support.command import CommandLine, Stream, invoke
from tests.support.fakes import answer


def test_file_of_an_export_goes_to_standard_output(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, out, err = cli.invoke("run", imodel_id, "-o", "-")
    assert (code, out.startswith("ISO-10303-21;"), "Success" in err) == (0, True, True)
    assert cli.invoke("run", imodel_id, "-o", str(tmp_path / "b.ifc"), "--quiet")[2] == ""
    code, again, err = cli.invoke("run", imodel_id, "-o", "-", "--quiet")
    assert (code, len(again) > 1000, err) == (0, True, "")


def test_export_that_was_only_started_goes_to_standard_output(cli: CommandLine) -> None:
    token = cli.invoke("run", cli.emulator.add_imodel("Bridge"), "--no-wait")[1].strip()
    code, out, _ = cli.invoke("watch", token, "-o", "-")
    assert (code, out.startswith("ISO-10303-21;")) == (0, True)


async def test_several_files_need_a_folder() -> None:
    outputs = [RunOutput(file_id=name, name=name) for name in ("a.ifc", "b.ifc")]
    with pytest.raises(UsageError, match=r"2 files \(a.ifc, b.ifc\): give a folder as --output"):
        await write_output(outputs)


def test_skipped_run_writes_nothing_to_standard_output(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Skipped")
    assert cli.invoke("run", imodel_id, "-o", "-")[:2] == (0, "")


def test_partial_output_is_kept_on_request(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    words = ("run", imodel_id, "-o", f"{tmp_path}/out/")
    cli.emulator.plan_next_run(imodel_id, "PartialSuccess")
    code, out, err = cli.invoke(*words)
    assert (code, out, "use --keep-partial" in err) == (1, "", True)
    cli.emulator.plan_next_run(imodel_id, "PartialSuccess")
    code, out, _ = cli.invoke(*words, "--keep-partial")
    (file,) = out.splitlines()
    assert (code, Path(file).is_file()) == (1, True)
    cli.emulator.plan_next_run(imodel_id, "PartialSuccess")
    code, out, _ = cli.invoke(*words, "--keep-partial", "--json")
    line = json.loads(out)
    assert (code, line["status"], len(line["files"])) == (1, "partly failed", 1)


@pytest.mark.parametrize("command", ["run", "watch"])
def test_partial_output_goes_to_standard_output_on_request(cli: CommandLine, command: str) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "PartialSuccess")
    what = imodel_id
    if command == "watch":
        what = cli.invoke("run", imodel_id, "--no-wait")[1].strip()
    code, out, _ = cli.invoke(command, what, "-o", "-", "--keep-partial")
    assert (code, out.startswith("ISO-10303-21;")) == (1, True)


def test_batch_keeps_partial_outputs_on_request(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    (tmp_path / "m.csv").write_text(f"imodel_id,owner\n{imodel_id},Ann\n")
    cli.emulator.plan_next_run(imodel_id, "PartialSuccess")
    words = ("batch", f"{tmp_path}/m.csv", "-o", f"{tmp_path}/out", "--keep-partial", "--json")
    code, out, err = cli.invoke(*words)
    line = json.loads(out)
    assert (code, line["status"], line["columns"]) == (1, "partly failed", {"owner": "Ann"})
    assert Path(line["files"][0]["path"]).is_file()
    assert "0 of 1 export done, 1 partly failed in" in err
    cli.emulator.plan_next_run(imodel_id, "PartialSuccess")
    cli.emulator.inject("download_file", answer(302))
    code, out, err = cli.invoke(*words)
    assert (code, json.loads(out)["files"]) == (1, [])
    assert "the partial output was not kept" in err


def test_quiet_prints_results_and_errors_only(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    file = tmp_path / "b.ifc"
    assert cli.invoke("run", imodel_id, "-o", str(file), "-q") == (0, f"{file}\n", "")
    cli.emulator.plan_next_run(imodel_id, "Error")
    code, out, err = cli.invoke("run", imodel_id, "-o", str(file), "-q")
    assert (code, out, err.startswith("itwin-export: run ")) == (1, "", True)


def test_no_progress_still_prints_messages(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Skipped")
    words = ("run", imodel_id, "-o", f"{tmp_path}/", "--no-progress")
    assert cli.invoke(*words)[2] == (
        "itwin-export: nothing was exported: the service skipped the run\n"
    )


@pytest.mark.usefixtures("terminal")
def test_no_progress_draws_nothing_on_a_terminal(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    (tmp_path / "m.csv").write_text(f"imodel_id\n{imodel_id}\n")
    words = ("batch", f"{tmp_path}/m.csv", "-o", f"{tmp_path}/out", "--no-progress")
    assert "\x1b" not in cli.invoke(*words, err=Stream(is_terminal=True))[2]


@pytest.mark.parametrize("command", ["run", "batch"])
def test_forced_colours_draw_nothing_into_a_log(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    imodel_id = cli.emulator.add_imodel("Bridge")
    (tmp_path / "m.csv").write_text(f"imodel_id\n{imodel_id}\n")
    what = imodel_id if command == "run" else f"{tmp_path}/m.csv"
    code, _, err = cli.invoke(command, what, "-o", f"{tmp_path}/out")
    assert (code, "\x1b" in err, "Success" in err) == (0, False, True)


def test_options_come_from_variables(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    monkeypatch.setenv("ITP_EXPORT_OUTPUT", f"{tmp_path}/by-variable.ifc")
    monkeypatch.setenv("ITP_EXPORT_QUIET", "1")
    monkeypatch.setenv("ITP_EXPORT_TIMEOUT", "2h")
    assert cli.invoke("run", imodel_id) == (0, f"{tmp_path}/by-variable.ifc\n", "")
    monkeypatch.setenv("ITP_EXPORT_TIER", "gold")
    assert cli.invoke("run", imodel_id)[0] == 2
    monkeypatch.setenv("ITP_EXPORT_TIER", "COMMUNITY")
    monkeypatch.setenv("ITP_EXPORT_BASE_URL", "http://planted.example")
    code, _, err = cli.invoke("run", imodel_id)
    assert (code, "base_url" in err) == (2, True)


@pytest.mark.parametrize("words", [("-v", "run"), ("run", "-v")])
def test_verbose_logs_before_and_after_the_command(
    cli: CommandLine, tmp_path: Path, words: tuple[str, ...]
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, _, err = cli.invoke(*words, imodel_id, "-o", f"{tmp_path}/")
    assert (code, " INFO itwin_export_async" in err, " DEBUG " in err) == (0, True, False)
    assert logging.getLogger("itwin_export_async").level == logging.NOTSET


def test_twice_verbose_logs_everything(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    err = cli.invoke("run", imodel_id, "-o", f"{tmp_path}/", "-vv", "--tier", "community")[2]
    assert " DEBUG " in err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90m", 5400), ("2h", 7200), ("1h30m", 5400), ("45s", 45), ("1d", 86400), ("1.5", 1.5)],
)
def test_duration_has_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    assert parse_duration(str(float(seconds))) == seconds  # as a printed command repeats it


def test_moment_has_a_zone() -> None:
    assert parse_since("2026-11-28").isoformat() == "2026-11-28T00:00:00+00:00"
    moment = parse_since("2026-11-28T10:00:00+02:00")
    assert moment.isoformat() == "2026-11-28T10:00:00+02:00"
    assert parse_since(moment) is moment
    assert invoke("report", "x", "--since", "999999999d")[0] == 2


def test_skipped_run_is_watched_to_its_end(cli: CommandLine, tmp_path: Path) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.plan_next_run(imodel_id, "Skipped")
    token = cli.invoke("run", imodel_id, "--no-wait")[1].strip()
    assert cli.invoke("watch", token, "-o", f"{tmp_path}/")[:2] == (0, "")


def test_missing_consent_starts_nothing(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    words = ("run", imodel_id, "-o", "-", "--authentication-type")
    cli.emulator.user_authorized = False
    code, out, err = cli.invoke(*words, "User")
    assert (code, out, "itwin-export auth consent" in err) == (4, "", True)
    assert cli.emulator.count("create_run") == 0
    assert cli.invoke(*words, "Service")[0] == 0


@pytest.mark.usefixtures("integration")
def test_demo_prints_json_alone(tmp_path: Path) -> None:
    words = ("demo", "-o", str(tmp_path), "--imodels", "1", "--speed", "9000", "--json", "-q")
    code, out, err = invoke(*words)
    assert (code, json.loads(out)["name"], err) == (0, "Bridge", "")


@pytest.mark.usefixtures("integration")
def test_demo_ends_with_the_first_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise TransportError(message="planted")

    monkeypatch.setattr(ExportClient, "export_imodel", fail)
    code, _, err = invoke("demo", "-o", str(tmp_path), "-q")
    assert (code, "planted" in err, "Traceback" in err) == (1, True, False)


@pytest.mark.usefixtures("integration")
def test_command_line_is_a_module() -> None:
    words = [sys.executable, "-m", "itwin_export_async", "--version"]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert done.stdout == f"itwin-export {__version__}\n"
