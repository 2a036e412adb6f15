"""What an import loads, and what it finds."""

import subprocess
import sys

import pytest

import itwin_export_async
from itwin_export_async import transport


def loaded_by(statement: str) -> set[str]:
    program = (
        f"import sys\n{statement}\n"
        "print(*(m for m in sys.modules if m.startswith('itwin_export_async.') or m == 'aiohttp'))"
    )
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.usefixtures("integration")
def test_import_of_the_package_loads_nothing_else() -> None:
    assert loaded_by("import itwin_export_async") == set()
    assert loaded_by("import itwin_export_async.pytest_plugin") <= {
        "itwin_export_async.pytest_plugin"
    }


@pytest.mark.usefixtures("integration")
def test_emulator_loads_no_client() -> None:
    loaded = loaded_by("import itwin_export_async.emulator")
    assert "itwin_export_async._protocol.messages" in loaded
    assert not {"itwin_export_async._client", "itwin_export_async._http.session"} & loaded


def test_public_names_are_found_sorted_and_listed() -> None:
    found: dict[str, object] = {}
    exec("from itwin_export_async import *", found)
    names = itwin_export_async.__all__
    assert {*names} <= {*found} & {*dir(itwin_export_async)}
    assert names == sorted(names)


def test_star_import_shadows_no_name_of_a_web_framework() -> None:
    assert not {"Request", "Response", "StreamedResponse", "Transport"} & {
        *itwin_export_async.__all__
    }
    assert {"Request", "Response", "StreamedResponse", "Transport"} <= {*transport.__all__}


@pytest.mark.usefixtures("integration")
def test_version_needs_no_package_metadata() -> None:
    program = (
        "import importlib.metadata as m\n"
        "def version(name): raise m.PackageNotFoundError(name)\n"
        "m.version = version\n"
        "import asyncio, itwin_export_async as p\n"
        "async def main():\n"
        "    async with p.ExportClient('t'): print(p.__version__)\n"
        "asyncio.run(main())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == itwin_export_async.__version__


@pytest.mark.parametrize("name", ["ExportClients", "_client2", "__wrapped__"])
def test_unknown_name_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'itwin_export_async' has no attribute '{name}'"):
        getattr(itwin_export_async, name)
