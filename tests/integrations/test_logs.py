"""The log of a night of exports: how many lines, which are warnings, what each names."""

import asyncio
import logging
import random
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from itwin_export_async import (
    ClientCredentials,
    ExportClient,
    ExportRequest,
    NotFound,
    RateLimit,
)
from itwin_export_async.emulator import Chaos, Emulator

EXPORTS = 40


@pytest.fixture
async def records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The records from INFO on of exports under chaos, of which each eighth fails."""
    caplog.set_level(logging.INFO, "itwin_export_async")
    emulator = Emulator(seed=1, epoch=datetime.now(UTC), run_seconds=(60, 1500), tier="Community")
    emulator.output_visibility_delay = 3
    emulator.chaos = Chaos(seed=1)
    random.seed(1)  # the client's own chance
    requests = [
        ExportRequest(imodel_id=emulator.add_imodel(f"{n}"), destination=tmp_path / f"{n}.ifc")
        for n in range(EXPORTS)
    ]
    for request in requests[::8]:
        emulator.plan_next_run(request.imodel_id, "Error")
    auth = ClientCredentials(emulator.client_id, emulator.client_secret)
    limit = RateLimit.COMMUNITY
    async with ExportClient(auth, transport=emulator, rate_limit=limit) as client:
        async for _ in client.export_many(requests, concurrency=20, ledger=tmp_path / "l.db"):
            pass
    return [r for r in caplog.records if r.name.startswith("itwin_export_async.")]


async def test_every_line_about_a_run_names_its_imodel(records: list[logging.LogRecord]) -> None:
    for record in records:
        fields = getattr(record, "itwin", {})
        if "run_id" in fields:
            assert fields.get("imodel_id", "no iModel") in record.getMessage(), record.getMessage()
            assert {"connection_id", "imodel_id"} < fields.keys()
        else:
            assert " run " not in record.getMessage().replace("runs", "")


async def test_a_night_is_few_lines_of_which_few_are_warnings(
    records: list[logging.LogRecord],
) -> None:
    assert all("\n" not in record.getMessage() for record in records)
    names = {record.name.removeprefix("itwin_export_async.") for record in records}
    assert names <= {"http", "auth", "runs", "files", "batch"}
    words = Counter(
        " ".join(word for word in record.getMessage().split()[:1])
        for record in records
        if record.levelno == logging.INFO
    )
    failures = EXPORTS // 8
    assert words["started"] + words["recovered"] == EXPORTS
    assert words["run"] == words["file"] == EXPORTS - failures
    assert words["export"] == 0  # the warning of a failed run says it
    assert words["batch"] == 2
    assert len(records) < 5 * EXPORTS
    warnings = [r.getMessage() for r in records if r.levelno > logging.INFO]
    failed = [r for r in records if " failed: Error; task " in r.getMessage()]
    assert all(r.levelno == logging.WARNING for r in failed)
    pauses = [text for text in warnings if text.startswith("429 for ")]
    assert len(failed) == failures
    assert len(warnings) <= failures + len(pauses) + 2


async def test_batch_says_how_it_begins_and_how_it_ended(
    records: list[logging.LogRecord], tmp_path: Path
) -> None:
    first, *_, last = (r for r in records if r.name == "itwin_export_async.batch")
    ledger, failures = str(tmp_path / "l.db"), EXPORTS // 8
    assert first.getMessage() == f"batch began: up to 20 exports at once, ledger {ledger}"
    assert vars(first)["itwin"] == {"concurrency": 20, "ledger": ledger}
    assert "itwin" in vars(last)
    fields = vars(last)["itwin"]
    seconds = fields.pop("seconds")
    good = EXPORTS - failures
    none = {"skipped": 0, "up_to_date": 0, "not_consumed": 0}
    assert fields == {"exported": good, "failed": failures, **none}
    assert 300 < seconds < 86400
    text = f"batch ended after {seconds:.0f} s: {good} exported, {failures} failed"
    assert last.getMessage() == text


async def test_batch_says_what_it_skipped_and_what_was_not_consumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "itwin_export_async.batch")
    emulator = Emulator(seed=1)
    skipped, quick, slow = (
        ExportRequest(imodel_id=emulator.add_imodel(name), destination=tmp_path / f"{name}.ifc")
        for name in ("a", "b", "c")
    )
    emulator.plan_next_run(skipped.imodel_id, "Skipped", duration=5)
    emulator.plan_next_run(quick.imodel_id, duration=100)
    emulator.plan_next_run(slow.imodel_id, duration=7200)
    async with ExportClient(emulator.token(), transport=emulator) as client:
        async with client.export_many([skipped, quick, slow], concurrency=3) as outcomes:
            assert (await anext(outcomes)).ok
            await asyncio.sleep(1000)  # the second has ended, and is not consumed
    first, *_, last = caplog.records
    assert first.getMessage() == "batch began: up to 3 exports at once, no ledger"
    assert last.getMessage().endswith(": 0 exported, 1 skipped, 0 failed, 2 not consumed")


async def test_pause_after_a_429_has_the_fields_of_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    emulator = Emulator(seed=1)
    emulator.inject("get_connection", 429)
    async with ExportClient(emulator.token(), transport=emulator) as client:
        with pytest.raises(NotFound):
            await client.get_connection("c1")
    (record,) = (r for r in caplog.records if "all requests paused" in r.getMessage())
    assert vars(record)["itwin"] == {
        "operation": "GET /export/connections/{id}",
        "attempt": 1,
    }
