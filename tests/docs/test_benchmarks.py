"""The benchmarks measure what their names say, in miniature, and write their pages."""

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

from benchmarks import (
    batch,
    concurrent_waits,
    decoding,
    import_time,
    large_batch,
    notice_lag,
    poll_schedule,
    request_cpu,
    shared_limit,
    sse_visitors,
    transfer,
    unchanged_itwin,
)
from benchmarks.__main__ import NAMES, RESULTS, ROOT, main
from benchmarks._support.distributions import (
    Floats,
    Load,
    cheapest_polls,
    optimal_polls,
    posterior,
)
from benchmarks._support.interleave import Quartiles, Samples, rounds
from benchmarks._support.machine import this_machine
from benchmarks._support.readme import (
    BEGIN,
    END,
    Result,
    benchmarks_page,
    load,
    save,
    with_performance,
)
from benchmarks._support.report import Goal, Report, format_number, markdown, table
from benchmarks._support.schedule_score import exponential_polls, polls_of
from benchmarks._support.svg import Bar, Figure
from benchmarks.batch import least_makespan
from itwin_export_async import ExponentialSchedule, FixedSchedule

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
    method="How long\nwaits take.",
    bounds=("Nothing costs less than nothing.",),
    head=("", "s"),
    rows=(("ours", "1"), ("theirs", "12")),
    goals=(
        Goal(what="waits", limit=2, measured=1.5, unit=" s", possible=1, in_readme=True),
        Goal(what="long waits", limit=2, measured=3, reason="they are long"),
        Goal(what="short waits", limit=2, measured=1, reason="they are short"),
    ),
    values={"ours": 1.25},
    figure=FIGURE,
    caption="What waiting costs",
)


def test_round_has_each_name_once_and_begins_with_another() -> None:
    assert list(rounds("abc", 4)) == [*"abc", *"bca", *"cab", *"abc"]


def test_ratio_compares_measurements_of_one_round() -> None:
    samples = Samples()
    for one, other in ((1.0, 2.0), (30.0, 20.0), (400.0, 200.0)):  # a machine that grows slower
        samples.add("one", one)
        samples.add("other", other)
    assert samples.ratio("one", "other") == Quartiles(1.0, 1.5, 1.75)
    assert samples.median("one") == 30.0


def test_quartiles_of_one_value_are_that_value() -> None:
    assert Quartiles.of([2.0]) == Quartiles(2.0, 2.0, 2.0)
    assert str(Quartiles(1.0, 1.5, 1.75)) == "1.50 (1.00 to 1.75)"


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal(what="", limit=2, measured=2), "met"),
        (Goal(what="", limit=2, measured=2.0001), "missed"),
        (Goal(what="", limit=2, measured=3, possible=1.9), "missed"),
        (Goal(what="", limit=2, measured=3, possible=2.1), "missed; not possible"),
        (Goal(what="", limit=2, measured=2, at_least=True), "met"),
        (Goal(what="", limit=2, measured=1, at_least=True, possible=3), "missed"),
        (
            Goal(what="", limit=2, measured=1, at_least=True, possible=1.5),
            "missed; not possible",
        ),
    ],
)
def test_goal_is_met_or_missed(goal: Goal, verdict: str) -> None:
    assert goal.verdict == verdict


def test_goal_row_has_its_limit_and_the_measurement() -> None:
    goal = Goal(what="speed", limit=0.9, measured=1, unit=" x bare", at_least=True)
    assert goal.row() == ("speed", "at least 0.9 x bare", "1", "", "met")
    assert goal.readme_row() == ("speed", "at least 0.9 x bare", "1", "met")
    spread = Goal(what="", limit=2000, measured=1, quartiles=Quartiles(0.5, 1.0, 1.5))
    assert spread.row() == ("", "at most 2,000", "1 (0.5 to 1.5)", "", "met")


def test_numbers_have_as_many_digits_as_they_need() -> None:
    numbers = (1.0004, 1.25, 12.34, 123.4, 12345.6, 0.0)
    assert [format_number(number) for number in numbers] == [
        *("1", "1.25", "12.3", "123", "12,346", "0")
    ]


def test_tables_have_columns() -> None:
    rows = [("a", "1"), ("bcd", "12")]
    assert table(("", "s"), rows) == "      s\na     1\nbcd  12"
    assert markdown(("", "s"), rows) == "|  | s |\n| --- | --- |\n| a | 1 |\n| bcd | 12 |"


def test_figure_is_svg_for_light_and_dark_pages() -> None:
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
def test_axis_must_rise(ticks: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ticks must be positive and rise"):
        Figure(title="", bars=(), ticks=ticks)


def test_saved_result_is_loaded_again(tmp_path: Path) -> None:
    result = Result(machine=this_machine(), report=REPORT)
    save(result, tmp_path / "results")
    assert load(tmp_path / "results", ("absent", "waiting")) == [result]
    assert (tmp_path / "results/waiting.svg").read_text() == FIGURE.svg()


def test_page_has_goals_figures_and_tables() -> None:
    result = Result(machine=this_machine(), report=REPORT)
    text = benchmarks_page([result, result])
    assert "| waits | at most 2 s | 1.5 | 1 | met |" in text
    assert "- long waits: they are long" in text
    assert "they are short" not in text
    assert "![What waiting costs](results/waiting.svg)" in text
    assert "`python -m benchmarks waiting`. How long\nwaits take." in text
    assert "| theirs | 12 |" in text
    assert "\n\nNothing costs less than nothing.\n" in text
    assert text.count(f"Measured on {result.machine}.") == 1


def test_performance_rows_stand_between_their_markers() -> None:
    result = Result(machine=this_machine(), report=REPORT)
    text = with_performance(f"before\n{BEGIN}\nold\n{END}\nafter\n", [result])
    row = "| waits | at most 2 s | 1.5 | met |"
    head = "| what | goal | measured | verdict |\n| --- | --- | --- | --- |"
    assert text == f"before\n{BEGIN}\n{head}\n{row}\n{END}\nafter\n"


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}"])
def test_readme_without_both_markers_is_unchanged(text: str) -> None:
    assert with_performance(text, []) == text


def test_pages_are_those_of_the_saved_results() -> None:
    results = load(RESULTS, NAMES)
    assert [result.report.name for result in results] == [*NAMES]
    assert (ROOT / "benchmarks/README.md").read_text() == benchmarks_page(results)
    readme = (ROOT / "README.md").read_text()
    assert with_performance(readme, results) == readme


def test_machine_is_described_in_one_line() -> None:
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
def test_makespan_has_a_lower_bound(
    durations: list[float], windows: dict[float, int], least: float
) -> None:
    assert least_makespan(durations, windows) == least


def cost_of(polls: Floats, grid: Floats, cdf: Floats, poll_cost: float) -> float:
    """The cost of runs that end halfway between two times of the grid."""
    ends, share = (grid[1:] + grid[:-1]) / 2, np.diff(cdf)
    noticed_by = np.searchsorted(polls, ends)
    return float((share * (poll_cost * (noticed_by + 1) + polls[noticed_by] - ends)).sum())


@given(
    st.lists(st.floats(0.1, 10), min_size=7, max_size=7),
    st.lists(st.floats(0.01, 1), min_size=7, max_size=7),
    st.floats(0.1, 10),
    st.floats(10.5, 40),
)
def test_no_other_polls_cost_less(
    steps: list[float], shares: list[float], poll_cost: float, max_interval: float
) -> None:
    grid = np.cumsum([0.0, *steps])
    cdf = np.cumsum([0.0, *shares]) / sum(shares)
    polls = cheapest_polls(grid, cdf, poll_cost, max_interval)
    all_polls = (
        np.array([*some, grid[-1]])
        for count in range(len(grid))
        for some in combinations(grid[1:-1], count)
    )
    least = min(
        cost_of(others, grid, cdf, poll_cost)
        for others in all_polls
        if max(np.diff(others, prepend=0.0)) <= max_interval
    )
    assert cost_of(polls, grid, cdf, poll_cost) == pytest.approx(least)


def test_longest_interval_beyond_all_runs_changes_no_poll() -> None:
    load_ = Load("lognormal 0.1", 120.0)
    assert np.array_equal(optimal_polls(load_, 3.0, 1e6), optimal_polls(load_, 3.0))


def test_polls_are_within_the_longest_interval() -> None:
    polls = optimal_polls(Load("lognormal 0.1", 7200.0), 3.0, 900.0)
    assert max(np.diff(polls, prepend=0.0)) <= 900.0


def test_computed_intervals_are_those_of_the_schedules() -> None:
    growing = polls_of(ExponentialSchedule(initial=1, factor=1.3, maximum=20), 300.0)
    computed = exponential_polls(1.0, 1.3, 20.0, 300.0)
    assert computed[: len(growing)] == pytest.approx(growing)
    fixed = exponential_polls(5.0, 1.0, 900.0, 300.0)
    assert fixed[:60] == pytest.approx(polls_of(FixedSchedule(5), 300.0))


NEAR, FAR = Load("lognormal 0.3", 100.0), Load("lognormal 0.3", 7200.0)


@given(st.lists(st.floats(50, 200), min_size=5, max_size=5))
def test_posterior_excludes_a_distant_load(history: list[float]) -> None:
    assert posterior([NEAR, FAR], np.array(history)) == {NEAR: 1.0}


def test_posterior_without_earlier_runs_is_even() -> None:
    loads = [Load("delayed", 20.0), Load("Weibull 1", 120.0)]
    assert posterior(loads, np.array([])) == dict.fromkeys(loads, 1.0)


@pytest.fixture
def miniature(integration: None, benchmark: None, pytestconfig: pytest.Config) -> None:
    """Benchmarks in miniature are for CI, and for `-m benchmark`."""
    if os.environ.get("CI") != "true" and "benchmark" not in pytestconfig.option.markexpr:
        pytest.skip("benchmarks run where CI is true, and by -m benchmark")


TINY: dict[ModuleType, Any] = {
    batch: batch.Effort(exports=3, imodels=(1, 2), seeds=(1,)),
    concurrent_waits: concurrent_waits.Effort(numbers=(2,), settled=0.05, warm=0.05, seconds=0.05),
    decoding: decoding.Effort(tasks=(1, 2), rounds=1, turn=2),
    import_time: import_time.Effort(
        rounds=1, contenders=(import_time.OURS, import_time.USED, import_time.PARTS)
    ),
    large_batch: large_batch.Effort(exports=3),
    notice_lag: notice_lag.Effort(runs=1),
    poll_schedule: poll_schedule.Effort(
        shapes=("lognormal 0.1", "delayed"),
        medians=(20.0,),
        histories={0: 1, 5: 1, 50: 1},
        bound_histories=1,
        between=2,
        intervals=4,
    ),
    request_cpu: request_cpu.Effort(
        processes=1,
        rounds=1,
        polls={1: 2, 2: 1},
        environments=(request_cpu.DEFAULT, request_cpu.TLS),
    ),
    shared_limit: shared_limit.Effort(rounds=1, calls=50),
    sse_visitors: sse_visitors.Effort(visitors=2, warm=0.1, seconds=0.1, heartbeat=0.05),
    transfer: transfer.Effort(
        in_memory=(1,), on_disk=(1,), upload=1, rounds=1, first_bytes=1, large=1
    ),
    unchanged_itwin: unchanged_itwin.Effort(imodels=3, changed=1),
}


@pytest.mark.usefixtures("miniature")
@pytest.mark.parametrize("name", NAMES)
def test_benchmark_returns_a_report(name: str, tmp_path: Path) -> None:
    (benchmark,) = (module for module in TINY if module.__name__ == f"benchmarks.{name}")
    report: Report = benchmark.run(TINY[benchmark])
    assert report.name == name
    assert report.bounds
    assert report.method
    assert all(0 <= value < inf for value in report.values.values())
    assert {len(row) for row in report.rows} <= {len(report.head)}
    result = Result(machine=this_machine(), report=report)
    save(result, tmp_path)
    assert load(tmp_path, NAMES) == [result]


@pytest.mark.usefixtures("miniature")
def test_batch_is_never_faster_than_its_bound() -> None:
    report = batch.run(batch.Effort(exports=3, imodels=(1, 2), seeds=(1,)))
    rows = report.rows[:-4]  # the last ones are of orders
    assert [row[0] for row in rows] == [batch.OURS, batch.AGAIN, batch.BASELINE] * 4
    ratio = report.head.index("ratio")
    assert all(float(row[ratio].split()[0]) >= 1 for row in rows)


@pytest.mark.usefixtures("miniature")
def test_unchanged_itwin_needs_few_calls() -> None:
    (goal,) = unchanged_itwin.run(unchanged_itwin.Effort(imodels=3, changed=1)).goals
    assert goal.is_met


@pytest.mark.usefixtures("miniature")
def test_command_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick", "decoding"])
    machine, title, *lines = filter(None, capsys.readouterr().out.splitlines())
    assert machine == str(this_machine())
    assert title == "CPU of decoding a response, in microseconds, and relative to json.loads"
    assert any(line.startswith("json.loads ") for line in lines)


def test_unknown_benchmark_is_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "unknown benchmark nonsense; use request_cpu, concurrent" in capsys.readouterr().err
