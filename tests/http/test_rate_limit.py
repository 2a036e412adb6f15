"""The rate limit against a service that counts every call in true sliding windows."""

from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async import RateLimit
from itwin_export_async._http.rate_limit import (
    HOUR,
    MINUTE,
    Line,
    Windows,
    remaining_calls,
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
def test_no_window_of_the_service_ever_holds_more_than_allowed(
    limit: RateLimit, wanted: list[tuple[float, float, float]]
) -> None:
    windows, counted = Windows(limit), []
    under_way: list[float] = []  # when the calls that are out will end
    now = 0.0
    for gap, takes, share in wanted:
        now += gap
        while True:
            for end in sorted(e for e in under_way if e <= now):
                under_way.remove(end)
                windows.end(end)
            free = windows.free_at(now)
            if free == now:
                break
            now = min(under_way + ([] if free is None else [free]))
        windows.begin()
        under_way.append(now + takes)
        counted.append(now + takes * share)  # somewhere between sending and answer
    if limit.per_minute is not None:
        assert most_in_any(60.0, counted) <= limit.per_minute
    if limit.per_hour is not None:
        assert most_in_any(3600.0, counted) <= limit.per_hour


@given(limits, st.lists(st.floats(0, 400), min_size=1, max_size=60))
def test_no_room_is_wasted(limit: RateLimit, gaps: list[float]) -> None:
    windows, ended, now = Windows(limit), list[float](), 0.0
    told = ((MINUTE, limit.per_minute), (HOUR, limit.per_hour))
    for gap in gaps:
        now += gap
        free = windows.free_at(now)
        assert free is not None
        full = [
            most
            for seconds, most in told
            if most is not None and sum(end + seconds > now for end in ended) >= most
        ]
        assert (free > now) is bool(full)
        now = free
        windows.begin()
        windows.end(now)
        ended.append(now)


def test_a_call_under_way_holds_its_place_until_it_ends() -> None:
    windows = Windows(RateLimit(per_minute=1))
    windows.begin()
    assert windows.free_at(1000.0) is None
    windows.end(1000.0)
    assert windows.free_at(1001.0) == 1000.0 + MINUTE


def test_a_call_that_never_went_out_gives_its_place_back() -> None:
    windows = Windows(RateLimit(per_minute=1))
    windows.begin()
    windows.end(5.0, counted=False)
    assert windows.free_at(5.0) == 5.0


def test_without_a_limit_there_is_always_room() -> None:
    windows = Windows(RateLimit())
    for _ in range(10_000):
        windows.begin()
    assert windows.free_at(0.0) == 0.0
    assert windows.rate(0.0) == inf


def test_the_service_may_know_of_calls_that_we_do_not() -> None:
    windows = Windows(RateLimit(per_minute=10))
    windows.tell_room(2, 100.0)
    windows.tell_room(9, 100.0)  # more than we think is no news
    for _ in range(2):
        assert windows.free_at(100.0) == 100.0
        windows.begin()
    assert windows.free_at(100.0) == 100.0 + MINUTE
    Windows(RateLimit()).tell_room(0, 0.0)


@pytest.mark.parametrize(
    ("told", "left"), [("7", 7), (" 0 ", 0), ("", None), ("many", None), ("-1", None), ("٣", None)]
)
def test_remaining_calls_are_read_where_they_are_told(told: str, left: int | None) -> None:
    assert remaining_calls({"iTwinPlatform-RateLimit-RemainingCalls": told}) == left
    assert remaining_calls({}) is None


def test_calls_are_spent_faster_while_there_is_room() -> None:
    hour, minute = Windows(RateLimit(per_hour=3600)), Windows(RateLimit(per_minute=60))
    assert hour.rate(0.0) == pytest.approx(6.0, rel=1e-3)
    assert minute.rate(0.0) == pytest.approx(6.0, rel=1e-2)
    for _ in range(3000):
        hour.begin()
    assert hour.rate(0.0) == pytest.approx(1.0, rel=1e-3)
    both = Windows(RateLimit(per_minute=60, per_hour=360))
    assert both.rate(0.0) == pytest.approx(0.6, rel=1e-3)


def test_a_minute_comes_back_before_the_next_look_and_an_hour_does_not() -> None:
    hour, minute = Windows(RateLimit(per_hour=3600)), Windows(RateLimit(per_minute=60))
    for windows, calls in ((hour, 3600), (minute, 60)):
        for _ in range(calls):
            windows.begin()
    assert minute.rate(0.0) == pytest.approx(1.0, rel=1e-2)
    assert hour.rate(0.0) == pytest.approx(0.25, rel=1e-2)


def test_the_services_word_for_a_minute_says_nothing_of_the_hour() -> None:
    hour, both = Windows(RateLimit(per_hour=500)), Windows(RateLimit(per_minute=50, per_hour=500))
    for windows in (hour, both):
        windows.tell_room(10, 0.0)
    assert hour.room(0.0) == 500
    assert both.room(0.0) == 10
    assert both.room(61.0) == 50


def test_the_presets_are_those_of_the_platform() -> None:
    community, standard = RateLimit.COMMUNITY, RateLimit.STANDARD
    assert (community.per_minute, community.per_hour) == (500, 5000)
    assert (standard.per_minute, standard.per_hour) == (5000, None)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "500"])
def test_a_limit_that_is_none_is_named(bad: object) -> None:
    for name in ("per_minute", "per_hour"):
        with pytest.raises((ValueError, TypeError), match=name):
            RateLimit(**{name: bad})  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["call", "poll", "turn", "leave"])), st.randoms())
def test_calls_go_before_polls_and_polls_go_too(happening: list[str], chance: Random) -> None:
    line: Line[tuple[int, bool]] = Line()
    overtaken: dict[tuple[int, bool], list[bool]] = {}  # who has gone since each who waits came
    for number, what in enumerate([*happening, *["turn"] * len(happening)]):
        if what in ("call", "poll"):
            line.join((number, what == "poll"), is_poll=what == "poll")
            overtaken[number, what == "poll"] = []
        elif overtaken and what == "leave":
            gives_up = chance.choice(list(overtaken))
            line.leave(gives_up)
            del overtaken[gives_up]
        elif overtaken:
            gone = line.next()
            before = overtaken.pop(gone)
            polls, calls = before.count(True), before.count(False)
            if gone[1]:
                assert calls <= 4 * (polls + 1)
            else:
                assert polls <= 1 + calls / 4
            assert gone == min(waits for waits in [*line, gone] if waits[1] is gone[1])
            for gone_before in overtaken.values():
                gone_before.append(gone[1])
        assert bool(line) == bool(overtaken)
        assert set(line) == set(overtaken)
