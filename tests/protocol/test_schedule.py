"""When to look next: the properties that one rule gives."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._models import ExecutionState
from itwin_export_async._protocol.schedule import (
    Exponential,
    FixedInterval,
    Inspection,
    PollSchedule,
    PollView,
)

ages = st.floats(0, 1e6)
pressures = st.floats(1, 1000)
schedules = st.builds(
    Inspection,
    poll_cost=st.floats(0.01, 1000),
    minimum=st.floats(0, 10),
    maximum=st.floats(10, 10_000),
)


def view(age: float, *, looks: int = 0, pressure: float = 1.0) -> PollView:
    return PollView(
        age=age,
        looks=looks,
        state=ExecutionState.EXECUTING,
        since_change=age,
        pressure=pressure,
    )


def looks_until(end: float, schedule: PollSchedule, *, pressure: float = 1.0) -> list[float]:
    """The ages at which a run of which nothing is known is looked at."""
    ages = [0.0]
    while ages[-1] < end:
        wait = schedule.next_wait(view(ages[-1], looks=len(ages), pressure=pressure))
        ages.append(ages[-1] + wait)
    return ages


def test_looks_at_an_unknown_run_stand_at_the_squares() -> None:
    ages = looks_until(3000.0, Inspection(poll_cost=3.0, minimum=0.0, maximum=1e9))
    first = ages[1]
    for number, age in enumerate(ages):
        assert age == pytest.approx(number**2 * first, rel=1e-6)


@given(st.floats(0.1, 100), st.floats(1, 100))
def test_looks_scale_with_their_cost(cost: float, factor: float) -> None:
    cheap = Inspection(poll_cost=cost, minimum=0.0, maximum=1e12)
    dear = Inspection(poll_cost=cost * factor, minimum=0.0, maximum=1e12)
    age = 50.0 * cost
    assert dear.next_wait(view(age * factor)) == pytest.approx(
        factor * cheap.next_wait(view(age)), rel=1e-6
    )


@given(schedules, ages, pressures)
def test_every_wait_keeps_its_bounds(schedule: Inspection, age: float, pressure: float) -> None:
    wait = schedule.next_wait(view(age, pressure=pressure))
    assert schedule.minimum <= wait <= schedule.maximum


@given(schedules, ages, ages)
def test_an_older_run_is_looked_at_no_more_often(
    schedule: Inspection, one: float, other: float
) -> None:
    young, old = sorted([one, other])
    slack = 1e-6 * (1 + old)
    assert schedule.next_wait(view(young)) <= schedule.next_wait(view(old)) + slack


@given(schedules, ages, pressures, pressures)
def test_more_pressure_never_means_more_looks(
    schedule: Inspection, age: float, one: float, other: float
) -> None:
    less, more = sorted([one, other])
    slack = 1e-6 * (1 + age)
    assert schedule.next_wait(view(age, pressure=less)) <= (
        schedule.next_wait(view(age, pressure=more)) + slack
    )


@pytest.mark.parametrize("pressure", [2.0, 4.0])
def test_pressure_divides_the_looks(pressure: float) -> None:
    schedule = Inspection(minimum=0.0, maximum=1e9)
    free = len(looks_until(100_000.0, schedule))
    pressed = len(looks_until(100_000.0, schedule, pressure=pressure))
    assert pressed == pytest.approx(free / pressure, rel=0.05)


@given(schedules)
def test_a_clock_that_runs_backwards_does_no_harm(schedule: Inspection) -> None:
    assert schedule.next_wait(view(-5.0)) == schedule.next_wait(view(0.0))


@pytest.mark.parametrize("state", [None, *ExecutionState, ExecutionState("Paused")])
@pytest.mark.parametrize("history", [(), (60.0,), (0.0, 0.0), (1.0, 3600.0, 1e6)])
def test_any_state_and_history_give_a_wait_within_bounds(
    state: ExecutionState | None, history: tuple[float, ...]
) -> None:
    schedule = Inspection()
    for age in (0.0, 1.0, 59.0, 61.0, 3600.0, 1e7):
        seen = PollView(age=age, looks=3, state=state, since_change=age / 2, history=history)
        assert schedule.minimum <= schedule.next_wait(seen) <= schedule.maximum


def test_a_fixed_interval_is_the_same_at_any_age() -> None:
    schedule = FixedInterval(10)
    assert [schedule.next_wait(view(age)) for age in (0.0, 50.0, 1e6)] == [10, 10, 10]
    assert schedule.next_wait(view(5.0, pressure=3.0)) == 30


@given(st.floats(0.1, 10), st.floats(1, 10), st.floats(10, 1000), st.integers(0, 10**6))
def test_exponential_waits_grow_up_to_their_cap(
    initial: float, factor: float, maximum: float, looks: int
) -> None:
    schedule = Exponential(initial=initial, factor=factor, maximum=maximum)
    wait = schedule.next_wait(view(0.0, looks=looks))
    assert initial <= wait <= schedule.next_wait(view(0.0, looks=looks + 1)) <= maximum


def test_exponential_waits_grow_by_their_factor() -> None:
    schedule = Exponential(initial=1.0, factor=2.0, maximum=10.0)
    waits = [schedule.next_wait(view(0.0, looks=looks)) for looks in range(6)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert schedule.next_wait(view(0.0, looks=1, pressure=2.0)) == 4.0


def test_waits_of_a_followed_run_only_grow() -> None:
    for schedule in (Inspection(), Exponential()):
        waits = [b - a for a, b in pairwise(looks_until(5000.0, schedule))]
        assert all(a <= b + 1e-9 for a, b in pairwise(waits))


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (Inspection, "poll_cost", 0),
        (Inspection, "minimum", -1),
        (Inspection, "maximum", 0),
        (FixedInterval, "seconds", 0),
        (Exponential, "initial", 0),
        (Exponential, "factor", 0.9),
        (Exponential, "maximum", -1),
    ],
)
def test_a_schedule_that_cannot_work_is_named(
    cls: type[PollSchedule], field: str, value: float
) -> None:
    with pytest.raises(ValueError, match=field):
        cls(**{field: value})
