"""The extra `speed`: the client on uvloop, and with and without orjson."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from itwin_export_async import ExportClient
from itwin_export_async.emulator import Emulator


@pytest.mark.usefixtures("integration")
@pytest.mark.skipif(sys.platform == "win32", reason="uvloop is not for Windows")
def test_export_runs_on_uvloop(tmp_path: Path) -> None:
    import uvloop

    async def export() -> Path:
        emulator = Emulator(speed=1000.0)
        async with (
            emulator.serve() as served,
            ExportClient(emulator.token(), base_url=served.base_url) as client,
        ):
            outcome = await client.export_imodel(emulator.add_imodel(), tmp_path / "bridge.ifc")
            return outcome.paths[0]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(export()).read_bytes().startswith(b"ISO-10303-21")


@pytest.mark.usefixtures("integration")
def test_library_works_without_orjson() -> None:
    hide = "import sys; sys.modules['orjson'] = None; "
    check = "from itwin_export_async._protocol.codec import orjson; sys.exit(orjson is not None)"
    assert subprocess.run([sys.executable, "-c", hide + check], check=False).returncode == 0
