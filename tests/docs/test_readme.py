"""Every example of the README runs: in virtual time, against an emulator in memory."""

import asyncio
import hmac
import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from itwin_export_async import ExportClient, InvalidSignature
from itwin_export_async.emulator import Emulator, run_virtual
from tests.recipes.conftest import output_of, processes_with
from tests.support.command import CommandLine
from tests.support.environment import environment
from tests.support.readme import (
    EXAMPLES,
    FRAGMENTS,
    README,
    ROOT,
    Example,
    command_lines,
    example_files,
    examples_of,
)
from tests.support.redises import RedisServer

FILES_RUN_HERE = {
    "quickstart.py",
    "nightly.py",
    "exports_worker.py",
    "send_export.py",
    "test_nightly.py",
}
FILES_RUN_ELSEWHERE = {"app.py"}  # tests/web/test_readme.py


@pytest.fixture
async def names(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Any]]:
    """What the text of the README introduces: an open client, an iModel, a run, ..."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(emulator).items():
        monkeypatch.setenv(name, value)
    Path("bridge.dgn").write_bytes(b"a drawing")
    imodel_id = emulator.add_imodel("Bridge")
    async with ExportClient(emulator.token(), transport=emulator) as client:
        connection = await client.create_connection(imodel_id, display_name="nightly IFC")
        yield {
            "client": client,
            "connection": connection,
            "imodel_id": imodel_id,
            "imodel_ids": [imodel_id, emulator.add_imodel("Bridge")],
            "itwin_id": emulator.itwin_id(imodel_id),
            "run": await client.start_run(connection.id),
        }


@pytest.mark.parametrize("example", FRAGMENTS, ids=str)
async def test_example_runs(example: Example, names: dict[str, Any], emulator: Emulator) -> None:
    await example.run(**names)
    emulator.assert_no_violations()


def test_files_of_the_readme_are_run() -> None:
    assert {*example_files()} == FILES_RUN_HERE | FILES_RUN_ELSEWHERE


async def test_many_exports_continue_from_their_ledger(
    names: dict[str, Any], emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    (many,) = examples_of("Many exports")
    names["imodel_ids"].append("unknown")
    await names["run"].wait()
    started = emulator.count("create_run")
    await many.run(**names)
    first = capsys.readouterr().out.splitlines()
    await many.run(**names)
    again = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in first} == {*names["imodel_ids"]}
    assert {line for line in again if ".ifc" in line} == {line for line in first if ".ifc" in line}
    assert sorted(os.listdir("out")) == ["Bridge-2.ifc", "Bridge.ifc"]
    assert emulator.count("create_run") == started + 2


async def test_round_trip_synchronizes_and_exports(
    names: dict[str, Any], emulator: Emulator
) -> None:
    (round_trip,) = examples_of("Round trip")
    await round_trip.run(**names)
    assert emulator.count("start_synchronization") == 1
    assert Path("out/bridge.ifc").exists()


async def test_webhook_is_verified_before_its_runs_are_polled(names: dict[str, Any]) -> None:
    (webhook,) = examples_of("Webhooks")
    receive = (await webhook.run(**names))["receive"]
    body = json.dumps(
        {
            "content": {"connectionId": "c1", "iModelId": "i1", "result": "success"},
            "eventType": "synchronization.jobCompleted.v1",
            "messageId": "m1",
        }
    ).encode()
    digest = hmac.new(b"secret", body, "sha256").hexdigest()
    await receive("secret", body, {"Signature": f"sha256={digest}"})
    with pytest.raises(InvalidSignature):
        await receive("another", body, {"Signature": f"sha256={digest}"})


@pytest.mark.usefixtures("integration")
async def test_any_queue_starts_the_export_of_a_job_once(tmp_path: Path) -> None:
    (job,) = (e for e in examples_of("Queues and workers") if e.file is None)
    export_job = (await job.run())["export_job"]
    emulator = Emulator(seed=1, run_seconds=0)
    async with (
        RedisServer() as server,
        Redis.from_url(server.url, decode_responses=True) as store,
        ExportClient(emulator.token(), transport=emulator) as client,
    ):
        arguments = (client, store, "job-1", emulator.add_imodel("Bridge"), tmp_path)
        paths = [await export_job(*arguments) for _ in range(2)]
    assert paths == [[str(tmp_path / "Bridge.ifc")]] * 2
    assert emulator.count("create_run") == 1


@pytest.mark.usefixtures("integration")
async def test_sent_export_is_done_by_a_worker(tmp_path: Path) -> None:
    for name in ("exports_worker.py", "send_export.py"):
        source = example_files()[name].replace("/srv/exports/", f"{tmp_path}/out/")
        (tmp_path / name).write_text(source)
    emulator = Emulator(seed=1, run_seconds=0)
    imodel_id = emulator.add_imodel("Bridge")
    async with RedisServer() as redis, processes_with(emulator, tmp_path) as processes:
        processes.environment["REDIS_URL"] = redis.url
        await processes.start("-m", "taskiq", "worker", "exports_worker:broker", "--workers", "1")
        sender = await processes.start("send_export.py", imodel_id)
        assert await output_of(sender) == [f"['{tmp_path}/out/Bridge.ifc']"]
    assert b"IFC4X3" in (tmp_path / "out/Bridge.ifc").read_bytes()
    assert not emulator.violations


def run_script(
    name: str, *words: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """Run a file of the README in virtual time, with an emulator as its service."""
    (folder / name).write_text(example_files()[name])
    for variable, value in environment(emulator).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *words])
    monkeypatch.setattr(asyncio, "run", run_virtual)
    monkeypatch.setattr(
        ExportClient, "from_env", staticmethod(partial(ExportClient.from_env, transport=emulator))
    )
    runpy.run_path(str(folder / name), run_name="__main__")


def test_quickstart_prints_states_and_paths(
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = partial(run_script, emulator=emulator, monkeypatch=monkeypatch, folder=tmp_path)
    imodel_id = emulator.add_imodel("Bridge")
    start("quickstart.py", imodel_id)
    *states, last = capsys.readouterr().out.splitlines()
    assert states[-1] == "Completed"
    assert "Executing" in states
    assert last == f"Success {Path('out/Bridge.ifc')}"
    emulator.plan_next_run(imodel_id, "Error")
    with pytest.raises(SystemExit, match=r"the run failed|Error|task"):
        start("quickstart.py", imodel_id)


@pytest.mark.usefixtures("integration")
async def test_quickstart_is_a_program_of_its_own(tmp_path: Path) -> None:
    emulator = Emulator(seed=1, run_seconds=0)
    imodel_id = emulator.add_imodel("Bridge")
    async with emulator.serve() as served:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", example_files()["quickstart.py"], imodel_id),
            cwd=tmp_path,
            env={**os.environ, **environment(emulator, served)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.decode().endswith(f"Success {Path('out/Bridge.ifc')}\n")


def test_nightly_job_exports_what_changed(
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = partial(run_script, emulator=emulator, monkeypatch=monkeypatch, folder=tmp_path)
    bridge = emulator.add_imodel("Bridge")
    itwin_id = emulator.itwin_id(bridge)
    tunnel = emulator.add_imodel("Tunnel", itwin_id=itwin_id)
    for imodel_id in (bridge, tunnel):
        emulator.push_changeset(imodel_id)
    counts, printed = [], []
    for _night in range(3):
        with pytest.raises(SystemExit) as exit:
            start("nightly.py", itwin_id)
        assert exit.value.code == 0
        counts.append(emulator.count("create_run"))
        printed.append(sorted(line.split()[1] for line in capsys.readouterr().out.splitlines()))
        if len(counts) == 2:
            emulator.push_changeset(bridge)
    assert counts == [2, 2, 3]
    assert printed == [["exported"] * 2, ["unchanged"] * 2, ["exported", "unchanged"]]
    assert sorted(os.listdir(tmp_path / "out")) == ["Bridge.ifc", "Tunnel.ifc"]
    emulator.plan_next_run(bridge, "Error")
    emulator.push_changeset(bridge)
    with pytest.raises(SystemExit) as exit:
        start("nightly.py", itwin_id)
    assert exit.value.code == 1
    with pytest.raises(SystemExit) as exit:
        start("nightly.py", "unknown")
    assert exit.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.usefixtures("integration")
async def test_test_of_own_code_passes(tmp_path: Path) -> None:
    (tmp_path / "test_nightly.py").write_text(example_files()["test_nightly.py"])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "test_nightly.py"),
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": "-p no:faker"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert b"1 passed" in out, out.decode()


@pytest.mark.parametrize("line", command_lines())
def test_command_line_succeeds(
    line: str,
    cli: CommandLine,
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    imodel_id = emulator.add_imodel("Bridge")
    emulator.push_changeset(imodel_id)
    Path("models.csv").write_text(f"imodel_id\n{imodel_id}\n")
    connection_id, token = run_virtual(_started(emulator, imodel_id))
    assert cli.invoke("batch", "models.csv", "-o", "out")[0] == 0  # for its ledger
    meanings = {
        "IMODEL_ID": imodel_id,
        "ITWIN_ID": emulator.itwin_id(imodel_id),
        "CONNECTION_ID": connection_id,
        "RESUME_TOKEN": token,
    }
    _, *words = [meanings.get(word, word) for word in shlex.split(line)]
    code, out, err = cli.invoke(*words)
    assert code == 0, err
    assert out


async def _started(emulator: Emulator, imodel_id: str) -> tuple[str, str]:
    """The ids of a connection and of a finished run of it."""
    async with ExportClient(emulator.token(), transport=emulator) as client:
        connection = await client.create_connection(imodel_id, display_name="nightly IFC")
        run = await client.start_run(connection.id)
        await run.wait()
        return connection.id, run.resume_token


def test_contents_link_to_every_section() -> None:
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([\w-]+)\)", README)
    assert {*links} == anchors
    contents = README[README.index("**Contents**") : README.index("\n## ")]
    assert re.findall(r"\[([^]]+)\]\(#", contents) == headings


def test_links_and_pictures_are_absolute() -> None:
    links = re.findall(r"\]\(([^)#][^)]*)\)", README)
    assert links
    assert all(link.startswith("https://") for link in links)


def test_checks_run_the_test_line_of_the_readme() -> None:
    (block,) = examples_of("Compatibility", "sh")
    assert block.code.strip() in (ROOT / ".ci/run").read_text()


def test_readme_has_a_place_for_the_rows_of_performance() -> None:
    begin, end = (README.index(f"<!-- performance: {name} -->") for name in ("begin", "end"))
    assert README[begin:end].splitlines()[1] == "| what | goal | measured | verdict |"


def test_every_code_block_is_of_a_known_language() -> None:
    assert {example.language for example in EXAMPLES} <= {"python", "sh", ""}
