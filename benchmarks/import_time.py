"""How long an import takes, in fresh interpreters by turns, and how large the wheel is.

The package loads its client when that is first used: both are told.

Seconds are of CPU, and only those of the import itself; byte code is compiled before.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen

from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.report import Goal, Report, shown
from benchmarks._support.svg import Bar, Figure

ROOT = Path(__file__).parents[1]
OURS, PARTS = "itwin_export_async", "aiohttp, attrs, cattrs, backoff"
USED = "itwin_export_async with its ExportClient"
CONTENDERS = {
    OURS: "itwin_export_async",
    USED: "itwin_export_async; itwin_export_async.ExportClient",
    PARTS: "aiohttp, attrs, cattrs, backoff",
    "aiohttp": "aiohttp",
    "azure-core over aiohttp": "azure.core.polling, azure.core.pipeline.transport._aiohttp",
    "httpx + pydantic": "httpx, pydantic.main",
    "requests": "requests",
}
PROGRAM = """
import sys, time
began, before = time.process_time(), len(sys.modules)
import {names}
print(time.process_time() - began, len(sys.modules) - before)
"""


@frozen(kw_only=True)
class Effort:
    """How many rounds there are, of what imports: all, or at least the first three."""

    rounds: int
    contenders: tuple[str, ...] = tuple(CONTENDERS)


FULL = Effort(rounds=12)
QUICK = Effort(rounds=2)


def run(effort: Effort) -> Report:
    """Import everything by turns, and build the wheel."""
    samples, modules = Samples(), {}
    for name in effort.contenders:
        modules[name] = _imported(name)[1]  # and its byte code is there
    for name in rounds(effort.contenders, effort.rounds):
        samples.add(name, _imported(name)[0] * 1e3)
    return _report(samples, modules, wheel_size(ROOT))


def wheel_size(root: Path) -> int:
    """Bytes of the wheel that is built from this folder."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.stat().st_size


def _imported(name: str) -> tuple[float, int]:
    """Seconds that an import takes in a new interpreter, and how many modules it loads."""
    program = PROGRAM.format(names=CONTENDERS[name])
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    seconds, modules = told.split()
    return float(seconds), int(modules)


def _report(samples: Samples, modules: dict[str, int], size: int) -> Report:
    ratios = {name: samples.ratio(name, PARTS) for name in modules}
    return Report(
        name="importing",
        title="Time of an import, in milliseconds of CPU, and relative to our dependencies",
        head=("import", "ms", "ratio", "modules"),
        rows=tuple(
            (name, shown(samples.typical(name)), f"{ratio:.2f}", f"{modules[name]:,}")
            for name, ratio in ratios.items()
        ),
        bounds=(
            "The client cannot take less than its dependencies do, which it needs all. "
            f"The wheel has {size / 1024:.0f} KiB.",
        ),
        goals=(
            Goal(
                what="time of the import",
                limit=1.15,
                measured=ratios[OURS],
                unit=" x its four dependencies",
            ),
        ),
        values={
            **{f"{name}, ms": samples.typical(name) for name in modules},
            "wheel, bytes": size,
        },
        figure=Figure(
            title="Time of an import, relative to our four dependencies (red: goal)",
            bars=tuple(
                Bar(
                    name=name,
                    value=ratio,
                    label=f"{ratio:.2f}",
                    goals=(1.15,) if name == OURS else (),
                    is_ours=name in (OURS, USED),
                )
                for name, ratio in ratios.items()
            ),
            ticks=(0.05, 0.1, 0.2, 0.5, 1, 2),
        ),
        caption="How long an import takes",
    )
