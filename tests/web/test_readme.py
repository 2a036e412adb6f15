"""The application of the README, with two workers behind uvicorn."""

from pathlib import Path

import aiohttp
import pytest

from tests.support.readme import README, examples_of
from tests.support.service import Service
from tests.web.conftest import AFTER_RUN
from tests.web.events import events_of
from tests.web.processes import running

UVICORN = ["uvicorn", "app:app", "--app-dir", "{folder}", "--uds", "{socket}", "--workers", "2"]
MAX_LINES = 25


def test_section_is_short() -> None:
    _, heading, rest = README.partition("\n## Web applications\n")
    assert heading
    assert len(rest.partition("\n## ")[0].strip().splitlines()) <= MAX_LINES


@pytest.mark.usefixtures("integration")
async def test_application_exports_for_permitted_users(service: Service, tmp_path: Path) -> None:
    (application,) = examples_of("Web applications")
    assert application.file == "app.py"
    (tmp_path / "app.py").write_text(application.code)
    body = {"imodel_id": service.emulator.add_imodel("Bridge")}
    variables = {"EXPORT_SECRET": "a long random text", "IMODEL_ID": body["imodel_id"]}
    async with running(UVICORN, service, tmp_path, **variables) as server:
        async with server.visitor() as visitor:

            async def get(url: str, user: str) -> aiohttp.ClientResponse:
                return await visitor.get(url, headers={"X-User": user})

            for user, status in (("bob", 403), ("ada", 202)):
                headers = {"X-User": user}
                async with visitor.post("/api/v1/exports", json=body, headers=headers) as response:
                    assert response.status == status
                    started = await response.json(content_type=None)
            async with await get(started["status_url"], "bob") as response:
                assert response.status == 404
            service.advance(AFTER_RUN)
            async with await get(started["events_url"], "ada") as response:
                *_, end = [event async for event in events_of(response)]
            assert end.data["outcome"] == "Success"
            async with await get(started["file_url"], "ada") as response:
                assert (await response.read()).startswith(b"ISO-10303-21;")
