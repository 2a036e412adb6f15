"""What an import loads, and what it finds."""

import subprocess
import sys

import pytest

import itwin_export_async


@pytest.mark.usefixtures("integration")
def test_the_emulator_comes_without_the_client() -> None:
    program = (
        "import sys, itwin_export_async.emulator\n"
        "print(*(m for m in sys.modules if m.startswith('itwin_export_async._')))"
    )
    command = [sys.executable, "-c", program]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "itwin_export_async._protocol.messages" in loaded
    assert not {f"itwin_export_async.{name}" for name in ("_api", "_client", "_session")} & {
        *loaded
    }


def test_every_public_name_is_found_and_listed() -> None:
    found: dict[str, object] = {}
    exec("from itwin_export_async import *", found)
    assert {*itwin_export_async.__all__} <= {*found} & {*dir(itwin_export_async)}


@pytest.mark.parametrize("name", ["ExportClients", "_client2", "__wrapped__"])
def test_a_name_that_is_not_there_is_an_error_that_names_it(name: str) -> None:
    with pytest.raises(AttributeError, match=f"'itwin_export_async' has no attribute '{name}'"):
        getattr(itwin_export_async, name)
