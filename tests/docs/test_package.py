"""The wheel and the source distribution, and what type checkers see of the package."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from attrs import frozen

from tests.support.readme import ROOT

NAME = "itwin_export_async-{}"


@frozen
class Distributions:
    """The files to publish: their paths, the names in them, and the metadata of the wheel."""

    wheel: Path
    sdist: Path
    in_wheel: frozenset[str]
    in_sdist: frozenset[str]
    metadata: Message


@pytest.fixture(scope="module")
def built(integration: None, tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Both, built without an index."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = frozenset(archive.namelist())
        (metadata,) = (name for name in in_wheel if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(metadata).decode())
    with tarfile.open(sdist) as source:
        in_sdist = frozenset(name.partition("/")[2] for name in source.getnames())
    return Distributions(wheel, sdist, in_wheel, in_sdist, message)


def test_both_distributions_hold_the_license(built: Distributions) -> None:
    assert any(re.fullmatch(r".*\.dist-info/licenses/.*LICENSE", name) for name in built.in_wheel)
    assert "itwin_export_async/LICENSE" in built.in_wheel & built.in_sdist
    assert built.metadata["License-Expression"] == "MIT"


def test_wheel_holds_the_package_and_its_data(built: Distributions) -> None:
    package = ROOT / "itwin_export_async"
    files = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in built.in_wheel if ".dist-info/" not in name} == files
    assert "itwin_export_async/py.typed" in files


def test_sdist_holds_what_its_tests_need(built: Distributions) -> None:
    assert {
        "README.md",
        "CHANGELOG.md",
        "pyproject.toml",
        ".ci/run",
        ".github/CONTRIBUTING.md",
        "tests/conftest.py",
        "benchmarks/__main__.py",
        "itwin_export_async/redis/rate_limit.lua",
    } <= built.in_sdist
    assert not any("__pycache__" in name or name.startswith(".venv") for name in built.in_sdist)


def test_metadata_names_license_authors_pythons_and_extras(built: Distributions) -> None:
    metadata = built.metadata
    assert "itwin-export-async contributors" in metadata["Author"]
    assert metadata["Requires-Python"] == ">=3.11"
    classifiers = metadata.get_all("Classifier", [])
    pythons = {name.rpartition(":: ")[2] for name in classifiers if "Python :: 3." in name}
    assert pythons == {"3.11", "3.12", "3.13", "3.14"}
    extras = {"cli", "speed", "taskiq", "redis", "otel", "bench", "test", "dev"}
    assert {*metadata.get_all("Provides-Extra", [])} == extras
    required = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert {re.split(r"[<>=]", r)[0] for r in required} == {"aiohttp", "attrs", "backoff", "cattrs"}


def test_package_page_renders(built: Distributions) -> None:
    pytest.importorskip("twine")
    command = [
        sys.executable,
        "-m",
        "twine",
        "check",
        "--strict",
        str(built.wheel),
        str(built.sdist),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


PROGRAM = """
import asyncio

from itwin_export_async import (
    ExportClient, ExportOptions, ExportOutcome, ExportRequest, Run, RunFailed, RunOutput, RunUpdate
)


def show(update: RunUpdate) -> None:
    for change in update.changes:
        print(change.level, change.new.value, change.result and change.result.value)


async def main(imodel_id: str) -> int:
    async with ExportClient.from_env(max_outage=60) as client:
        connection = await client.find_or_create_connection(imodel_id, display_name="typed")
        options = ExportOptions(export_type="IFC", ifc_version="IFC4.3")
        run = await client.start_run(connection.id, options, if_active="wait", timeout=60)
        try:
            final: Run = await run.wait(timeout=None, on_update=show)
        except RunFailed as error:
            return len(error.run.failed_tasks if error.run else ())
        size = 0
        outputs: tuple[RunOutput, ...] = await run.outputs()
        for output in outputs:
            async with output.open(start=10) as file:
                async for chunk in file:
                    size += len(chunk)
        runs: tuple[Run, ...] = await client.list_runs(connection.id)
        requests = [ExportRequest(imodel_id=imodel_id, destination="out/")]
        async with client.export_many(requests) as outcomes:
            async for outcome in outcomes:
                result: ExportOutcome = outcome
                size += sum(path.stat().st_size for path in result.paths)
        return size + len(runs) + len(final.jobs)


asyncio.run(main("imodel"))
"""
WRONG = """
from itwin_export_async import ExportClient, ExportOptions


async def main(client: ExportClient) -> None:
    await client.start_run("connection", if_active="never")
    await client.start_run("connection", {"ifc_version": "IFC4.3"})
    ExportOptions(ifc_version=4.3)
    ExportOptions(export_type=None)
    connection: str = await client.get_connection("connection")
"""


def lines_with_errors(folder: Path, checker: str) -> dict[str, set[int]]:
    """The lines that a type checker refuses, by the names of the folder's programs."""
    if checker == "mypy":
        command = ["mypy", "--strict", "--cache-dir", str(folder / "cache")]
    else:
        command = ["pyright", "--pythonpath", sys.executable]
    programs = sorted(path.name for path in folder.glob("*.py"))
    done = subprocess.run(
        [sys.executable, "-m", *command, *programs], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    found = {name: set[int]() for name in programs}
    for name, line in re.findall(r"(\w+\.py):(\d+)(?::\d+)?(?: -|:) error", done.stdout):
        found[name].add(int(line))
    return found


@pytest.mark.usefixtures("integration")
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_program_of_a_user_is_type_checked(checker: str, tmp_path: Path) -> None:
    pytest.importorskip(checker)
    if checker == "pyright" and shutil.which("node") is None:
        pytest.skip("pyright needs node")
    (tmp_path / "right.py").write_text(PROGRAM)
    (tmp_path / "wrong.py").write_text(WRONG)
    lines = {"right.py": set(), "wrong.py": {6, 7, 8, 9, 10}}
    assert lines_with_errors(tmp_path, checker) == lines
