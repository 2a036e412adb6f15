"""API calls of the nightly job: an iTwin of 1,000 iModels, of which few or none changed.

`export_itwin` exports all iModels of an emulated iTwin with a ledger, then runs again: once with
nothing changed, once after new changesets of some iModels. The emulator reports the date of each
iModel's last changeset, as the service does. Time is virtual; the seconds of CPU are those of the
client and the emulator together.
"""

import random
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from attrs import frozen

from benchmarks._support.report import Goal, Report, format_number
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import ExportClient, RateLimit
from itwin_export_async.emulator import Emulator, run_virtual

SEED = 1963
ITWIN_ID = str(UUID(int=SEED))
FIRST, UNCHANGED = "first export", "nothing changed"
LIMIT = 3  # calls
DAY = 86400.0


@frozen(kw_only=True)
class Effort:
    """How many iModels the iTwin has, and how many of them change before the last export."""

    imodels: int
    changed: int


FULL = Effort(imodels=1_000, changed=10)
QUICK = Effort(imodels=60, changed=3)


@frozen(kw_only=True)
class Night:
    """One export of the iTwin: files written, calls of the API, seconds of CPU."""

    files: int
    calls: int
    cpu: float


def run(effort: Effort) -> Report:
    """Export the iTwin three times."""
    with TemporaryDirectory() as folder:
        nights = run_virtual(_nights(effort, Path(folder)))
    return _report(effort, nights)


async def _nights(effort: Effort, folder: Path) -> dict[str, Night]:
    random.seed(SEED)  # of the client's jitter
    emulator = Emulator(seed=SEED, token_lifetime=30 * DAY)
    imodel_ids = [
        emulator.add_imodel(f"Bridge {number}", itwin_id=ITWIN_ID)
        for number in range(effort.imodels)
    ]
    _push(emulator, imodel_ids)
    for imodel_id in imodel_ids:
        emulator.plan_next_run(imodel_id, duration=60.0, times=None)
    nights = {
        FIRST: await _export(emulator, folder),
        UNCHANGED: await _export(emulator, folder),
    }
    _push(emulator, imodel_ids[: effort.changed])
    nights[f"{effort.changed} changed"] = await _export(emulator, folder)
    return nights


def _push(emulator: Emulator, imodel_ids: Iterable[str]) -> None:
    for imodel_id in imodel_ids:
        emulator.push_changeset(imodel_id)


async def _export(emulator: Emulator, folder: Path) -> Night:
    start, files = time.process_time(), 0
    async with ExportClient(
        emulator.token(), transport=emulator, rate_limit=RateLimit.STANDARD
    ) as client:
        outcomes = client.export_itwin(
            ITWIN_ID,
            folder / "files",
            ledger=folder / "exports.db",
            concurrency=100,
            authentication_type="Service",
        )
        async for outcome in outcomes:
            assert outcome.ok, outcome.error
            files += not outcome.up_to_date
        calls = client.session.stats.calls
    return Night(files=files, calls=calls, cpu=time.process_time() - start)


def _report(effort: Effort, nights: dict[str, Night]) -> Report:
    return Report(
        name="unchanged_itwin",
        title=f"Exports of an iTwin of {effort.imodels:,} iModels",
        method=__doc__ or "",
        head=("", "files", "API calls", "CPU s"),
        rows=tuple(
            (name, f"{one.files:,}", f"{one.calls:,}", format_number(one.cpu))
            for name, one in nights.items()
        ),
        bounds=("The list of iModels takes one call; a page has up to 1,000.",),
        goals=(
            Goal(
                what=f"an unchanged iTwin of {effort.imodels:,} iModels",
                limit=LIMIT,
                measured=nights[UNCHANGED].calls,
                unit=" API calls",
                in_readme=True,
            ),
        ),
        values={
            f"{name}, {what}": value
            for name, one in nights.items()
            for what, value in (("calls", one.calls), ("CPU s", one.cpu))
        },
        figure=Figure(
            title=f"API calls to export an iTwin of {effort.imodels:,} iModels (red: goal)",
            bars=tuple(
                Bar(
                    name=name,
                    value=one.calls,
                    label=f"{one.calls:,}",
                    goals=(LIMIT,) if name == UNCHANGED else (),
                    is_ours=True,
                )
                for name, one in nights.items()
            ),
            ticks=(1, 10, 100, 1_000, 10_000),
        ),
        caption="API calls of an export of an iTwin",
    )
