"""The rate limit against a service that counts every call in true sliding windows."""

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async import RateLimit
from itwin_export_async._http.rate_limit import (
    HOUR_WINDOW,
    MINUTE_WINDOW,
    RequestQueue,
    SlidingWindows,
)

limits = st.builds(
    RateLimit,
    per_minute=st.none() | st.integers(1, 8),
    per_hour=st.none() | st.integers(1, 12),
)
# how long each call is wanted after the one before, how long it takes, and when it is counted
calls = st.lists(
    st.tuples(st.floats(0, 400), st.floats(0, 30), st.floats(0, 1)), min_size=1, max_size=40
)


def most_in_any(seconds: float, moments: list[float]) -> int:
    """The most of these moments that one window of so many seconds holds."""
    return max(sum(start <= m < start + seconds for m in moments) for start in moments)


@given(limits, calls)
def test_windows_of_the_service_never_exceed_the_limit(
    limit: RateLimit, wanted: list[tuple[float, float, float]]
) -> None:
    windows, counted = SlidingWindows(limit), []
    under_way: list[float] = []  # when the calls that are out will end
    now = 0.0
    for gap, takes, share in wanted:
        now += gap
        while True:
            for end in sorted(e for e in under_way if e <= now):
                under_way.remove(end)
                windows.finish_call(end)
            free = windows.next_free_at(now)
            if free == now:
                break
            now = min(under_way + ([] if free is None else [free]))
        windows.start_call()
        under_way.append(now + takes)
        counted.append(now + takes * share)  # somewhere between sending and answer
    if limit.per_minute is not None:
        assert most_in_any(60.0, counted) <= limit.per_minute
    if limit.per_hour is not None:
        assert most_in_any(3600.0, counted) <= limit.per_hour


@given(limits, st.lists(st.floats(0, 400), min_size=1, max_size=60))
def test_windows_waste_no_call(limit: RateLimit, gaps: list[float]) -> None:
    windows, ended, now = SlidingWindows(limit), list[float](), 0.0
    window_limits = ((MINUTE_WINDOW, limit.per_minute), (HOUR_WINDOW, limit.per_hour))
    for gap in gaps:
        now += gap
        free = windows.next_free_at(now)
        assert free is not None
        full = [
            most
            for seconds, most in window_limits
            if most is not None and sum(end + seconds > now for end in ended) >= most
        ]
        assert (free > now) is bool(full)
        now = free
        windows.start_call()
        windows.finish_call(now)
        ended.append(now)


def test_call_in_flight_holds_its_slot_until_it_finishes() -> None:
    windows = SlidingWindows(RateLimit(per_minute=1))
    windows.start_call()
    assert windows.next_free_at(1000.0) is None
    windows.finish_call(1000.0)
    assert windows.next_free_at(1001.0) == 1000.0 + MINUTE_WINDOW


def test_call_that_was_not_sent_returns_its_slot() -> None:
    windows = SlidingWindows(RateLimit(per_minute=1))
    windows.start_call()
    windows.finish_call(5.0, counted=False)
    assert windows.next_free_at(5.0) == 5.0


def test_windows_without_a_limit_are_always_free() -> None:
    windows = SlidingWindows(RateLimit())
    for _ in range(10_000):
        windows.start_call()
    assert windows.next_free_at(0.0) == 0.0
    assert windows.sustainable_rate(0.0) == inf


def test_sustainable_rate_is_higher_with_calls_remaining() -> None:
    hour, minute = (
        SlidingWindows(RateLimit(per_hour=3600)),
        SlidingWindows(RateLimit(per_minute=60)),
    )
    assert hour.sustainable_rate(0.0) == pytest.approx(6.0, rel=1e-3)
    assert minute.sustainable_rate(0.0) == pytest.approx(6.0, rel=1e-2)
    for _ in range(3000):
        hour.start_call()
    assert hour.sustainable_rate(0.0) == pytest.approx(1.0, rel=1e-3)
    both = SlidingWindows(RateLimit(per_minute=60, per_hour=360))
    assert both.sustainable_rate(0.0) == pytest.approx(0.6, rel=1e-3)


def test_sustainable_rate_saves_an_exhausted_hour_but_no_minute() -> None:
    hour, minute = (
        SlidingWindows(RateLimit(per_hour=3600)),
        SlidingWindows(RateLimit(per_minute=60)),
    )
    for windows, calls in ((hour, 3600), (minute, 60)):
        for _ in range(calls):
            windows.start_call()
    assert minute.sustainable_rate(0.0) == pytest.approx(1.0, rel=1e-2)
    assert hour.sustainable_rate(0.0) == pytest.approx(0.25, rel=1e-2)


def test_rate_limit_presets_are_the_platforms() -> None:
    community, standard = RateLimit.COMMUNITY, RateLimit.STANDARD
    assert (community.per_minute, community.per_hour) == (500, 5000)
    assert (standard.per_minute, standard.per_hour) == (5000, None)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "500"])
def test_invalid_rate_limit_is_named(bad: object) -> None:
    for name in ("per_minute", "per_hour"):
        with pytest.raises((ValueError, TypeError), match=name):
            RateLimit(**{name: bad})  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["call", "poll", "turn", "leave"])), st.randoms())
def test_queue_prefers_calls_and_starves_no_poll(happening: list[str], chance: Random) -> None:
    queue: RequestQueue[tuple[int, bool]] = RequestQueue()
    overtaken: dict[tuple[int, bool], list[bool]] = {}  # what was popped since each was pushed
    for number, what in enumerate([*happening, *["turn"] * len(happening)]):
        if what in ("call", "poll"):
            queue.push((number, what == "poll"), is_poll=what == "poll")
            overtaken[number, what == "poll"] = []
        elif overtaken and what == "leave":
            gives_up = chance.choice(list(overtaken))
            queue.remove(gives_up)
            del overtaken[gives_up]
        elif overtaken:
            gone = queue.pop()
            before = overtaken.pop(gone)
            polls, calls = before.count(True), before.count(False)
            if gone[1]:
                assert calls <= 4 * (polls + 1)
            else:
                assert polls <= 1 + calls / 4
            assert gone == min(waits for waits in [*queue, gone] if waits[1] is gone[1])
            for gone_before in overtaken.values():
                gone_before.append(gone[1])
        assert bool(queue) == bool(overtaken)
        assert set(queue) == set(overtaken)
