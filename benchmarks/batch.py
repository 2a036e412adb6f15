"""Makespan of a batch of exports under the rate limit of a subscription, in virtual time.

All exports are requested at once. The batch is over when the last file is complete, so no client is
done before the longest run, nor before the calls that each export needs at the very least: a
connection and a start before its run, one poll and the address of the file after it. The bound
counts nothing else, and knows how long each run takes. `export_many` looks for a connection before
it makes one: one call more for each export, and one less when the same batch comes again a day
later. Plain code makes a connection each time, polls each run every five seconds, and repeats what
was refused with a 429 when the response says so. What has a goal is measured with three seeds, and
the table shows medians.

The order of requests: several exports of each iModel, one after another in the list (grouped) and
shuffled, 20 at once. An iModel has one active run at a time, so a grouped list is the harder one.
The goal is for fewer iModels than slots, where the order can be made up for. With more, the last
iModels of a grouped list start late, because a list is read only as slots become free.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import product
from math import log
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from attrs import define, frozen

from benchmarks._support.baseline import export_all
from benchmarks._support.interleave import Quartiles
from benchmarks._support.report import Goal, Report, format_number
from benchmarks._support.svg import Bar, Figure
from itwin_export_async import ExportClient, ExportRequest, RateLimit
from itwin_export_async.emulator import Emulator, run_virtual
from itwin_export_async.transport import Request, Response, StreamedResponse

OURS, AGAIN, BASELINE = "export_many", "the same, a day later", "plain code, every 5 s"
GROUPED, SHUFFLED = "grouped", "shuffled"
LABELS = {OURS: "ours", AGAIN: "ours, a day later", BASELINE: "plain code"}
TIERS = {"Community": RateLimit.COMMUNITY, "Standard": RateLimit.STANDARD}
WINDOWS = {"Community": {60.0: 500, 3600.0: 5000}, "Standard": {60.0: 5000}}  # calls by seconds
DAY = 86400.0  # seconds
BEFORE, AFTER = 2, 2  # the fewest calls of an export before and after its run
LONG, SHORT = "7 minutes", "40 seconds"
LENGTHS = {LONG: (420.0, 0.6), SHORT: (40.0, 0.3)}  # median and spread of runs
WITH_GOAL = ("Community", LONG, OURS)
LIMIT, ORDER_LIMIT = 1.05, 1.1
CONCURRENCY = 20


@frozen(kw_only=True)
class Effort:
    """How many exports there are, and the seeds of durations and jitter.

    `imodels`: of the lists that are grouped or shuffled; the goal is for the first number.
    """

    exports: int
    imodels: tuple[int, int] = (10, 50)
    seeds: tuple[int, ...] = (1963, 1974, 2024)


FULL = Effort(exports=300)
QUICK = Effort(exports=60, seeds=(1963,))


@frozen(kw_only=True)
class Outcome:
    """Seconds and calls of a batch, calls refused with a 429, and the seconds of the bound."""

    seconds: float
    calls: int
    refused: int
    bound: float

    @property
    def ratio(self) -> float:
        """The makespan relative to the bound."""
        return self.seconds / self.bound


Key = tuple[str, str, str]  # tier, length of runs, contender


def run(effort: Effort) -> Report:
    """Export in every way under every tier, and in both orders."""
    outcomes: dict[Key, list[Outcome]] = {}
    for key in product(TIERS, LENGTHS, (OURS, AGAIN, BASELINE)):
        tier, length, name = key
        seeds = effort.seeds if key == WITH_GOAL else effort.seeds[:1]
        outcomes[key] = [
            _outcome(seed, name, tier, _durations(seed, effort.exports, *LENGTHS[length]))
            for seed in seeds
        ]
    orders = {
        (imodels, order): [_ordered(seed, order, imodels, effort.exports) for seed in effort.seeds]
        for imodels in effort.imodels
        for order in (GROUPED, SHUFFLED)
    }
    return _report(effort, outcomes, orders)


def least_makespan(durations: Sequence[float], windows: Mapping[float, int]) -> float:
    """Seconds that no client can undercut: the longest runs first, and no call too many.

    `windows` are the calls that may be made in any so many seconds.
    """
    longest = sorted(durations, reverse=True)
    needed = len(longest) * (BEFORE + AFTER)
    moments = _earliest_calls(needed, windows)
    ends = (moments[BEFORE * n + BEFORE - 1] + seconds for n, seconds in enumerate(longest))
    return max(*ends, moments[-1])


def _earliest_calls(calls: int, windows: Mapping[float, int]) -> list[float]:
    """The earliest moment of each call."""
    moments: list[float] = []
    for number in range(calls):
        full = [moments[number - most] + w for w, most in windows.items() if number >= most]
        moments.append(max(full, default=0.0))
    return moments


def _durations(seed: int, exports: int, typical: float, spread: float) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.lognormvariate(log(typical), spread) for _ in range(exports)]


def _outcome(seed: int, name: str, tier: str, durations: list[float]) -> Outcome:
    emulator = Emulator(seed=seed, tier=tier, token_lifetime=7 * DAY)
    imodel_ids = [emulator.add_imodel(f"Bridge {n}") for n in range(len(durations))]
    random.seed(seed)  # of the client's jitter

    async def batch(folder: Path) -> Outcome:
        for imodel_id, seconds in zip(imodel_ids, durations, strict=True):
            emulator.plan_next_run(imodel_id, duration=seconds)
        transport, token = _CountingTransport(emulator), emulator.token()
        start = asyncio.get_running_loop().time()
        if name == BASELINE:
            await export_all(transport, token, imodel_ids, folder)
        else:
            async with ExportClient(token, transport=transport, rate_limit=TIERS[tier]) as client:
                await _export_many(client, _requests(imodel_ids, folder), len(imodel_ids))
        seconds = asyncio.get_running_loop().time() - start
        return Outcome(
            seconds=seconds,
            calls=transport.calls,
            refused=transport.refused,
            bound=least_makespan(durations, WINDOWS[tier]),
        )

    async def batches(folder: Path) -> Outcome:
        outcome = await batch(folder)
        if name == AGAIN:
            await asyncio.sleep(DAY)
            outcome = await batch(folder)
        return outcome

    with TemporaryDirectory() as folder:
        return run_virtual(batches(Path(folder)))


def _ordered(seed: int, order: str, imodels: int, exports: int) -> float:
    """The makespan in seconds of some exports of each of several iModels, in this order."""
    each = max(exports // imodels, 2)
    durations = _durations(seed, imodels * each, *LENGTHS[SHORT])
    emulator = Emulator(seed=seed, token_lifetime=7 * DAY)
    imodel_ids = [emulator.add_imodel(f"Bridge {n}") for n in range(imodels)]
    for number, seconds in enumerate(durations):
        emulator.plan_next_run(imodel_ids[number // each], duration=seconds)
    random.seed(seed)  # of the client's jitter

    async def batch(folder: Path) -> float:
        requests = _requests([imodel_id for imodel_id in imodel_ids for _ in range(each)], folder)
        if order == SHUFFLED:
            random.Random(seed).shuffle(requests)
        start = asyncio.get_running_loop().time()
        async with ExportClient(
            emulator.token(), transport=emulator, rate_limit=RateLimit.STANDARD
        ) as client:
            await _export_many(client, requests, CONCURRENCY)
        return asyncio.get_running_loop().time() - start

    with TemporaryDirectory() as folder:
        return run_virtual(batch(Path(folder)))


def _requests(imodel_ids: Sequence[str], folder: Path) -> list[ExportRequest]:
    return [
        ExportRequest(imodel_id=imodel_id, destination=folder / f"{number}.ifc")
        for number, imodel_id in enumerate(imodel_ids)
    ]


async def _export_many(
    client: ExportClient, requests: list[ExportRequest], concurrency: int
) -> None:
    async for outcome in client.export_many(
        requests, concurrency=concurrency, authentication_type="Service"
    ):
        assert outcome.ok, outcome.error


@define
class _CountingTransport:
    """The emulator as a transport that counts the calls of the API, and those it refuses."""

    emulator: Emulator
    calls: int = 0
    refused: int = 0

    async def send(self, request: Request, /) -> Response:
        """Send a request, and count it."""
        self.calls += 1
        response = await self.emulator.send(request)
        self.refused += response.status == 429
        return response

    def stream(self, request: Request, /) -> AbstractAsyncContextManager[StreamedResponse]:
        """Stream from the blob store, which counts no calls."""
        return self.emulator.stream(request)

    async def close(self) -> None:
        """Nothing is open."""


def _report(
    effort: Effort,
    outcomes: Mapping[Key, list[Outcome]],
    orders: Mapping[tuple[int, str], list[float]],
) -> Report:
    ratios = {key: Quartiles.of(one.ratio for one in some) for key, some in outcomes.items()}
    order = {
        (imodels, name): Quartiles.of(
            one / shuffled for one, shuffled in zip(seconds, orders[imodels, SHUFFLED], strict=True)
        )
        for (imodels, name), seconds in orders.items()
    }
    return Report(
        name="batch",
        title=f"{effort.exports} exports at once, in virtual time",
        method=__doc__ or "",
        head=("", "tier", "runs of", "makespan s", "bound s", "ratio", "calls", "429s"),
        rows=(
            *(_row(key, some, ratios[key]) for key, some in outcomes.items()),
            *(
                (
                    f"{OURS}, {imodels} iModels, {name}",
                    "Standard",
                    SHORT,
                    format_number(median(seconds)),
                    "",
                    f"{order[imodels, name]} of shuffled",
                    "",
                    "",
                )
                for (imodels, name), seconds in orders.items()
            ),
        ),
        bounds=(
            "The bound is that of the rate limit's arithmetic and the durations of the runs: "
            f"{BEFORE} calls before each run and {AFTER} after it, the longest runs first. Short "
            "runs end sooner than the calls before them: there polls count.",
        ),
        goals=_goals(effort, outcomes, ratios, order[effort.imodels[0], GROUPED]),
        values={
            **{
                f"{', '.join(key)}, {what}": value
                for key, some in outcomes.items()
                for what, value in (
                    ("s", median(one.seconds for one in some)),
                    ("calls", median(one.calls for one in some)),
                    ("429s", median(one.refused for one in some)),
                )
            },
            **{f"{imodels} iModels, {name}, s": median(s) for (imodels, name), s in orders.items()},
        },
        figure=Figure(
            title="Makespan of a batch, relative to what no client can undercut (red: goal)",
            bars=tuple(
                Bar(
                    name=f"{LABELS[name]}, {tier}, {length}",
                    value=ratio.median,
                    label=f"{ratio.median:.2f}, "
                    f"{median(one.refused for one in outcomes[tier, length, name]):,.0f} refused",
                    goals=(LIMIT,) if (tier, length, name) == WITH_GOAL else (),
                    is_ours=name != BASELINE,
                )
                for (tier, length, name), ratio in ratios.items()
            ),
            ticks=(1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24),
        ),
        caption="Makespan of a batch under a rate limit",
    )


def _goals(
    effort: Effort,
    outcomes: Mapping[Key, list[Outcome]],
    ratios: Mapping[Key, Quartiles],
    order: Quartiles,
) -> tuple[Goal, ...]:
    community = ratios[WITH_GOAL]
    return (
        Goal(
            what=f"makespan of {effort.exports} exports of {LONG}, Community",
            limit=LIMIT,
            measured=community.median,
            quartiles=community,
            unit=" x the bound",
            in_readme=True,
        ),
        Goal(
            what="429s in all batches",
            limit=0,
            measured=sum(
                one.refused for key, some in outcomes.items() for one in some if key[2] != BASELINE
            ),
        ),
        Goal(
            what="makespan of a batch grouped by iModel",
            limit=ORDER_LIMIT,
            measured=order.median,
            quartiles=order,
            unit=" x the same, shuffled",
        ),
    )


def _row(key: Key, outcomes: Sequence[Outcome], ratio: Quartiles) -> tuple[str, ...]:
    tier, length, name = key
    return (
        name,
        tier,
        length,
        format_number(median(one.seconds for one in outcomes)),
        format_number(median(one.bound for one in outcomes)),
        str(ratio),
        f"{median(one.calls for one in outcomes):,.0f}",
        f"{median(one.refused for one in outcomes):,.0f}",
    )
