"""What the README says is what happens."""

import asyncio
import os
import re
import sys
import uuid
from functools import partial
from pathlib import Path

import pytest

from itwin_export_async.emulator import Emulator
from tests.support.environment import environment
from tests.support.readme import ROOT, code_block, code_blocks

EXAMPLES = code_blocks("python")


async def execute(example: str, *words: str, folder: Path, environment: dict[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", example, *words),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    return out.decode()


@pytest.mark.usefixtures("integration")
async def test_the_first_example_exports(tmp_path: Path) -> None:
    emulator = Emulator(seed=1, run_seconds=0)
    imodel_id = emulator.add_imodel("Bridge")
    async with emulator.serve() as served:
        out = await execute(
            EXAMPLES[0],
            imodel_id,
            folder=tmp_path,
            environment=environment(emulator, served),
        )
    assert out == "Success out/Bridge.ifc\n"
    assert (tmp_path / "out/Bridge.ifc").read_bytes().startswith(b"ISO-10303-21;")


@pytest.mark.usefixtures("integration")
async def test_many_exports_are_told_as_they_come(tmp_path: Path) -> None:
    emulator = Emulator(seed=1, run_seconds=0)
    imodel_ids = [emulator.add_imodel("Bridge"), emulator.add_imodel("Bridge"), "unknown"]
    async with emulator.serve() as served:
        told = environment(emulator, served)
        run = partial(execute, EXAMPLES[1], *imodel_ids, folder=tmp_path, environment=told)
        out, again = await run(), await run()
    assert sorted(os.listdir(tmp_path / "out")) == ["Bridge-2.ifc", "Bridge.ifc"]
    assert sorted(out.splitlines()) == sorted(again.splitlines())
    assert {line.split()[0] for line in out.splitlines()} == set(imodel_ids)
    assert "unknown 422" in out
    assert emulator.count("create_run") == 2


@pytest.mark.usefixtures("integration")
async def test_the_round_trip_ends_with_an_ifc_model(tmp_path: Path) -> None:
    emulator = Emulator(seed=1, run_seconds=0)
    itwin_id = str(uuid.UUID(int=1))
    imodel_id = emulator.add_imodel("Bridge", itwin_id=itwin_id)
    (tmp_path / "bridge.dgn").write_bytes(b"dgn")
    async with emulator.serve() as served:
        out = await execute(
            EXAMPLES[2],
            *(imodel_id, itwin_id, "bridge.dgn"),
            folder=tmp_path,
            environment=environment(emulator, served),
        )
    assert re.fullmatch(r"IFC4X3\w* \d+ products\n", out)
    assert emulator.count("start_synchronization") == 1


@pytest.mark.usefixtures("integration")
async def test_the_test_of_ones_own_code_passes(tmp_path: Path) -> None:
    test = code_block("python", "def test_nightly")
    (tmp_path / "test_nightly.py").write_text(test.replace("/tmp/exports", str(tmp_path)))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "test_nightly.py"),
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert b"1 passed" in out, out.decode()


@pytest.mark.usefixtures("integration")
async def test_the_example_of_the_shared_limit_works_with_and_without_its_redis() -> None:
    example = code_block("python", "RedisRateLimit(")
    use = (
        "import asyncio, sys\n"
        "async def main():\n"
        "    async with open_client() as client:\n"
        "        await client.create_connection(sys.argv[1])\n"
        "asyncio.run(main())\n"
    )
    emulator = Emulator(seed=1)
    imodel_id = emulator.add_imodel("Bridge")
    async with emulator.serve() as served:
        there = environment(emulator, served)
        await execute(f"{example}\n{use}", imodel_id, folder=ROOT, environment=there)
    assert emulator.count("create_connection") == 1


def test_the_checks_run_the_test_line_of_the_readme() -> None:
    lines = [text.strip() for text in code_blocks("sh")]
    assert next(line for line in lines if "pytest" in line) in (ROOT / ".ci/run").read_text()


def test_every_public_name_has_a_docstring() -> None:
    import itwin_export_async
    from itwin_export_async import emulator

    for module in (itwin_export_async, emulator):
        for name in module.__all__:
            public = getattr(module, name)
            if not callable(public):  # a constant
                continue
            assert public.__doc__, name
            for member, value in vars(public).items():
                if callable(value) and not member.startswith("_"):
                    assert value.__doc__, f"{name}.{member}"
