"""Measure, print, and save the results.

Prints a table for each benchmark and its bounds, then the goals. Saves JSON and SVG files in
`benchmarks/results/`, and writes `benchmarks/README.md`; a run of all benchmarks also renews the
rows of performance in the README.
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks._support.machine import this_machine
from benchmarks._support.readme import Result, benchmarks_page, load, save, with_performance
from benchmarks._support.report import GOALS_HEAD, Report, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
NAMES = (
    "request_cpu",
    "concurrent_waits",
    "notice_lag",
    "poll_schedule",
    "batch",
    "unchanged_itwin",
    "large_batch",
    "sse_visitors",
    "transfer",
    "shared_limit",
    "import_time",
    "decoding",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _parse(arguments)
    if options.readme:
        _write_pages()
        return
    machine = this_machine()
    print(machine, end="\n\n")
    reports = []
    for name in options.names or NAMES:
        report = measure(name, quick=options.quick)
        print(report, flush=True)
        reports.append(report)
        if not options.quick:
            save(Result(machine=machine, report=report), RESULTS)
    goals = [goal.row() for report in reports for goal in report.goals]
    print("Goals", "", table(GOALS_HEAD, goals), sep="\n")
    if not options.quick:
        _write_pages()


def measure(name: str, *, quick: bool) -> Report:
    """Run one benchmark. Its module is loaded only now, so that no other process loads it."""
    benchmark = importlib.import_module(f"benchmarks.{name}")
    report: Report = benchmark.run(benchmark.QUICK if quick else benchmark.FULL)
    return report


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="a few seconds each, nothing is saved")
    parser.add_argument(
        "--readme", action="store_true", help="write the pages from the saved results, and exit"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"unknown benchmark {unknown[0]}; use {', '.join(NAMES)}")
    return options


def _write_pages() -> None:
    """Write `benchmarks/README.md`, and the rows of performance between their markers."""
    results = load(RESULTS, NAMES)
    (ROOT / "benchmarks/README.md").write_text(benchmarks_page(results))
    readme = ROOT / "README.md"
    readme.write_text(with_performance(readme.read_text(), results))


if __name__ == "__main__":
    main()
