"""The share of one process in a rate limit: what it reports, and what it may call offline."""

import json
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async import RateLimit
from itwin_export_async.redis._messages import InvalidReply, Reply, Timing, parse_reply
from itwin_export_async.redis._quota import QuotaShare

TIMING = Timing()
LEFT = TIMING.minute + TIMING.call_lease + 2 * TIMING.peer_timeout
"""Seconds without a reply after which the calls of others have left the window."""


def new_share(limit: RateLimit | None = None, processes: int = 3) -> QuotaShare:
    return QuotaShare("p", limit or RateLimit(per_minute=30), processes, TIMING)


def message_of(share: QuotaShare, now: float, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(share.build_message(now, **more))
    return message


def exchange(share: QuotaShare, now: float, *, wanted: int = 0, **reply: Any) -> dict[str, Any]:
    """The message to which this is the reply."""
    message = message_of(share, now, wanted=wanted)
    share.on_reply(Reply(**{"reserved": (5,), "remaining": (15,), **reply}), now)
    return message


def start_calls(share: QuotaShare, now: float) -> int:
    """Start as many calls as possible; how many they are."""
    count = 0
    while share.next_free_at(now) == now:
        share.start_call()
        count += 1
    return count


def test_only_granted_calls_start() -> None:
    share = new_share()
    assert share.next_free_at(0.0) is None
    message = exchange(share, 0.0, wanted=3, granted=2)
    assert (message["wanted"], message["first"]) == (3, 1)
    assert start_calls(share, 0.0) == 2
    assert share.next_free_at(0.0) is None
    assert message_of(share, 0.1, wanted=1)["first"] == 3


def test_finished_calls_are_reported_once() -> None:
    share = new_share()
    exchange(share, 0.0, wanted=2, granted=2)
    start_calls(share, 0.0)
    share.finish_call(1.0)
    share.finish_call(1.5, counted=False)
    assert share.has_urgent_report  # another process may have the call that was released
    message = exchange(share, 2.0)
    assert (message["finished"], message["released"]) == ([[1, 1000]], [2])
    message = exchange(share, 3.0)
    assert (message["finished"], message["released"]) == ([], [])


def test_a_message_without_a_reply_is_repeated_in_a_full_report() -> None:
    share = new_share()
    exchange(share, 0.0, wanted=2, granted=2)
    start_calls(share, 0.0)
    share.report_pause(20.0)
    share.finish_call(1.0)
    message_of(share, 1.0, wanted=4)
    share.report_pause(10.0)
    share.report_probe(succeeded=True)
    share.finish_call(2.0)
    assert share.has_unreported_pause
    share.on_timeout()
    exchange(share, 2.5, known=False)
    message = message_of(share, 3.0, wanted=4)
    assert message["finished"] == [[1, 2000], [2, 1000]]
    assert message["released"] == [3, 4, 5, 6]  # they may have been granted
    assert message["wanted"] == 0
    assert (message["pause"], message["probe"]) == (17_000, "succeeded")


def test_a_later_pause_does_not_shorten_a_longer_one() -> None:
    share = new_share()
    share.report_pause(60.0)
    share.report_pause(5.0)
    assert message_of(share, 0.0)["pause"] == 60_000


def test_calls_in_flight_are_renewed_before_their_leases_end() -> None:
    share = new_share()
    exchange(share, 0.0, wanted=1, granted=1)
    start_calls(share, 0.0)
    assert exchange(share, 1.0)["in_flight"] == []
    assert [exchange(share, now)["in_flight"] for now in (6.0, 7.0, 12.0)] == [[1], [], [1]]


def test_an_offline_process_makes_the_reserved_calls_then_keeps_within_its_share() -> None:
    share = new_share()
    exchange(share, 100.0, reserved=(2,))
    message_of(share, 101.0)
    share.on_timeout()
    assert start_calls(share, 101.0) == 2
    assert share.next_free_at(102.0) == 100.0 + LEFT  # and not only when one of them finishes
    for _ in range(2):
        share.finish_call(102.0)
    assert share.next_free_at(103.0) == 102.0 + TIMING.minute
    assert start_calls(share, 100.0 + LEFT) == 10
    assert share.next_free_at(100.0 + LEFT) is None


def test_an_offline_process_counts_its_granted_calls_to_its_share() -> None:
    share = new_share()
    exchange(share, 0.0, wanted=30, granted=30, reserved=(0,))
    assert start_calls(share, 0.0) == 30
    share.on_timeout()
    for _ in range(21):
        share.finish_call(LEFT - 1)
    assert start_calls(share, LEFT) == 0
    assert start_calls(share, LEFT - 1 + TIMING.minute) == 1  # nine are still in flight


def test_an_offline_process_without_reserved_calls_waits() -> None:
    share = new_share()
    exchange(share, 0.0, reserved=(0,))
    share.on_timeout()
    assert share.next_free_at(1.0) == LEFT
    assert share.sustainable_rate(1.0) == pytest.approx(10 / TIMING.minute)  # and never 0


def test_a_process_without_any_reply_has_its_share() -> None:
    share = new_share(RateLimit(per_minute=30, per_hour=12))
    share.on_timeout()
    assert (share.remaining(0.0), share.sustainable_rate(0.0)) == (4, 24 / TIMING.hour)
    assert start_calls(share, 0.0) == 4


def test_an_offline_call_that_was_never_sent_costs_nothing() -> None:
    share = new_share(RateLimit(per_minute=1), processes=1)
    share.on_timeout()
    share.start_call()
    share.finish_call(0.0, counted=False)
    assert share.next_free_at(0.0) == 0.0
    assert message_of(share, 0.0)["released"] == [1]


def test_offline_calls_are_part_of_the_full_report() -> None:
    share = new_share()
    exchange(share, 0.0, wanted=1, granted=1)
    start_calls(share, 0.0)
    share.finish_call(1.0)
    exchange(share, 1.0)
    share.on_timeout()
    start_calls(share, 2.0)
    share.finish_call(3.0)
    assert exchange(share, 3.5, known=False)["resync"]
    message = exchange(share, 4.0, reserved=(7,))
    assert message["full_report"]
    assert message["finished"] == [[1, 3000], [2, 1000]]
    assert message["in_flight"] == [3, 4, 5, 6]
    assert message["reserved"] == [0]
    assert not share.is_offline
    message = message_of(share, 5.0, wanted=9)
    assert (message["full_report"], message["wanted"], message["reserved"]) == (False, 9, [7])


def test_calls_are_reported_after_a_loss_of_data_until_they_have_left_the_windows() -> None:
    share = new_share()
    exchange(share, 0.0, wanted=2, granted=2)
    start_calls(share, 0.0)
    share.finish_call(0.0)
    share.finish_call(30.0)
    exchange(share, 31.0)
    exchange(share, 32.0, known=False)
    assert share.ask_at == 32.0
    assert exchange(share, 33.0)["finished"] == [[1, 33_000], [2, 3000]]
    exchange(share, 34.0, known=False)
    assert exchange(share, 60.5)["finished"] == [[2, 30_500]]


def test_a_full_report_names_the_other_processes() -> None:
    share = new_share()
    assert exchange(share, 0.0, peers=(("q", 1.5),))["peers"] == []
    assert exchange(share, 1.0, known=False)["peers"] == []
    assert exchange(share, 2.0)["peers"] == [["q", 3500]]


def test_a_process_is_offline_while_others_may_still_have_to_report() -> None:
    share = new_share()
    exchange(share, 0.0)
    exchange(share, 4.0, all_reported=False, wait=0.5)
    assert start_calls(share, 4.0) == 5
    exchange(share, 5.0)
    assert share.next_free_at(5.0) is None


def test_the_first_process_gets_what_earlier_ones_have_not_used() -> None:
    share = QuotaShare("p", RateLimit.COMMUNITY, 1, TIMING)
    exchange(share, 0.0, all_reported=False, reserved=(0, 0), remaining=(0, 0))
    assert start_calls(share, 0.0) == 0
    assert share.is_offline
    exchange(share, 1.0, all_reported=False, reserved=(9, 9), remaining=(9, 9))
    assert start_calls(share, 1.0) == 0  # the first reply is on the safe side


def test_the_first_reply_does_not_renew_a_share_that_is_in_use() -> None:
    share = new_share()
    share.on_timeout()
    assert start_calls(share, 0.0) == 10
    exchange(share, 0.5, known=False)
    exchange(share, 1.0, all_reported=False, reserved=(6,), remaining=(20,))
    assert start_calls(share, 1.0) == 0


def test_unused_grants_are_released() -> None:
    share = new_share()
    exchange(share, 0.0, wanted=3, granted=3)
    share.start_call()
    share.release_unused()
    assert message_of(share, 0.0)["released"] == [2, 3]


def test_the_rate_is_a_fair_part_of_the_limit() -> None:
    share = new_share()
    exchange(share, 0.0, remaining=(4,), live_peers=2)
    assert share.sustainable_rate(0.0) == pytest.approx(15 / TIMING.minute)
    exchange(share, 0.0, remaining=(-4,), live_peers=2)
    assert share.remaining(0.0) == 0
    exchange(share, 0.0, remaining=(20,), live_peers=2)
    assert share.sustainable_rate(0.0) == pytest.approx(60 / TIMING.minute)
    unlimited = new_share(RateLimit())
    exchange(unlimited, 0.0, reserved=(), remaining=())
    assert (unlimited.sustainable_rate(0.0), unlimited.remaining(0.0)) == (inf, None)


REPLY = {
    "known": True,
    "granted": 2,
    "needs_probe": True,
    "wait": 50,
    "pause": 1500,
    "reserved": {},
    "remaining": [3],
    "live_peers": 4,
    "peers": [["q", 500]],
    "all_reported": False,
    "other_limits": 1,
}


def test_a_reply_is_parsed() -> None:
    assert parse_reply(json.dumps(REPLY)) == Reply(
        granted=2,
        needs_probe=True,
        wait=0.05,
        pause=1.5,
        remaining=(3,),
        live_peers=4,
        peers=(("q", 0.5),),
        all_reported=False,
        other_limits=1,
    )
    assert parse_reply(b'{"known": false}') == Reply(known=False)


WRONG: list[dict[str, Any]] = [
    {"granted": -5},
    {"granted": True},
    {"granted": 1.5},
    {"wait": -1},
    {"wait": "soon"},
    {"pause": float("nan")},
    {"pause": float("inf")},
    {"reserved": [None]},
    {"remaining": [float("inf")]},
    {"peers": ["ab"]},
    {"peers": None},
    {"other_limits": []},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_reply_with_a_wrong_value_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidReply):
        parse_reply(json.dumps({**REPLY, **wrong}))


@pytest.mark.parametrize(
    "text",
    ["", "OK", "{}", "[]", "5", "null", '"x"', b"\xff", "[" * 100_000, None, 5, ["x"]],
    ids=range(12),
)
def test_anything_else_is_no_reply(text: object) -> None:
    with pytest.raises(InvalidReply):
        parse_reply(text)


@pytest.mark.parametrize(
    "reply",
    [
        {"granted": 4},
        {"reserved": ()},
        {"remaining": (1, 2)},
        {"reserved": (31,)},
        {"remaining": (31,)},
        {"known": False},
    ],
)
def test_a_reply_that_does_not_fit_the_message_is_refused(reply: dict[str, Any]) -> None:
    share = new_share()
    message_of(share, 0.0, wanted=3)
    with pytest.raises(InvalidReply):
        share.on_reply(Reply(**{"reserved": (5,), "remaining": (15,), **reply}), 0.0)
    share.on_timeout()
    assert message_of(share, 0.0)["released"] == [1, 2, 3]


def test_an_uninformed_reply_does_not_end_a_resync() -> None:
    share = new_share()
    exchange(share, 0.0)
    message_of(share, 0.0)
    share.on_timeout()
    with pytest.raises(InvalidReply):
        exchange(share, 1.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(field=st.sampled_from(sorted(REPLY)), value=JSON)
def test_a_reply_is_used_or_refused_and_never_fails_otherwise(field: str, value: Any) -> None:
    share = new_share()
    message_of(share, 0.0, wanted=3)
    try:
        reply = parse_reply(json.dumps({**REPLY, "reserved": [3], field: value}))
        share.on_reply(reply, 0.0)
    except InvalidReply:
        share.on_timeout()
    assert start_calls(share, 0.0) <= 33
    assert share.sustainable_rate(0.0) >= 0
    assert json.loads(share.build_message(1.0, wanted=1))["wanted"] <= 1
