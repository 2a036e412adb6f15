"""The fixtures for other people's tests, in a pytest of their own."""

import pytest

pytest_plugins = ["pytester"]

HEAD = """
import asyncio
import pytest
from itwin_export_async import ExportClient
from itwin_export_async._protocol.messages import Request

def sin(emulator):
    emulator.handle(Request(method="GET", url="https://api.bentley.com/export/connections"))
"""


def run(pytester: pytest.Pytester, tests: str) -> pytest.RunResult:
    pytester.makepyfile(HEAD + tests)
    plugins = ("-p", "no:itwin", "-p", "itwin_export_async.pytest_plugin")
    options = ("--strict-markers", "-o", "asyncio_default_fixture_loop_scope=function")
    return pytester.runpytest_inprocess(*plugins, *options)


def test_an_export_of_an_hour_in_a_plain_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def export(emulator, folder):
    imodel_id = emulator.add_imodel("Bridge")
    emulator.plan_next_run(imodel_id, duration=3600)
    began = asyncio.get_running_loop().time()
    async with ExportClient(emulator.token(lifetime=1e6), transport=emulator) as client:
        outcome = await client.export_imodel(imodel_id, folder / "bridge.ifc")
    return outcome, asyncio.get_running_loop().time() - began

@pytest.mark.itwin_no_violations
def test_it(itwin_emulator, itwin_virtual_time, tmp_path):
    outcome, seconds = itwin_virtual_time(export(itwin_emulator, tmp_path))
    assert outcome.ok
    assert 3600 < seconds < 4500
""",
    )
    result.assert_outcomes(passed=1)


def test_each_test_has_an_emulator_of_its_own_by_its_name(pytester: pytest.Pytester) -> None:
    tests = """
seen = []

@pytest.mark.parametrize("number", [1, 2])
def test_ids(itwin_emulator, number):
    assert itwin_emulator.requests == []
    sin(itwin_emulator)
    print("id", number, itwin_emulator.client_id)

def test_all(itwin_emulator):
    print("id", 3, itwin_emulator.client_id)
"""
    pytester.makeini("[pytest]\naddopts = -s")
    first, second = run(pytester, tests), run(pytester, tests)
    first.assert_outcomes(passed=3)
    ids = [[line for line in result.outlines if "id " in line] for result in (first, second)]
    assert ids[0] == ids[1]
    assert len({line.split()[-1] for line in ids[0]}) == 3


def test_a_marked_test_fails_for_what_its_client_did(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
@pytest.mark.itwin_no_violations
def test_marked(itwin_emulator):
    sin(itwin_emulator)

def test_unmarked(itwin_emulator, itwin_virtual_time):
    assert itwin_virtual_time(asyncio.sleep(3600, "slept")) == "slept"
    sin(itwin_emulator)
    assert len(itwin_emulator.violations) == 2

@pytest.mark.itwin_no_violations
def test_failed_itself(itwin_emulator):
    sin(itwin_emulator)
    raise KeyError("its own")

@pytest.mark.itwin_no_violations
def test_without():
    pass
""",
    )
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines(["*what the client must not do and did (2):*"])
    result.stdout.fnmatch_lines(["*KeyError: 'its own'*"])
    result.stdout.fnmatch_lines(
        ["*itwin_no_violations is for tests with the fixture itwin_emulator*"]
    )
