"""Measure, print, and keep what was found.

Prints a table for each benchmark and what bounds it, then the goals; writes JSON and SVG files into
`benchmarks/results/`. A run of all benchmarks renews the numbers in the README.
"""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path

from benchmarks._support.machine import this_machine
from benchmarks._support.readme import Result, keep, kept, renewed
from benchmarks._support.report import GOALS_HEAD, Report, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
NAMES = ("poll", "following", "polling", "batch", "transfer", "importing", "decoding")


def main(words: Sequence[str] | None = None) -> None:
    """Do what the command line asks for."""
    asked = _parsed(words)
    if asked.readme:
        _renew_readme()
        return
    machine = this_machine()
    print(machine, end="\n\n")
    reports = []
    for name in asked.names or NAMES:
        report = measured(name, quick=asked.quick)
        print(report, flush=True)
        reports.append(report)
        if not asked.quick:
            keep(Result(machine=machine, report=report), RESULTS)
    goals = [goal.row() for report in reports for goal in report.goals]
    print("Goals", "", table(GOALS_HEAD, goals), sep="\n")
    if not asked.quick and not asked.names:
        _renew_readme()


def measured(name: str, *, quick: bool) -> Report:
    """What one benchmark finds. Loaded only now: a new process of another would load it as well."""
    benchmark = importlib.import_module(f"benchmarks.{name}")
    report: Report = benchmark.run(benchmark.QUICK if quick else benchmark.FULL)
    return report


def _parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all without: {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="a few seconds each, nothing kept")
    parser.add_argument(
        "--readme", action="store_true", help="renew the README from what was kept, measure nothing"
    )
    asked = parser.parse_args(words)
    if unknown := [name for name in asked.names if name not in NAMES]:
        parser.error(f"no benchmark {unknown[0]}, only {', '.join(NAMES)}")
    return asked


def _renew_readme() -> None:
    path = ROOT / "README.md"
    path.write_text(renewed(path.read_text(), kept(RESULTS, NAMES)))


if __name__ == "__main__":
    main()
