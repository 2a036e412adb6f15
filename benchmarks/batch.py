"""How long a batch of exports takes under the rate limit of a subscription, in virtual time.

All exports are asked for at once. The batch is over when the last file is there, so that no client
can be done before the longest run, nor before the calls that each export takes at the very least
have gone: a connection and a start before its run, one look and the address of the file after it.
The bound counts nothing else, and knows how long each run takes. Ours look for a connection before
they make one: a call more for each export, and one less when the same batch comes again a day
later. The exports written by hand make a connection each time, look at each run every five seconds,
and come again when a 429 says so.
"""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from math import log
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, frozen

from benchmarks._support.baseline import export_all
from benchmarks._support.report import Goal, Report, shown
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import ExportClient, ExportRequest, RateLimit
from itwin_export_async.emulator import Emulator, run_virtual
from itwin_export_async.transport import Request, Response, StreamedResponse

OURS, AGAIN, NAIVE = "client.export_many()", "the same, a day later", "by hand, every 5 s"
LABELS = {OURS: "ours", AGAIN: "ours, a day later", NAIVE: "by hand"}
SEED = 1963
TIERS = {"Community": RateLimit.COMMUNITY, "Standard": RateLimit.STANDARD}
WINDOWS = {"Community": {60.0: 500, 3600.0: 5000}, "Standard": {60.0: 5000}}  # calls by seconds
DEFAULT_TIMEOUT = 86400.0  # seconds
BEFORE, AFTER = 2, 2  # the fewest calls of an export before and after its run
LONG, SHORT = "about 7 minutes", "about 40 seconds"
LENGTHS = {LONG: (420.0, 0.6), SHORT: (40.0, 0.3)}  # median and spread of runs
LIMIT = 1.1  # times the bound; not of short runs, which take less time than the calls before them


@frozen(kw_only=True)
class Effort:
    """How many exports there are."""

    exports: int


FULL = Effort(exports=300)
QUICK = Effort(exports=60)


@frozen(kw_only=True)
class Made:
    """What a batch took: seconds, calls that were answered, and those refused with a 429."""

    seconds: float
    calls: int
    refused: int


def run(effort: Effort) -> Report:
    """Export in every way under every tier."""
    made: dict[tuple[str, str, str], Made] = {}
    bounds: dict[tuple[str, str], float] = {}
    for tier in TIERS:
        for length, (median, spread) in LENGTHS.items():
            durations = _durations(effort.exports, median, spread)
            bounds[tier, length] = least_makespan(durations, WINDOWS[tier])
            for name in (OURS, AGAIN, NAIVE):
                made[tier, length, name] = _made(name, tier, durations)
    return _report(effort, made, bounds)


def least_makespan(durations: Sequence[float], windows: dict[float, int]) -> float:
    """Seconds that no client can undercut: the longest runs first, and no call too many.

    `windows` are the calls that may be made in any so many seconds.
    """
    longest = sorted(durations, reverse=True)
    needed = len(longest) * (BEFORE + AFTER)
    moments = _moments(needed, windows)
    ends = (moments[BEFORE * n + BEFORE - 1] + seconds for n, seconds in enumerate(longest))
    return max(*ends, moments[-1])


def _moments(calls: int, windows: dict[float, int]) -> list[float]:
    """When each call may go at the earliest."""
    moments: list[float] = []
    for number in range(calls):
        full = [moments[number - most] + w for w, most in windows.items() if number >= most]
        moments.append(max(full, default=0.0))
    return moments


def _durations(exports: int, median: float, spread: float) -> list[float]:
    chance = random.Random(SEED)
    return [chance.lognormvariate(log(median), spread) for _ in range(exports)]


def _made(name: str, tier: str, durations: list[float]) -> Made:
    emulator = Emulator(seed=SEED, tier=tier, token_lifetime=7 * DEFAULT_TIMEOUT)
    imodel_ids = [emulator.add_imodel(f"Bridge {n}") for n in range(len(durations))]
    random.seed(SEED)  # the client's own chance

    async def batch(folder: Path) -> Made:
        for imodel_id, seconds in zip(imodel_ids, durations, strict=True):
            emulator.plan_next_run(imodel_id, duration=seconds)
        transport, token = _Counted(emulator), emulator.token()
        began = asyncio.get_running_loop().time()
        if name == NAIVE:
            await export_all(transport, token, imodel_ids, folder)
        else:
            await _by_us(transport, token, imodel_ids, TIERS[tier], folder)
        seconds = asyncio.get_running_loop().time() - began
        return Made(seconds=seconds, calls=transport.calls, refused=transport.refused)

    async def batches(folder: Path) -> Made:
        made = await batch(folder)
        if name == AGAIN:
            await asyncio.sleep(DEFAULT_TIMEOUT)
            made = await batch(folder)
        return made

    with TemporaryDirectory() as folder:
        return run_virtual(batches(Path(folder)))


@define
class _Counted:
    """The emulator as a transport that counts the calls of the API, and those it refuses."""

    emulator: Emulator
    calls: int = 0
    refused: int = 0

    async def send(self, request: Request, /) -> Response:
        """The answer."""
        self.calls += 1
        response = await self.emulator.send(request)
        self.refused += response.status == 429
        return response

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedResponse]:
        """The answer of the blob store, which counts no calls."""
        return self.emulator.stream(request)

    async def close(self) -> None:
        """Nothing is open."""


async def _by_us(
    transport: _Counted, token: str, imodel_ids: list[str], limit: RateLimit, folder: Path
) -> None:
    requests = [
        ExportRequest(imodel_id=imodel_id, destination=folder / f"{imodel_id}.ifc")
        for imodel_id in imodel_ids
    ]
    async with ExportClient(token, transport=transport, rate_limit=limit) as client:
        async for outcome in client.export_many(
            requests, concurrency=len(requests), authentication_type="Service"
        ):
            assert outcome.ok, outcome.error


def _report(
    effort: Effort,
    made: dict[tuple[str, str, str], Made],
    bounds: dict[tuple[str, str], float],
) -> Report:
    ratios = {key: one.seconds / bounds[key[:2]] for key, one in made.items()}
    return Report(
        name="batch",
        title=f"{effort.exports} exports at once, in virtual time",
        head=("", "tier", "runs of", "makespan s", "bound s", "ratio", "calls", "429s"),
        rows=tuple(_row(key, one, bounds[key[:2]]) for key, one in made.items()),
        bounds=(
            "The bound is that of the rate limit's arithmetic and the run times: "
            f"{BEFORE} calls before each run and {AFTER} after it, the longest runs first.",
        ),
        goals=(
            Goal(
                what=f"makespan of {effort.exports} exports of {LONG}, Community",
                limit=LIMIT,
                measured=ratios["Community", LONG, OURS],
                unit=" x the bound",
            ),
            Goal(
                what="429s in all batches",
                limit=0,
                measured=sum(one.refused for key, one in made.items() if key[2] != NAIVE),
            ),
        ),
        values={
            f"{', '.join(key)}, {what}": value
            for key, one in made.items()
            for what, value in (("s", one.seconds), ("calls", one.calls), ("429s", one.refused))
        },
        figure=Figure(
            title="Makespan of a batch, relative to what no client can undercut (red: goal)",
            bars=tuple(
                Bar(
                    name=f"{LABELS[name]}, {tier}, {length}",
                    value=ratio,
                    label=f"{ratio:.2f}, {made[tier, length, name].refused:,} refused",
                    goals=(LIMIT,) if (tier, length, name) == ("Community", LONG, OURS) else (),
                    is_ours=name != NAIVE,
                )
                for (tier, length, name), ratio in ratios.items()
            ),
            ticks=(1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24),
        ),
        caption="How long a batch takes under a rate limit",
    )


def _row(key: tuple[str, str, str], made: Made, bound: float) -> tuple[str, ...]:
    tier, length, name = key
    return (
        name,
        tier,
        length,
        shown(made.seconds),
        shown(bound),
        f"{made.seconds / bound:.3f}",
        f"{made.calls:,}",
        f"{made.refused:,}",
    )
