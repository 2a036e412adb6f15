"""`benchmarks/README.md`, and the rows of performance in the README, from the saved results."""

import inspect
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from attrs import asdict, frozen
from cattrs.preconf.json import make_converter

from benchmarks._support.machine import Machine
from benchmarks._support.report import GOALS_HEAD, README_HEAD, Report, markdown

BEGIN, END = "<!-- performance: begin -->", "<!-- performance: end -->"

_CONVERTER = make_converter()
_HEAD = """# Benchmarks

    python -m benchmarks            # all of them, about ten minutes on a machine at rest
    python -m benchmarks --quick    # a few seconds each, nothing is saved
    python -m benchmarks batch      # one of them
    python -m benchmarks --readme   # write this page from the saved results

They need the extra `bench`. Each figure is a ratio of interleaved measurements in one run, so that
background load affects all contenders alike, or comes from virtual time, where load has no effect.
A range in brackets is that of the quartiles. `benchmarks/results` has the unrounded figures.
This page is written by `python -m benchmarks`."""


@frozen(kw_only=True)
class Result:
    """A report, and the machine it was made on."""

    machine: Machine
    report: Report


def save(result: Result, folder: Path) -> None:
    """Write the JSON of a result, and its figure."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(asdict(result), indent=1) + "\n"
    (folder / f"{result.report.name}.json").write_text(text)
    if result.report.figure is not None:
        (folder / f"{result.report.name}.svg").write_text(result.report.figure.svg())


def load(folder: Path, names: Iterable[str]) -> list[Result]:
    """The saved results of these names, as far as there are any."""
    paths = (folder / f"{name}.json" for name in names)
    return [_CONVERTER.loads(path.read_text(), Result) for path in paths if path.exists()]


def benchmarks_page(results: Sequence[Result]) -> str:
    """The text of `benchmarks/README.md`."""
    goals = [goal for result in results for goal in result.report.goals]
    machines = dict.fromkeys(f"Measured on {result.machine}." for result in results)
    reasons = dict.fromkeys(
        f"- {goal.what}: {goal.reason}" for goal in goals if goal.reason and not goal.is_met
    )
    parts = [
        _HEAD,
        "## Goals",
        markdown(GOALS_HEAD, (goal.row() for goal in goals)),
        *(["Goals that are missed:", "\n".join(reasons)] if reasons else []),
        *machines,
        *(part for result in results for part in _sections(result.report)),
    ]
    return "\n\n".join(parts) + "\n"


def with_performance(readme: str, results: Sequence[Result]) -> str:
    """The text of the README with its rows of performance; unchanged without their markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return readme
    goals = [goal for result in results for goal in result.report.goals if goal.in_readme]
    rows = markdown(README_HEAD, (goal.readme_row() for goal in goals))
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


def _sections(report: Report) -> Iterator[str]:
    """The section of one benchmark."""
    yield f"## {report.title}"
    yield f"`python -m benchmarks {report.name}`. {inspect.cleandoc(report.method)}"
    if report.figure is not None:
        yield f"![{report.caption}](results/{report.name}.svg)"
    yield markdown(report.head, report.rows)
    yield " ".join(report.bounds)
