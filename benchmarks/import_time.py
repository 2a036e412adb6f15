"""Time of an import and of the start of the command line, and the size of the wheel.

Imports are timed in fresh interpreters, interleaved, as seconds of CPU of the import itself. Byte
code is compiled before. The package is imported as in a default install: optional packages that are
installed here, such as orjson and OpenTelemetry, are hidden from all contenders. The package loads
its client on first use, and a batch when the first export begins.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen

from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.report import Goal, Report, format_number
from benchmarks._support.svg import Bar, Figure

ROOT = Path(__file__).parents[1]
OURS, PARTS = "itwin_export_async", "aiohttp, attrs, cattrs, backoff"
USED = "ExportClient"
COMMAND = "itwin-export --help"
LIMIT = 1.4
HIDDEN = ("orjson", "opentelemetry")
CONTENDERS = {
    OURS: "import itwin_export_async",
    USED: "from itwin_export_async import ExportClient",
    PARTS: "import aiohttp, attrs, cattrs, backoff",
    "aiohttp": "import aiohttp",
    "azure-core over aiohttp": (
        "import azure.core.polling, azure.core.pipeline.transport._aiohttp"
    ),
    "httpx + pydantic": "import httpx, pydantic.main",
    "requests": "import requests",
    COMMAND: (
        "import contextlib, io\n"
        "from itwin_export_async.cli import main\n"
        "sys.argv = ['itwin-export', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main()"
    ),
}
PROGRAM = """
import sys, time
for name in {hidden}: sys.modules[name] = None
start, before = time.process_time(), len(sys.modules)
{statement}
print(time.process_time() - start, len(sys.modules) - before)
"""


@frozen(kw_only=True)
class Effort:
    """How many rounds there are, of which contenders: all, or at least the first three."""

    rounds: int
    contenders: tuple[str, ...] = tuple(CONTENDERS)


FULL = Effort(rounds=12)
QUICK = Effort(rounds=2)


def run(effort: Effort) -> Report:
    """Import everything, interleaved, and build the wheel."""
    samples, modules = Samples(), {}
    with TemporaryDirectory() as byte_code:
        for name in effort.contenders:
            modules[name] = _imported(name, byte_code)[1]  # and its byte code is there
        for name in rounds(effort.contenders, effort.rounds):
            samples.add(name, _imported(name, byte_code)[0] * 1e3)
    return _report(samples, modules, wheel_size(ROOT))


def wheel_size(root: Path) -> int:
    """Bytes of the wheel that is built from this folder."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
        subprocess.run(command, cwd=root, check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.stat().st_size


def _imported(name: str, byte_code: str) -> tuple[float, int]:
    """Seconds that an import takes in a new interpreter, and how many modules it loads."""
    program = PROGRAM.format(hidden=HIDDEN, statement=CONTENDERS[name])
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": byte_code}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    seconds, modules = done.stdout.split()
    return float(seconds), int(modules)


def _report(samples: Samples, modules: dict[str, int], size: int) -> Report:
    ratios = {name: samples.ratio(name, PARTS) for name in modules}
    return Report(
        name="import_time",
        title="Time of an import, in milliseconds of CPU, and relative to the dependencies",
        method=__doc__ or "",
        head=("import", "ms", "ratio", "modules"),
        rows=tuple(
            (name, format_number(samples.median(name)), str(ratio), f"{modules[name]:,}")
            for name, ratio in ratios.items()
        ),
        bounds=(
            "The client cannot take less than its dependencies do, all of which it needs. "
            f"The wheel has {size / 1024:.0f} KiB.",
        ),
        goals=(
            Goal(
                what="import of `ExportClient`",
                limit=LIMIT,
                measured=ratios[USED].median,
                quartiles=ratios[USED],
                unit=" x its four dependencies",
                in_readme=True,
            ),
        ),
        values={
            **{f"{name}, ms": samples.median(name) for name in modules},
            "wheel, bytes": size,
        },
        figure=Figure(
            title="Time of an import, relative to the four dependencies (red: goal)",
            bars=tuple(
                Bar(
                    name=name,
                    value=ratio.median,
                    label=f"{ratio.median:.2f}",
                    goals=(LIMIT,) if name == USED else (),
                    is_ours=name in (OURS, USED, COMMAND),
                )
                for name, ratio in ratios.items()
            ),
            ticks=(0.05, 0.1, 0.2, 0.5, 1, 2, 4),
        ),
        caption="Time of an import",
    )
