"""The fixtures of the plugin, and recipes for test frameworks, each in a pytest of its own."""

import sys

import pytest

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.usefixtures("integration")

HEAD = """
import asyncio
import pytest
from itwin_export_async import ExportClient
from itwin_export_async._protocol.messages import Request

def violate(emulator):
    emulator.handle(Request(method="GET", url="https://api.bentley.com/export/connections"))

async def export(emulator, folder):
    imodel_id = emulator.add_imodel("Bridge")
    async with ExportClient(emulator.token(), transport=emulator) as client:
        return await client.export_imodel(imodel_id, folder / "bridge.ifc")
"""
PLUGIN = ("-p", "itwin_export_async.pytest_plugin", "--strict-markers")


@pytest.fixture(autouse=True)
def _only_named_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, tests: str, *options: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + tests)
    return pytester.runpytest_subprocess(*PLUGIN, *options)


def test_a_plain_test_exports_for_an_hour_in_virtual_time(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def timed(emulator, folder):
    started = asyncio.get_running_loop().time()
    outcome = await export(emulator, folder)
    return outcome, asyncio.get_running_loop().time() - started

@pytest.mark.itwin_no_violations
def test_it(itwin_emulator, itwin_virtual_time, tmp_path):
    itwin_emulator.run_seconds, itwin_emulator.token_lifetime = 3600, 1e6
    outcome, seconds = itwin_virtual_time(timed(itwin_emulator, tmp_path))
    assert outcome.ok
    assert 3600 < seconds < 4500
""",
    )
    result.assert_outcomes(passed=1)


def test_each_test_has_an_emulator_of_its_own_by_its_name(pytester: pytest.Pytester) -> None:
    tests = """
@pytest.mark.parametrize("number", [1, 2])
def test_ids(itwin_emulator, number):
    assert itwin_emulator.requests == []
    violate(itwin_emulator)
    print("id", number, itwin_emulator.client_id)

def test_all(itwin_emulator):
    print("id", 3, itwin_emulator.client_id)
"""
    first, second = run(pytester, tests, "-s"), run(pytester, tests, "-s")
    first.assert_outcomes(passed=3)
    ids = [[line for line in result.outlines if "id " in line] for result in (first, second)]
    assert ids[0] == ids[1]
    assert len({line.split()[-1] for line in ids[0]}) == 3


@pytest.mark.parametrize("marker", ["itwin_no_violations", "itwin_clean"])
def test_a_marked_test_fails_for_violations(pytester: pytest.Pytester, marker: str) -> None:
    tests = """
@pytest.mark.MARKER
def test_marked(itwin_emulator):
    violate(itwin_emulator)

@pytest.mark.MARKER
def test_without_violations(itwin_emulator):
    pass

def test_unmarked(itwin_emulator, itwin_virtual_time):
    assert itwin_virtual_time(asyncio.sleep(3600, "slept")) == "slept"
    violate(itwin_emulator)
    assert len(itwin_emulator.violations) == 2

@pytest.mark.MARKER
def test_failed_itself(itwin_emulator):
    violate(itwin_emulator)
    raise KeyError("its own")

@pytest.mark.MARKER
def test_without_fixture():
    pass
"""
    result = run(pytester, tests.replace("MARKER", marker))
    result.assert_outcomes(passed=2, failed=3)
    result.stdout.fnmatch_lines(["*2 violations of the client:*"])
    result.stdout.fnmatch_lines(["*KeyError: 'its own'*"])
    result.stdout.fnmatch_lines([f"*{marker} needs a test that uses the fixture itwin_emulator"])


def test_a_session_that_does_not_use_the_plugin_imports_nothing(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        """
import sys

def pytest_sessionfinish():
    print("loaded", *sorted(name for name in sys.modules if name not in BEFORE))

def pytest_configure(config):
    global BEFORE
    ours = ("itwin", "aiohttp", "attr")
    BEFORE = {name for name in sys.modules if not name.startswith(ours)}
"""
    )
    result = pytester.runpytest_subprocess(*PLUGIN, "--collect-only", "-s")
    (line,) = [line for line in result.outlines if line.startswith("loaded")]
    ours = [name for name in line.split() if name.startswith(("itwin", "aiohttp", "attr"))]
    assert ours == ["itwin_export_async", "itwin_export_async.pytest_plugin"]


ASYNC_RECIPE = """
{marker}
@pytest.mark.itwin_no_violations
async def test_it(itwin_emulator, tmp_path):
    itwin_emulator.run_seconds = 0
    assert (await export(itwin_emulator, tmp_path)).ok
"""


@pytest.mark.parametrize(
    ("mode", "marker"), [("auto", ""), ("strict", "@pytest.mark.asyncio")], ids=["auto", "strict"]
)
def test_recipe_for_pytest_asyncio(pytester: pytest.Pytester, mode: str, marker: str) -> None:
    options = ("-p", "pytest_asyncio.plugin", f"--asyncio-mode={mode}")
    result = run(pytester, ASYNC_RECIPE.format(marker=marker), *options)
    result.assert_outcomes(passed=1)


def test_recipe_for_anyio(pytester: pytest.Pytester) -> None:
    pytest.importorskip("anyio")
    tests = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
    recipe = tests + ASYNC_RECIPE.format(marker="@pytest.mark.anyio")
    result = run(pytester, recipe, "-p", "anyio")
    result.assert_outcomes(passed=1)


def test_recipe_for_unittest(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
import unittest

class TestIt(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _fixtures(self, itwin_emulator, itwin_virtual_time, tmp_path):
        self.emulator, self.run_virtual, self.folder = itwin_emulator, itwin_virtual_time, tmp_path

    @pytest.mark.itwin_no_violations
    def test_plain(self):
        self.assertTrue(self.run_virtual(export(self.emulator, self.folder)).ok)

    @pytest.mark.itwin_no_violations
    def test_violation(self):
        violate(self.emulator)

class TestAsync(unittest.IsolatedAsyncioTestCase):
    @pytest.fixture(autouse=True)
    def _fixtures(self, itwin_emulator, tmp_path):
        self.emulator, self.folder = itwin_emulator, tmp_path
        self.emulator.run_seconds = 0

    @pytest.mark.itwin_no_violations
    async def test_it(self):
        self.assertTrue((await export(self.emulator, self.folder)).ok)
""",
    )
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*2 violations of the client:*"])


def test_recipe_for_unittest_without_pytest(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(
        test_alone="""
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from itwin_export_async import ExportClient
from itwin_export_async.emulator import Emulator, run_virtual

class TestIt(unittest.TestCase):
    def test_it(self):
        emulator = Emulator(seed=1)
        self.addCleanup(emulator.assert_no_violations)
        imodel_id = emulator.add_imodel("Bridge")

        async def export(folder):
            async with ExportClient(emulator.token(), transport=emulator) as client:
                return await client.export_imodel(imodel_id, Path(folder) / "bridge.ifc")

        with TemporaryDirectory() as folder:
            self.assertTrue(run_virtual(export(folder)).ok)
"""
    )
    result = pytester.run(sys.executable, "-m", "unittest", path.stem)
    assert result.ret == 0, result.stderr.str()


def test_recipe_for_xdist(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    result = run(
        pytester,
        """
@pytest.mark.itwin_no_violations
@pytest.mark.parametrize("number", range(4))
def test_it(itwin_emulator, itwin_virtual_time, tmp_path, number):
    assert itwin_virtual_time(export(itwin_emulator, tmp_path)).ok
""",
        *("-p", "xdist", "-n", "2"),
    )
    result.assert_outcomes(passed=4)


def test_recipe_for_the_test_client_of_starlette(pytester: pytest.Pytester) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    result = run(
        pytester,
        """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

@pytest.mark.itwin_no_violations
def test_it(itwin_emulator, tmp_path):
    itwin_emulator.run_seconds = 0

    async def exported(request):
        outcome = await export(itwin_emulator, tmp_path)
        return PlainTextResponse(outcome.paths[0].name)

    app = Starlette(routes=[Route("/", exported)])
    with TestClient(app) as visitor:
        assert visitor.get("/").text == "bridge.ifc"
""",
    )
    result.assert_outcomes(passed=1)
