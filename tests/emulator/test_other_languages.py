"""A test suite in JavaScript drives a served emulator."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from itwin_export_async.emulator import Emulator

SUITE = Path(__file__).with_name("client.test.mjs")


def node() -> str:
    """The path of Node; without it the test is skipped, but fails where `CI` is true."""
    found = shutil.which("node")
    if found is None:
        reason = "there is no node here"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.mark.usefixtures("integration")
async def test_a_suite_in_javascript_passes() -> None:
    emulator = Emulator(seed=1)
    emulator.add_imodel("Bridge")
    async with emulator.serve() as served:
        process = await asyncio.create_subprocess_exec(
            *(node(), "--test", SUITE),
            env={
                "PATH": os.environ["PATH"],
                "ITP_API_URL": served.base_url,
                "ITP_ISSUER_URL": served.token_url.removesuffix("/connect/token"),
                "ITP_SERVICE_CLIENT_ID": emulator.client_id,
                "ITP_SERVICE_CLIENT_SECRET": emulator.client_secret,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    emulator.assert_no_violations()
