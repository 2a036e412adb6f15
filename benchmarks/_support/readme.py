"""The part of the README that tells the numbers, written from the results."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import asdict, frozen
from cattrs.preconf.json import make_converter

from benchmarks._support.machine import Machine
from benchmarks._support.report import GOALS_HEAD, Report, markdown

BEGIN, END = "<!-- numbers: begin -->", "<!-- numbers: end -->"

_CONVERTER = make_converter()


@frozen(kw_only=True)
class Result:
    """A report, and where it was made."""

    machine: Machine
    report: Report


def keep(result: Result, folder: Path) -> None:
    """Write the JSON of a result, and its figure."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(asdict(result), indent=1) + "\n"
    (folder / f"{result.report.name}.json").write_text(text)
    if result.report.figure is not None:
        (folder / f"{result.report.name}.svg").write_text(result.report.figure.svg())


def kept(folder: Path, names: Iterable[str]) -> list[Result]:
    """The results of these names that there are."""
    paths = (folder / f"{name}.json" for name in names)
    return [_CONVERTER.loads(path.read_text(), Result) for path in paths if path.exists()]


def renewed(readme: str, results: Iterable[Result]) -> str:
    """The text of the README with its numbers from these results.

    `ValueError` without the two comments that they stand between.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{numbers(list(results))}\n{END}{after}"


def numbers(results: list[Result]) -> str:
    """The goals, where and when they were measured, and the figures and tables."""
    goals = [goal.row() for result in results for goal in result.report.goals]
    machines = dict.fromkeys(f"Measured on {result.machine}." for result in results)
    parts = [part for result in results for part in _parts(result.report)]
    return "\n\n".join([markdown(GOALS_HEAD, goals), *machines, *parts])


def _parts(report: Report) -> Iterator[str]:
    """Its figure, and its table to be opened."""
    if report.figure is not None:
        yield f"![{report.caption}](benchmarks/results/{report.name}.svg)"
    yield f"<details><summary>{report.title}</summary>"
    yield markdown(report.head, report.rows)
    yield " ".join(report.bounds)
    yield "</details>"
