"""Fifty exports through all that can go wrong at once, for several seeds."""

import asyncio
import random
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from itwin_export_async import (
    ClientCredentials,
    ExecutionResult,
    ExportClient,
    ExportOutcome,
    ExportRequest,
)
from itwin_export_async.emulator import Chaos, Emulator

EXPORTS = 50  # for each seed
KINDS = {
    "500",
    "502",
    "503",
    "504",
    "dead token",
    "expired address",
    "late answer",
    "lost answer",
    "race",
    "reset",
    "storm",
    "truncated answer",
    "young run",
}
RARE = {"dead token", "expired address", "race"}  # not under every seed


def troubled(seed: int, *, run_seconds: tuple[float, float] | None = None) -> Emulator:
    """A service in trouble, with so many iModels."""
    emulator = Emulator(
        seed=seed, epoch=datetime.now(UTC), run_seconds=run_seconds, tier="Standard"
    )
    emulator.forbid_repeat_runs = True
    emulator.create_conflict_window = 0.2
    emulator.output_visibility_delay = 3.0
    emulator.download_lifetime = 60.0
    emulator.chaos = Chaos(seed=seed)
    for number in range(EXPORTS):
        emulator.add_imodel(f"Bridge {number}")
    return emulator


async def outcomes_of(emulator: Emulator, folder: Path, ledger: Path | None) -> list[ExportOutcome]:
    """What comes of exporting all iModels at once."""
    requests = [
        ExportRequest(imodel_id=imodel_id, destination=folder / f"{name}.ifc")
        for imodel_id, name in emulator.imodels.items()
    ]
    auth = ClientCredentials(emulator.client_id, emulator.client_secret)
    async with ExportClient(auth, transport=emulator) as client:
        exports = client.export_many(
            requests, concurrency=EXPORTS, authentication_type="Service", ledger=ledger
        )
        async with aclosing(exports):
            return [outcome async for outcome in exports]


async def exported(emulator: Emulator, folder: Path, ledger: Path | None = None) -> None:
    """See all iModels exported at once, each to its true end."""
    random.seed(emulator.client_id)  # the client's own chance
    check_all(await outcomes_of(emulator, folder, ledger), emulator)


def check_all(outcomes: list[ExportOutcome], emulator: Emulator) -> None:
    assert [str(outcome.error) for outcome in outcomes if outcome.error] == []
    assert {outcome.request.imodel_id for outcome in outcomes} == emulator.imodels.keys()
    assert len(outcomes) == EXPORTS
    for outcome in outcomes:
        check(outcome, emulator)
    emulator.assert_no_violations()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def check(outcome: ExportOutcome, emulator: Emulator) -> None:
    """The run has ended well, and its file is where it belongs, byte for byte."""
    assert outcome.run is not None
    assert outcome.run.outcome == ExecutionResult.SUCCESS
    assert outcome.paths == (Path(outcome.request.destination),)
    if outcome.run.jobs:  # an earlier call's run has none
        (file_id,) = outcome.run.output_file_ids
        assert outcome.paths[0].read_bytes() == emulator.read_file(file_id)


def faults(emulator: Emulator) -> set[str]:
    return {record.fault for record in emulator.requests if record.fault}


@pytest.mark.parametrize("seed", range(2))
async def test_every_export_comes_to_its_true_end(tmp_path: Path, seed: int) -> None:
    emulator = troubled(seed)
    await exported(emulator, tmp_path)
    assert KINDS - RARE <= faults(emulator) <= KINDS


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("seed", range(2, 50))
async def test_every_export_ends_right_with_more_seeds(tmp_path: Path, seed: int) -> None:
    await exported(troubled(seed), tmp_path)


async def test_every_export_ends_right_with_odd_answers(tmp_path: Path) -> None:
    emulator = troubled(10)
    emulator.quirks = "all"
    await exported(emulator, tmp_path)


async def test_runs_shorter_than_an_outage_are_started_again_only_unknowingly(
    tmp_path: Path,
) -> None:
    emulator = troubled(11, run_seconds=(1.0, 40.0))
    await exported(emulator, tmp_path, ledger=tmp_path / "exports.db")


async def test_calls_cut_short_again_and_again_lose_nothing(tmp_path: Path) -> None:
    emulator, chance = troubled(12), random.Random(12)
    ledger = tmp_path / "exports.db"
    for _ in range(10):
        with suppress(TimeoutError):
            async with asyncio.timeout(chance.uniform(0.01, 100.0)):
                await outcomes_of(emulator, tmp_path, ledger)
    await exported(emulator, tmp_path, ledger)
