"""The application of the README, with two workers behind uvicorn."""

import re
from pathlib import Path

import aiohttp
import pytest

from tests.support.readme import README
from tests.support.service import Service
from tests.web.conftest import AFTER_RUN
from tests.web.events import events_of
from tests.web.processes import running

SECTION = README.partition("\n## In a web application\n")[2].partition("\n## ")[0]
UVICORN = ["uvicorn", "app:app", "--app-dir", "{folder}", "--uds", "{socket}", "--workers", "2"]
MAX_LINES = 25

if "ExportRouter(" not in SECTION:
    pytest.skip("the README does not show the router", allow_module_level=True)


def test_section_is_short() -> None:
    assert len(SECTION.strip().splitlines()) <= MAX_LINES


@pytest.mark.usefixtures("integration")
async def test_application_exports_for_permitted_users(service: Service, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    (tmp_path / "app.py").write_text(code)
    secret = {"EXPORT_SECRET": "a long random text"}
    async with running(UVICORN, service, tmp_path, **secret) as server:
        body = {"imodel_id": service.emulator.add_imodel("Bridge")}
        async with server.visitor() as visitor:

            async def get(url: str, user: str) -> aiohttp.ClientResponse:
                return await visitor.get(url, headers={"X-User": user})

            for user, status in (("other", 403), ("admin", 202)):
                headers = {"X-User": user}
                async with visitor.post("/api/v1/exports", json=body, headers=headers) as response:
                    assert response.status == status
                    started = await response.json(content_type=None)
            async with await get(started["status_url"], "other") as response:
                assert response.status == 404
            service.advance(AFTER_RUN)
            async with await get(started["events_url"], "admin") as response:
                *_, end = [event async for event in events_of(response)]
            assert end.data["outcome"] == "Success"
            async with await get(started["file_url"], "admin") as response:
                assert (await response.read()).startswith(b"ISO-10303-21;")
