"""The command `itwin-export emulator`."""

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from attrs import frozen

from itwin_export_async import ExportClient
from itwin_export_async.cli.commands.emulator import serve_emulator
from tests.support.processes import until

pytestmark = pytest.mark.usefixtures("integration")


@frozen
class Command:
    """A running command: the variables that it wrote, and what it printed."""

    variables: dict[str, str]
    printed: str

    async def state(self) -> Any:
        url = f"{self.variables['ITP_API_URL']}/emulator/state"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            return await answer.json()

    async def start_all(self) -> dict[str, Any]:
        """Start an export of each iModel, and return the runs by name."""
        api, issuer, client_id, secret, _ = self.variables.values()
        form = {
            "grant_type": "client_credentials",
            "client_id": client_id,
            "client_secret": secret,
        }
        async with aiohttp.ClientSession() as http:
            async with http.post(f"{issuer}/connect/token", data=form) as answer:
                token = (await answer.json())["access_token"]
            http.headers["Authorization"] = f"Bearer {token}"
            http.headers["Accept"] = "application/vnd.bentley.itwin-platform.v1+json"
            for imodel in (await self.state())["imodels"]:
                url = f"{api}/export/connections"
                async with http.post(url, json={"iModelId": imodel["id"]}) as answer:
                    connection_id = (await answer.json())["connection"]["id"]
                url = f"{url}/{connection_id}/runs"
                async with http.post(url, json={"exportType": "IFC"}) as answer:
                    assert answer.status == 202
        return {run["iModelName"]: run for run in (await self.state())["runs"]}


@asynccontextmanager
async def running(
    folder: Path, capsys: pytest.CaptureFixture[str], **options: Any
) -> AsyncIterator[Command]:
    file, printed = folder / "client.env", ""

    def is_ready() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return "The variables are in" in printed

    given: dict[str, Any] = {"port": 0, "speed": 60.0, "seed": 0, "env_file": file}
    work = serve_emulator(**given | options)
    task = asyncio.create_task(work)
    try:
        await until(is_ready)
        lines = file.read_text().splitlines()
        yield Command(dict(line.split("=", 1) for line in lines), printed)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_command_prints_what_a_client_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path, capsys, imodels=1) as command:
        printed = command.printed
    for name, value in command.variables.items():
        assert f"  export {name}={value}\n" in printed
        assert f"  $env:{name} = '{value}'\n" in printed
    assert re.search(r"itwin-export run [0-9a-f-]{36} -o bridge\.ifc", printed)
    itwin_id = command.variables["ITWIN_ID"]
    assert f"\n  iTwin  {itwin_id}\n" in printed
    assert f"\n  itwin-export batch --itwin {itwin_id} -o out\n" in printed
    mode = (tmp_path / "client.env").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600 or os.name == "nt"


async def test_printed_itwin_lists_the_imodels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, capsys, imodels=3) as command:
        monkeypatch.delenv("ITWIN_ACCESS_TOKEN", raising=False)
        for name, value in command.variables.items():
            monkeypatch.setenv(name, value)
        async with ExportClient.from_env() as client:
            imodels = await client.imodels.list(os.environ["ITWIN_ID"])
    assert len(imodels) == 3
    for imodel in imodels:
        assert f"  iModel {imodel.id}  {imodel.display_name}\n" in command.printed


async def test_command_names_the_imodels_that_fail_are_slow_or_give_no_access(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {
        "imodels": 5,
        "fail": 1,
        "slow": 2,
        "no_access": 1,
        "run_seconds": "2-3",
        "quirks": "cancelled, dates_7",
        "tier": "Community",
        "public_url": "http://example.com",
    }
    async with running(tmp_path, capsys, **options) as command:
        assert command.variables["ITP_API_URL"] == "http://example.com"
    printed = command.printed
    assert printed.count("(fails)") == printed.count("(no access)") == 1
    assert printed.count("(slow)") == 2


@pytest.mark.parametrize(("run_seconds", "expected"), [(None, 4200), ("30", 300), ("2-3", 30)])
async def test_slow_imodels_take_ten_times_as_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run_seconds: str | None, expected: float
) -> None:
    options: dict[str, Any] = {"imodels": 1, "slow": 1, "run_seconds": run_seconds, "speed": 1.0}
    async with running(tmp_path, capsys, **options) as command:
        assert (await command.start_all())["Bridge"]["seconds"] == pytest.approx(expected)


async def test_failing_imodels_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"imodels": 2, "fail": 1, "run_seconds": "0"}
    async with running(tmp_path, capsys, **options) as command:
        runs = await command.start_all()
    assert {name: run["result"] for name, run in runs.items()} == {
        "Bridge": "Success",
        "Tunnel": "Error",
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"imodels": 1, "fail": 1, "slow": 1}, "name 2 iModels, and there are 1: raise --imodels"),
        ({"run_seconds": "fast"}, "--run-seconds must be a number or a span such as 20-40"),
        ({"run_seconds": "9-2"}, "run_seconds must be a pair"),
        ({"tier": "Trial"}, "unknown tier 'Trial'"),
        ({"quirks": "odd"}, "unknown quirk odd"),
        ({"public_url": "example.com"}, "public_url must be an http or https URL"),
    ],
)
async def test_options_of_the_command_are_checked(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        given: dict[str, Any] = {"port": 0, "imodels": 3, "speed": 60.0, "seed": 0}
        await serve_emulator(**given | options)


async def test_command_can_have_chaos_and_all_quirks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path, capsys, imodels=1, chaos=7, quirks="all") as command:
        assert (await command.state())["totals"]["imodels"] == 1
