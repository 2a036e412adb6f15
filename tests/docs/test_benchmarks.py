"""The benchmarks measure what they say, whatever it comes to."""

import os
from itertools import combinations
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import batch, decoding, transfer
from benchmarks import concurrent_waits as following
from benchmarks import import_time as importing
from benchmarks import poll_schedule as polling
from benchmarks import request_cpu as poll
from benchmarks.__main__ import NAMES, main
from benchmarks._support.distributions import Floats, Load, best_looks, cheapest, likely
from benchmarks._support.interleave import Samples, rounds
from benchmarks._support.machine import this_machine
from benchmarks._support.readme import BEGIN, END, Result, keep, kept, renewed
from benchmarks._support.report import Goal, Report, markdown, shown, table
from benchmarks._support.svg import Bar, Figure
from benchmarks.batch import least_makespan
from tests.support.readme import README

SVG = "{http://www.w3.org/2000/svg}"

FIGURE = Figure(
    title="a < b",
    bars=(
        Bar(name="ours & all", value=2, worst=4, goals=(3,), is_ours=True),
        Bar(name="slow", value=1000, label="1,000"),
        Bar(name="fast", value=0.5),
    ),
    ticks=(0.25, 1, 16),
)
REPORT = Report(
    name="waiting",
    title="What waiting costs",
    bounds=("Nothing costs less than nothing.",),
    head=("", "s"),
    rows=(("ours", "1"), ("theirs", "12")),
    goals=(Goal(what="waits", limit=2, measured=1.5, unit=" s", possible=1),),
    values={"ours": 1.25},
    figure=FIGURE,
    caption="What waiting costs",
)


def test_each_round_has_all_once_and_begins_with_another() -> None:
    assert list(rounds("abc", 4)) == [*"abc", *"bca", *"cab", *"abc"]


def test_a_ratio_is_that_of_neighbours() -> None:
    samples = Samples()
    for one, other in ((1.0, 2.0), (30.0, 20.0), (400.0, 200.0)):  # a machine that grows slower
        samples.add("one", one)
        samples.add("other", other)
    assert samples.ratio("one", "other") == 1.5
    assert samples.typical("one") == 30.0


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal(what="", limit=2, measured=2), "met"),
        (Goal(what="", limit=2, measured=2.0001), "missed"),
        (Goal(what="", limit=2, measured=3, possible=1.9), "missed"),
        (Goal(what="", limit=2, measured=3, possible=2.1), "missed; nothing can meet it"),
        (Goal(what="", limit=2, measured=2, at_least=True), "met"),
        (Goal(what="", limit=2, measured=1, at_least=True, possible=3), "missed"),
        (
            Goal(what="", limit=2, measured=1, at_least=True, possible=1.5),
            "missed; nothing can meet it",
        ),
    ],
)
def test_a_goal_is_met_or_missed(goal: Goal, verdict: str) -> None:
    assert goal.verdict == verdict


def test_a_goal_says_what_was_wanted() -> None:
    goal = Goal(what="speed", limit=0.9, measured=1, unit=" x bare", at_least=True)
    assert goal.row() == ("speed", "at least 0.9 x bare", "1", "", "met")


def test_numbers_are_shown_as_exactly_as_they_need_to_be() -> None:
    numbers = (1.0004, 1.25, 12.34, 123.4, 12345.6, 0.0)
    assert [shown(number) for number in numbers] == ["1", "1.25", "12.3", "123", "12,346", "0"]


def test_tables_stand_in_columns() -> None:
    rows = [("a", "1"), ("bcd", "12")]
    assert table(("", "s"), rows) == "      s\na     1\nbcd  12"
    assert markdown(("", "s"), rows) == "|  | s |\n| --- | --- |\n| a | 1 |\n| bcd | 12 |"


def test_a_figure_is_svg_for_light_pages_and_dark_ones() -> None:
    svg = ElementTree.fromstring(FIGURE.svg())
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert texts == ["a < b", "0.25", "1", "16", "ours & all", "slow", "1,000", "fast"]
    (style,) = svg.iter(f"{SVG}style")
    assert "prefers-color-scheme: dark" in (style.text or "")


def test_bars_begin_at_the_origin_and_end_at_their_values() -> None:
    svg = ElementTree.fromstring(FIGURE.svg())
    ours, slow, fast = [bar for bar in svg.iter(f"{SVG}rect") if bar.get("class") != "paper"]
    x, width = ([float(bar.attrib[name]) for bar in (ours, slow, fast)] for name in ("x", "width"))
    assert x[0] == x[1] == FIGURE.x(1)
    assert x[0] + width[0] == pytest.approx(FIGURE.x(2), abs=0.2)
    assert x[1] + width[1] == pytest.approx(FIGURE.x(16), abs=0.2)  # no further than the axis
    assert (x[2], x[2] + width[2]) == pytest.approx((FIGURE.x(0.5), FIGURE.x(1)), abs=0.2)


@pytest.mark.parametrize("ticks", [(), (1,), (0, 1), (2, 1), (1, 1)])
def test_an_axis_rises(ticks: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ticks must be positive and rise"):
        Figure(title="", bars=(), ticks=ticks)


def test_a_result_that_was_kept_is_found_again(tmp_path: Path) -> None:
    result = Result(machine=this_machine(), report=REPORT)
    keep(result, tmp_path / "results")
    assert kept(tmp_path / "results", ("absent", "waiting")) == [result]
    assert (tmp_path / "results/waiting.svg").read_text() == FIGURE.svg()


def test_the_readme_is_renewed_between_its_comments() -> None:
    result = Result(machine=this_machine(), report=REPORT)
    text = renewed(f"before\n{BEGIN}\nold\n{END}\nafter\n", [result, result])
    assert text.startswith(f"before\n{BEGIN}\n| what | goal |")
    assert text.endswith(f"\n{END}\nafter\n")
    assert "| waits | at most 2 s | 1.5 | 1 | met |" in text
    assert "![What waiting costs](benchmarks/results/waiting.svg)" in text
    assert "| theirs | 12 |" in text
    assert "\n\nNothing costs less than nothing.\n\n" in text
    assert text.count(f"Measured on {result.machine}.") == 1
    assert "old" not in text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_a_readme_without_place_for_numbers_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="the README needs"):
        renewed(text, [])


def test_the_readme_has_a_place_for_the_numbers() -> None:
    assert renewed(README, [])


def test_the_machine_is_named() -> None:
    machine = this_machine()
    assert machine.cores > 0
    assert machine.packages["itwin-export-async"] in str(machine)
    assert "\n" not in str(machine)


@pytest.mark.parametrize(
    ("durations", "windows", "least"),
    [
        ([10, 20], {}, 20),  # no limit: the longest run
        ([10, 20], {60: 8}, 20),  # room for all calls at once
        ([10, 20], {60: 4}, 60),  # the last four calls come a minute later
        ([10, 100], {60: 2}, 180),  # its last call is the eighth
        ([500, 500], {60: 2}, 560),  # the second starts a minute later
        ([10, 500], {60: 2}, 500),  # but it would be the short one
        ([1] * 3, {60: 4, 3600: 4}, 7200),  # all windows hold
    ],
)
def test_no_batch_is_shorter_than_its_bound(
    durations: list[float], windows: dict[float, int], least: float
) -> None:
    assert least_makespan(durations, windows) == least


def cost_of(looks: Floats, grid: Floats, gone: Floats, poll_cost: float) -> float:
    """Of runs that end halfway between two times of the grid."""
    ends, share = (grid[1:] + grid[:-1]) / 2, np.diff(gone)
    seen_by = np.searchsorted(looks, ends)
    return float((share * (poll_cost * (seen_by + 1) + looks[seen_by] - ends)).sum())


@given(
    st.lists(st.floats(0.1, 10), min_size=7, max_size=7),
    st.lists(st.floats(0.01, 1), min_size=7, max_size=7),
    st.floats(0.1, 10),
    st.floats(10.5, 40),
)
def test_no_other_looks_cost_less(
    steps: list[float], shares: list[float], poll_cost: float, longest: float
) -> None:
    grid = np.cumsum([0.0, *steps])
    gone = np.cumsum([0.0, *shares]) / sum(shares)
    looks = cheapest(grid, gone, poll_cost, longest)
    all_looks = (
        np.array([*some, grid[-1]])
        for count in range(len(grid))
        for some in combinations(grid[1:-1], count)
    )
    least = min(
        cost_of(others, grid, gone, poll_cost)
        for others in all_looks
        if max(np.diff(others, prepend=0.0)) <= longest
    )
    assert cost_of(looks, grid, gone, poll_cost) == pytest.approx(least)


def test_who_may_look_at_any_time_loses_nothing_by_a_limit_that_is_long() -> None:
    load = Load("lognormal 0.1", 120.0)
    assert np.array_equal(best_looks(load, 3.0, 1e6), best_looks(load, 3.0))


def test_looks_are_no_further_apart_than_allowed() -> None:
    looks = best_looks(Load("lognormal 0.1", 7200.0), 3.0, 900.0)
    assert max(np.diff(looks, prepend=0.0)) <= 900.0


NEAR, FAR = Load("lognormal 0.3", 100.0), Load("lognormal 0.3", 7200.0)


@given(st.lists(st.floats(50, 200), min_size=5, max_size=5))
def test_what_was_seen_tells_loads_apart(seen: list[float]) -> None:
    assert likely([NEAR, FAR], np.array(seen)) == {NEAR: 1.0}


def test_without_a_run_seen_all_loads_are_equal() -> None:
    loads = [Load("delayed", 20.0), Load("Weibull 1", 120.0)]
    assert likely(loads, np.array([])) == dict.fromkeys(loads, 1.0)


@pytest.fixture
def miniature(integration: None, benchmark: None, pytestconfig: pytest.Config) -> None:
    """Benchmarks in miniature are for CI, and for `-m benchmark`."""
    if os.environ.get("CI") != "true" and "benchmark" not in pytestconfig.option.markexpr:
        pytest.skip("benchmarks run where CI is true, and by -m benchmark")


TINY: dict[ModuleType, Any] = {
    batch: batch.Effort(exports=3),
    decoding: decoding.Effort(tasks=(1, 2), rounds=1, turn=2),
    following: following.Effort(numbers=(2,), settled=0.05, warm=0.05, seconds=0.05),
    importing: importing.Effort(
        rounds=1, contenders=(importing.OURS, importing.USED, importing.PARTS)
    ),
    poll: poll.Effort(processes=1, rounds=1, polls={1: 2, 2: 1}),
    polling: polling.Effort(
        shapes=("lognormal 0.1", "delayed"),
        medians=(20.0,),
        histories={0: 1, 5: 1, 50: 1},
        bound_histories=1,
        between=2,
    ),
    transfer: transfer.Effort(in_memory=(1,), on_disk=(1,), rounds=1, large=1),
}


@pytest.mark.usefixtures("miniature")
@pytest.mark.parametrize("name", NAMES)
def test_each_benchmark_comes_to_a_report(name: str, tmp_path: Path) -> None:
    (benchmark,) = (module for module in TINY if module.__name__ == f"benchmarks.{name}")
    report: Report = benchmark.run(TINY[benchmark])
    assert report.name == name
    assert report.bounds
    assert all(0 <= value < inf for value in report.values.values())
    assert {len(row) for row in report.rows} == {len(report.head)}
    result = Result(machine=this_machine(), report=report)
    keep(result, tmp_path)
    assert kept(tmp_path, NAMES) == [result]


@pytest.mark.usefixtures("miniature")
def test_batches_are_never_faster_than_their_bound() -> None:
    report = batch.run(batch.Effort(exports=3))
    ratio = report.head.index("ratio")
    assert [row[0] for row in report.rows] == [batch.OURS, batch.AGAIN, batch.NAIVE] * 4
    assert all(float(row[ratio]) >= 1 for row in report.rows)


@pytest.mark.usefixtures("miniature")
def test_the_second_batch_finds_the_connections_of_the_first() -> None:
    calls = {row[0]: int(row[-2]) for row in batch.run(batch.Effort(exports=3)).rows}
    assert calls[batch.AGAIN] < calls[batch.OURS]


@pytest.mark.usefixtures("miniature")
def test_the_command_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "decoding"])
    machine, title, *lines = filter(None, capsys.readouterr().out.splitlines())
    assert machine == str(this_machine())
    assert title == "CPU of decoding an answer, in microseconds, and relative to json.loads"
    assert any(line.startswith("json.loads ") for line in lines)


def test_what_is_no_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "no benchmark nonsense, only poll, following" in capsys.readouterr().err
