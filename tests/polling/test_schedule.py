"""Properties of schedules, forecasts and plans."""

from itertools import accumulate, pairwise
from math import erf, exp, inf, isfinite, log, nan, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itwin_export_async._models import ExecutionState
from itwin_export_async._polling.forecast import MAX_RUNS, Forecast, forecast
from itwin_export_async._polling.poll_plan import optimal_plan, solve
from itwin_export_async._polling.schedule import (
    AdaptiveSchedule,
    ExponentialSchedule,
    FixedSchedule,
    PollContext,
    PollSchedule,
)

ages = st.floats(0, 1e6)
pressures = st.floats(1, 1000)
schedules = st.builds(
    AdaptiveSchedule,
    poll_cost=st.floats(0.01, 1000),
    minimum=st.floats(0, 10),
    maximum=st.floats(10, 10_000),
)
anything = st.floats(allow_nan=True, allow_infinity=True)
states = st.sampled_from([None, *ExecutionState, ExecutionState("Paused")])
histories = st.lists(st.floats(0.1, 1e6), min_size=1, max_size=12).map(tuple)
BOUNDLESS = AdaptiveSchedule(poll_cost=3.0, minimum=0.0, maximum=1e9)
ALIKE = (560.0, 590.0, 600.0, 610.0, 645.0)
TWO_KINDS = (55.0, 58.0, 60.0, 62.0, 66.0, 1700.0, 1750.0, 1800.0, 1850.0, 1900.0)


def context(
    age: float,
    *,
    polls: int = 0,
    state: ExecutionState | None = ExecutionState.EXECUTING,
    since_change: float | None = None,
    history: tuple[float, ...] = (),
    pressure: float = 1.0,
) -> PollContext:
    return PollContext(
        age=age,
        polls=polls,
        state=state,
        since_change=age if since_change is None else since_change,
        history=history,
        pressure=pressure,
    )


def polls_until(
    end: float,
    schedule: PollSchedule,
    *,
    history: tuple[float, ...] = (),
    pressure: float = 1.0,
) -> list[float]:
    """The ages at which a run is polled, the start first."""
    ages = [0.0]
    while ages[-1] < end:
        seen = context(ages[-1], polls=len(ages), history=history, pressure=pressure)
        ages.append(ages[-1] + schedule.next_wait(seen))
    return ages


def test_polls_of_an_unknown_run_stand_between_the_squares() -> None:
    ages = polls_until(3000.0, BOUNDLESS)
    for number, age in enumerate(ages):
        assert age == pytest.approx(number * (number + 1) * 2.5)


@pytest.mark.parametrize("end", [20.0, 420.0, 7200.0])
def test_cost_of_an_unknown_run_is_the_same_share_at_any_scale(end: float) -> None:
    polls = polls_until(3 * end, BOUNDLESS)
    ends = [end * 2 ** (part / 500 - 1) for part in range(1000)]  # one may be just hit or missed
    costs = []
    for age in ends:
        number = next(k for k, poll in enumerate(polls) if poll >= age)
        costs.append((3.0 * number + polls[number] - age) / sqrt(3.0 * age))
    assert sum(costs) / len(costs) == pytest.approx(2.0, rel=0.06)


@given(st.floats(0.1, 100), st.floats(1, 100))
def test_interval_scales_with_the_cost_of_a_poll(cost: float, factor: float) -> None:
    cheap = AdaptiveSchedule(poll_cost=cost, minimum=0.0, maximum=1e12)
    costly = AdaptiveSchedule(poll_cost=cost * factor, minimum=0.0, maximum=1e12)
    age = 50.0 * cost
    assert costly.next_wait(context(age * factor)) == pytest.approx(
        factor * cheap.next_wait(context(age)), rel=1e-6
    )


@given(schedules, ages, pressures)
def test_interval_keeps_its_bounds_under_any_pressure(
    schedule: AdaptiveSchedule, age: float, pressure: float
) -> None:
    wait = schedule.next_wait(context(age, pressure=pressure))
    assert schedule.minimum <= wait <= schedule.maximum


@given(
    schedules,
    st.builds(
        PollContext,
        age=anything,
        polls=st.integers(0, 10**9),
        state=states,
        since_change=anything,
        history=st.lists(anything, max_size=8).map(tuple),
        pressure=anything,
    ),
)
@settings(deadline=None)
def test_interval_keeps_its_bounds_in_any_context(
    schedule: AdaptiveSchedule, seen: PollContext
) -> None:
    wait = schedule.next_wait(seen)
    assert isfinite(wait)
    assert schedule.minimum <= wait <= schedule.maximum


@given(schedules, ages, ages)
def test_interval_does_not_shrink_with_age(
    schedule: AdaptiveSchedule, one: float, other: float
) -> None:
    young, old = sorted([one, other])
    slack = 1e-6 * (1 + old)
    assert schedule.next_wait(context(young)) <= schedule.next_wait(context(old)) + slack


@given(schedules, ages, pressures, pressures)
def test_interval_of_an_unknown_run_does_not_shrink_under_pressure(
    schedule: AdaptiveSchedule, age: float, one: float, other: float
) -> None:
    less, more = sorted([one, other])
    slack = 1e-6 * (1 + age)
    assert schedule.next_wait(context(age, pressure=less)) <= (
        schedule.next_wait(context(age, pressure=more)) + slack
    )


@pytest.mark.parametrize("pressure", [2.0, 4.0])
def test_pressure_divides_the_number_of_polls(pressure: float) -> None:
    schedule = AdaptiveSchedule(minimum=0.0, maximum=1e9)
    free = len(polls_until(100_000.0, schedule))
    pressed = len(polls_until(100_000.0, schedule, pressure=pressure))
    assert pressed == pytest.approx(free / pressure, rel=0.05)


@given(schedules)
def test_negative_age_counts_as_zero(schedule: AdaptiveSchedule) -> None:
    assert schedule.next_wait(context(-5.0)) == schedule.next_wait(context(0.0))


def test_polls_are_dense_around_the_end_of_similar_runs() -> None:
    ages = polls_until(1e6, BOUNDLESS, history=ALIKE)[1:]
    waits = [b - a for a, b in pairwise([0.0, *ages])]
    early = [age for age in ages if age < 500]
    around = [age for age in ages if 500 <= age < 700]
    assert len(early) <= 2
    assert len(around) >= 4
    assert min(waits) < 30
    late = [wait for age, wait in zip(ages, waits, strict=True) if age > 2000]
    assert late
    assert min(late) > 100  # a surprise is noticed, and at growing intervals


def test_polls_are_dense_around_each_of_two_kinds_of_runs() -> None:
    ages = polls_until(4000.0, BOUNDLESS, history=TWO_KINDS)
    places = ((0, 45), (45, 80), (80, 1500), (1500, 2100))
    before, short, between, long = (sum(a < age <= b for age in ages) for a, b in places)
    assert short / 35 > 5 * between / 1420
    assert long / 600 > 3 * between / 1420
    assert before <= 1
    assert between <= 8


def test_interval_of_a_run_joined_late_depends_on_its_age() -> None:
    wait = {
        age: BOUNDLESS.next_wait(context(age, history=ALIKE))
        for age in (0.0, 300.0, 590.0, 1e4, 1e6)
    }
    assert 450 < 300.0 + wait[300.0] < 600  # all of them took longer
    assert wait[590.0] < 40 < wait[0.0]
    assert wait[1e6] == BOUNDLESS.next_wait(context(1e6))  # beyond every earlier run


def test_more_similar_runs_postpone_the_first_poll() -> None:
    seen = (ALIKE[2:3], ALIKE[1:4], ALIKE, ALIKE * 2, ALIKE * 10)
    firsts = [BOUNDLESS.next_wait(context(0.0, history=history)) for history in seen]
    assert all(few < many for few, many in pairwise(firsts))
    assert firsts[2] < 350  # five runs do not prove that none is half as long
    assert firsts[3] > 500


@pytest.mark.parametrize("factor", [1e-2, 1.0, 1e2])
def test_forecast_from_five_runs_has_the_same_tails_at_any_scale(factor: float) -> None:
    durations = forecast(tuple(factor * seconds for seconds in ALIKE))
    assert durations is not None
    sooner, later = (
        next(
            a for t, a in zip(durations.times, durations.survival, strict=True) if t >= factor * age
        )
        for age in (400.0, 900.0)
    )
    assert 1 - sooner == pytest.approx(0.05, abs=0.02)
    assert later == pytest.approx(0.05, abs=0.02)


@given(histories, ages, ages)
@settings(deadline=None)
def test_next_poll_is_monotone_in_age(history: tuple[float, ...], one: float, other: float) -> None:
    young, old = sorted([one, other])
    dues = [age + BOUNDLESS.next_wait(context(age, history=history)) for age in (young, old)]
    assert dues[0] <= dues[1] * (1 + 1e-9)


@pytest.mark.parametrize("history", [(), ALIKE, TWO_KINDS])
@pytest.mark.parametrize("factor", [0.05, 0.5, 3.0, 40.0])
@pytest.mark.parametrize("age", [0.0, 30.0, 200.0, 700.0, 3000.0])
def test_schedule_has_no_time_scale(history: tuple[float, ...], factor: float, age: float) -> None:
    slow = AdaptiveSchedule(poll_cost=3.0 * factor, minimum=0.0, maximum=1e12)
    wait = BOUNDLESS.next_wait(context(age, history=history))
    slowed = slow.next_wait(context(age * factor, history=tuple(t * factor for t in history)))
    assert slowed / factor == pytest.approx(wait, rel=0.1)


@pytest.mark.parametrize("nonsense", [(0.0,), (-60.0,), (inf, -inf), (nan,), (1e300, 1e-300)])
def test_impossible_durations_in_a_history_are_ignored(nonsense: tuple[float, ...]) -> None:
    for age in (0.0, 300.0, 600.0):
        assert BOUNDLESS.next_wait(context(age, history=nonsense)) == BOUNDLESS.next_wait(
            context(age)
        )
        assert BOUNDLESS.next_wait(context(age, history=nonsense + ALIKE)) == (
            BOUNDLESS.next_wait(context(age, history=ALIKE))
        )


@given(st.permutations(TWO_KINDS), st.floats(0, 3000))
def test_order_of_earlier_runs_does_not_matter(order: list[float], age: float) -> None:
    assert BOUNDLESS.next_wait(context(age, history=tuple(order))) == (
        BOUNDLESS.next_wait(context(age, history=TWO_KINDS))
    )


def test_long_history_is_thinned_out() -> None:
    spread = tuple(600.0 * exp(i / 1000) for i in range(-250, 250))
    assert len(spread) > MAX_RUNS
    first = BOUNDLESS.next_wait(context(0.0, history=spread))
    assert first == pytest.approx(BOUNDLESS.next_wait(context(0.0, history=spread[::10])), rel=0.05)


@given(histories, ages, pressures, pressures, states)
@settings(deadline=None)
def test_interval_does_not_shrink_under_pressure(
    history: tuple[float, ...],
    age: float,
    one: float,
    other: float,
    state: ExecutionState | None,
) -> None:
    less, more = (
        BOUNDLESS.next_wait(context(age, state=state, history=history, pressure=pressure))
        for pressure in sorted([one, other])
    )
    assert less <= more * (1 + 1e-6) + 1e-6 * age


@pytest.mark.parametrize("history", [(), ALIKE, (7200.0,)])
def test_finalizing_run_is_polled_soon(history: tuple[float, ...]) -> None:
    for age in (100.0, 1000.0, 5000.0):
        for since, bound in ((0.0, 6.0), (18.0, 18.0), (3000.0, 200.0)):
            finalizing, executing = (
                BOUNDLESS.next_wait(context(age, state=state, since_change=since, history=history))
                for state in (ExecutionState.FINALIZING, ExecutionState.EXECUTING)
            )
            assert finalizing <= min(bound, executing)


@pytest.mark.parametrize("history", [(), ALIKE])
@pytest.mark.parametrize("age", [0.0, 300.0, 600.0])
def test_queued_run_is_polled_less(history: tuple[float, ...], age: float) -> None:
    queued, executing = (
        BOUNDLESS.next_wait(context(age, state=state, history=history))
        for state in (ExecutionState.QUEUED, ExecutionState.EXECUTING)
    )
    assert executing <= queued <= max(2.5 * executing, 600.0)


def test_plan_of_a_history_is_made_once() -> None:
    schedule = AdaptiveSchedule(poll_cost=3.25)
    optimal_plan.cache_clear()
    for age in range(500):
        schedule.next_wait(context(float(age), history=ALIKE))
    assert optimal_plan.cache_info().misses == 1
    for age in range(500):  # any pressure up to 16 lies between powers of 2 of the cost
        schedule.next_wait(context(600.0, history=ALIKE, pressure=1 + age * 15 / 500))
    assert optimal_plan.cache_info().misses <= 9


def _cost(true: Forecast, polls: list[float], *, poll_cost: float) -> float:
    """The mean cost of polls on the grid of `true`, polls and lag together."""
    alive = dict(zip(true.times, true.survival, strict=True))
    seen = [alive[poll] for poll in polls]
    lag = sum((a - b) * poll for (a, b), poll in zip(pairwise(seen), polls[1:], strict=True))
    return poll_cost * sum(seen[:-1]) + lag - true.partial_expectation[0]


@pytest.mark.parametrize("poll_cost", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("median", [20.0, 420.0, 7200.0])
@pytest.mark.parametrize(("runs", "most"), [(5, 1.15), (50, 1.06)])
def test_schedule_with_history_is_near_the_optimum(
    runs: int, most: float, median: float, poll_cost: float
) -> None:
    sigma, size = 0.3, 4000
    zs = [-6 + 12 * i / size for i in range(size + 1)]
    alive = [(1 - erf(z / sqrt(2))) / 2 for z in zs]
    times = [median * exp(sigma * z) for z in zs]
    ends = [
        (a - b) * (s + t) / 2
        for (a, b), (s, t) in zip(pairwise(alive), pairwise(times), strict=True)
    ]
    after = [*reversed(list(accumulate(reversed(ends)))), 0.0]
    true = Forecast(
        times=(0.0, *times), survival=(1.0, *alive), partial_expectation=(after[0], *after)
    )
    ranks = [(2 * i + 1) / (2 * runs) for i in range(runs)]  # a history without luck, good or bad
    history = tuple(median * exp(sigma * z) for z in _quantiles(zs, alive, ranks))

    best = dict(zip(true.times, solve(true, poll_cost), strict=False))
    optimum, ours = [0.0], [0.0]
    while optimum[-1] < times[-1]:
        optimum.append(min(t for t in true.times if t >= best[optimum[-1]]))
    schedule = AdaptiveSchedule(poll_cost=poll_cost, maximum=1e9)
    while ours[-1] < times[-1]:
        due = ours[-1] + schedule.next_wait(context(ours[-1], history=history))
        ours.append(min((t for t in times if t >= due), default=times[-1]))
    least = _cost(true, optimum, poll_cost=poll_cost)
    assert least <= _cost(true, ours, poll_cost=poll_cost) <= most * least


def _quantiles(zs: list[float], alive: list[float], ranks: list[float]) -> list[float]:
    return [next(z for z, a in zip(zs, alive, strict=True) if a <= 1 - rank) for rank in ranks]


@pytest.mark.parametrize("age", [1e-3, 420.0, 1e6])
def test_forecast_from_one_run_is_centred_on_it(age: float) -> None:
    durations = forecast((age,))
    assert durations is not None
    half = next(t for t, a in zip(durations.times, durations.survival, strict=True) if a < 0.5)
    assert log(half / age) == pytest.approx(0.0, abs=0.1)
    assert all(a >= b for a, b in pairwise(durations.survival))
    assert all(a < b for a, b in pairwise(durations.times))


@pytest.mark.parametrize("state", [None, *ExecutionState, ExecutionState("Paused")])
@pytest.mark.parametrize("history", [(), (60.0,), (0.0, 0.0), (1.0, 3600.0, 1e6)])
def test_default_interval_keeps_its_bounds_in_any_state(
    state: ExecutionState | None, history: tuple[float, ...]
) -> None:
    schedule = AdaptiveSchedule()
    for age in (0.0, 1.0, 59.0, 61.0, 3600.0, 1e7):
        seen = context(age, polls=3, state=state, since_change=age / 2, history=history)
        assert schedule.minimum <= schedule.next_wait(seen) <= schedule.maximum


def test_fixed_interval_is_the_same_at_any_age() -> None:
    schedule = FixedSchedule(10)
    assert [schedule.next_wait(context(age)) for age in (0.0, 50.0, 1e6)] == [10, 10, 10]
    assert schedule.next_wait(context(5.0, pressure=3.0)) == 30


@given(st.floats(0.1, 10), st.floats(1, 10), st.floats(10, 1000), st.integers(0, 10**6))
def test_exponential_intervals_grow_up_to_their_maximum(
    initial: float, factor: float, maximum: float, polls: int
) -> None:
    schedule = ExponentialSchedule(initial=initial, factor=factor, maximum=maximum)
    wait = schedule.next_wait(context(0.0, polls=polls))
    assert initial <= wait <= schedule.next_wait(context(0.0, polls=polls + 1)) <= maximum


def test_exponential_intervals_grow_by_their_factor() -> None:
    schedule = ExponentialSchedule(initial=1.0, factor=2.0, maximum=10.0)
    waits = [schedule.next_wait(context(0.0, polls=polls)) for polls in range(6)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert schedule.next_wait(context(0.0, polls=1, pressure=2.0)) == 4.0


def test_intervals_of_a_run_only_grow() -> None:
    for schedule in (AdaptiveSchedule(), ExponentialSchedule()):
        waits = [b - a for a, b in pairwise(polls_until(5000.0, schedule))]
        assert all(a <= b + 1e-9 for a, b in pairwise(waits))


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (AdaptiveSchedule, "poll_cost", 0),
        (AdaptiveSchedule, "minimum", -1),
        (AdaptiveSchedule, "maximum", 0),
        (FixedSchedule, "seconds", 0),
        (ExponentialSchedule, "initial", 0),
        (ExponentialSchedule, "factor", 0.9),
        (ExponentialSchedule, "maximum", -1),
    ],
)
def test_schedule_names_a_field_that_cannot_work(
    cls: type[PollSchedule], field: str, value: float
) -> None:
    with pytest.raises(ValueError, match=field):
        cls(**{field: value})


def test_schedule_names_bounds_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="minimum"):
        AdaptiveSchedule(minimum=10.0, maximum=5.0)


chances = st.floats(0.01, 0.99)


@given(histories, ages, chances, chances)
def test_remaining_seconds_grow_with_the_probability(
    history: tuple[float, ...], age: float, one: float, other: float
) -> None:
    durations = forecast(history)
    assert durations is not None
    less, more = (durations.remaining(age, chance) for chance in sorted([one, other]))
    assert 0 <= less <= more < inf


@given(histories, ages, ages, chances)
def test_expected_end_is_no_earlier_for_an_older_run(
    history: tuple[float, ...], one: float, other: float, chance: float
) -> None:
    durations = forecast(history)
    assert durations is not None
    young, old = (age + durations.remaining(age, chance) for age in sorted([one, other]))
    assert young <= old * (1 + 1e-6) + 1e-6


def test_remaining_seconds_follow_similar_runs() -> None:
    durations = forecast(ALIKE * 4)
    assert durations is not None
    low, median, high = (durations.remaining(0.0, chance) for chance in (0.1, 0.5, 0.9))
    assert 520 < low < median < high < 720
    assert median == pytest.approx(600, abs=10)
    assert durations.remaining(500.0, 0.5) == pytest.approx(100, abs=10)
    assert durations.remaining(-5.0, 0.5) == median


def test_remaining_seconds_of_a_run_older_than_the_forecast_scale_with_its_age() -> None:
    durations = forecast(ALIKE)
    assert durations is not None
    end = durations.times[-1]
    for age in (end, 10 * end, 1e9):
        assert durations.remaining(age, 0.5) == pytest.approx(age * (2 ** (1 / 0.6) - 1))
    assert durations.remaining(0.99 * end, 0.9) > end
