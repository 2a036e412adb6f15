"""One process's part of a shared rate limit: what it tells, and what it may do on its own."""

import json
from math import inf
from typing import Any

import pytest

from itwin_export_async import RateLimit
from itwin_export_async._protocol.sharing import Part
from itwin_export_async._protocol.telling import Pace, Reply, parse_reply

PACE = Pace()
SAFE = PACE.minute + 2 * PACE.silence  # seconds after which nobody's earlier calls count


def part(limit: RateLimit | None = None, processes: int = 3) -> Part:
    return Part("p", limit or RateLimit(per_minute=30), processes, PACE)


def told(part: Part, now: float, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(part.message(now, **more))
    return message


def hear(part: Part, now: float, *, wanted: int = 0, **reply: Any) -> dict[str, Any]:
    """Talk once, and give what was told."""
    message = told(part, now, wanted=wanted)
    part.heard(Reply(**{"spare": (5,), "room": (15,), **reply}), now)
    return message


def calls_that_go(part: Part, now: float) -> int:
    count = 0
    while part.next_free_at(now) == now:
        part.start_call()
        count += 1
    return count


def test_only_places_that_were_granted_are_used() -> None:
    ours = part()
    assert ours.next_free_at(0.0) is None
    message = hear(ours, 0.0, wanted=3, granted=2)
    assert (message["wanted"], message["first"]) == (3, 1)
    assert calls_that_go(ours, 0.0) == 2
    assert ours.next_free_at(0.0) is None
    assert told(ours, 0.1, wanted=1)["first"] == 3


def test_what_became_of_a_call_is_told_once() -> None:
    ours = part()
    hear(ours, 0.0, wanted=2, granted=2)
    calls_that_go(ours, 0.0)
    ours.finish_call(1.0)
    ours.finish_call(1.5, counted=False)
    assert ours.is_urgent  # others may have the place that was given back
    message = hear(ours, 2.0)
    assert (message["ended"], message["returned"]) == ([[1, 1000]], [2])
    message = hear(ours, 3.0)
    assert (message["ended"], message["returned"]) == ([], [])


def test_what_may_not_have_been_heard_is_told_again() -> None:
    ours = part()
    hear(ours, 0.0, wanted=2, granted=2)
    calls_that_go(ours, 0.0)
    ours.tell_pause(20.0)
    ours.finish_call(1.0)
    told(ours, 1.0, wanted=4)
    ours.tell_pause(10.0)
    ours.tell_probe(clears=True)
    ours.finish_call(2.0)
    assert ours.has_pause_to_tell
    ours.missed()
    hear(ours, 2.5, is_known=False)
    message = told(ours, 3.0, wanted=4)
    assert message["ended"] == [[1, 2000], [2, 1000]]
    assert message["returned"] == [3, 4, 5, 6]  # they may have been granted
    assert message["wanted"] == 0
    assert (message["pause"], message["probe"]) == (17_000, "clear")


def test_a_longer_pause_is_not_shortened_by_a_later_one() -> None:
    ours = part()
    ours.tell_pause(60.0)
    ours.tell_pause(5.0)
    assert told(ours, 0.0)["pause"] == 60_000


def test_calls_under_way_are_named_before_their_lease_ends() -> None:
    ours = part()
    hear(ours, 0.0, wanted=1, granted=1)
    calls_that_go(ours, 0.0)
    assert hear(ours, 1.0)["under_way"] == []
    named = [hear(ours, now)["under_way"] for now in (6.0, 7.0, 12.0)]
    assert named == [[1], [], [1]]


def test_alone_no_more_goes_than_was_set_aside_until_the_past_has_left_the_windows() -> None:
    ours = part()
    hear(ours, 100.0, spare=(2,))
    told(ours, 101.0)
    ours.missed()
    assert calls_that_go(ours, 101.0) == 2
    assert ours.next_free_at(102.0) == 100.0 + SAFE  # and not only when one of them ends
    for _ in range(2):
        ours.finish_call(102.0)
    assert ours.next_free_at(103.0) == 102.0 + PACE.minute
    assert calls_that_go(ours, 100.0 + SAFE) == 10
    assert ours.next_free_at(100.0 + SAFE) is None


def test_alone_with_nothing_set_aside_the_past_is_waited_for() -> None:
    ours = part()
    hear(ours, 0.0, spare=(0,))
    ours.missed()
    assert ours.next_free_at(1.0) == SAFE
    assert ours.sustainable_rate(1.0) == pytest.approx(10 / PACE.minute)  # and never 0


def test_who_never_heard_of_the_others_has_its_share() -> None:
    ours = part(RateLimit(per_minute=30, per_hour=12))
    ours.missed()
    assert (ours.remaining(0.0), ours.sustainable_rate(0.0)) == (4, 24 / PACE.hour)
    assert calls_that_go(ours, 0.0) == 4


def test_a_call_alone_that_never_went_out_gives_its_place_back() -> None:
    ours = part(RateLimit(per_minute=1), processes=1)
    ours.missed()
    ours.start_call()
    ours.finish_call(0.0, counted=False)
    assert ours.next_free_at(0.0) == 0.0
    assert told(ours, 0.0)["returned"] == [1]


def test_what_was_done_alone_is_told_with_all_else() -> None:
    ours = part()
    hear(ours, 0.0, wanted=1, granted=1)
    calls_that_go(ours, 0.0)
    ours.finish_call(1.0)
    hear(ours, 1.0)
    ours.missed()
    calls_that_go(ours, 2.0)
    ours.finish_call(3.0)
    assert hear(ours, 3.5, is_known=False)["is_back"]
    message = hear(ours, 4.0, spare=(7,))
    assert message["tells_all"]
    assert message["ended"] == [[1, 3000], [2, 1000]]
    assert message["under_way"] == [3, 4, 5, 6]
    assert message["spare"] == [0]
    assert not ours.is_alone
    message = told(ours, 5.0, wanted=9)
    assert (message["tells_all"], message["wanted"], message["spare"]) == (False, 9, [7])


def test_what_is_forgotten_is_told_again_until_it_has_left_the_windows() -> None:
    ours = part()
    hear(ours, 0.0, wanted=2, granted=2)
    calls_that_go(ours, 0.0)
    ours.finish_call(0.0)
    ours.finish_call(30.0)
    hear(ours, 31.0)
    hear(ours, 32.0, is_known=False)
    assert ours.ask_at == 32.0
    assert hear(ours, 33.0)["ended"] == [[1, 33_000], [2, 3000]]
    hear(ours, 34.0, is_known=False)
    assert hear(ours, 60.5)["ended"] == [[2, 30_500]]


def test_who_else_has_been_there_is_told_too() -> None:
    ours = part()
    assert hear(ours, 0.0, others=(("q", 1.5),))["others"] == []
    assert hear(ours, 1.0, is_known=False)["others"] == []
    assert hear(ours, 2.0)["others"] == [["q", 3500]]


def test_while_others_have_yet_to_tell_a_process_is_on_its_own() -> None:
    ours = part()
    hear(ours, 0.0)
    hear(ours, 4.0, is_settled=False, wait=0.5)
    assert calls_that_go(ours, 4.0) == 5
    hear(ours, 5.0)
    assert ours.next_free_at(5.0) is None


def test_who_comes_to_nobody_is_left_what_earlier_ones_have_not_spent() -> None:
    ours = Part("p", RateLimit.COMMUNITY, 1, PACE)
    hear(ours, 0.0, is_settled=False, spare=(0, 0), room=(0, 0))
    assert calls_that_go(ours, 0.0) == 0
    assert ours.is_alone
    hear(ours, 1.0, is_settled=False, spare=(9, 9), room=(9, 9))
    assert calls_that_go(ours, 1.0) == 0  # the first word is on the safe side


def test_who_has_begun_alone_does_not_begin_anew_with_the_first_word() -> None:
    ours = part()
    ours.missed()
    assert calls_that_go(ours, 0.0) == 10
    hear(ours, 1.0, is_settled=False, spare=(6,), room=(20,))
    assert calls_that_go(ours, 1.0) == 0


def test_places_that_nobody_wants_any_more_are_given_back() -> None:
    ours = part()
    hear(ours, 0.0, wanted=3, granted=3)
    ours.start_call()
    ours.give_back()
    assert told(ours, 0.0)["returned"] == [2, 3]


def test_the_rate_is_a_fair_part_of_the_limit() -> None:
    ours = part()
    hear(ours, 0.0, room=(4,), live=2)
    assert ours.sustainable_rate(0.0) == pytest.approx(15 / PACE.minute)
    hear(ours, 0.0, room=(-4,), live=2)
    assert ours.remaining(0.0) == 0
    hear(ours, 0.0, room=(20,), live=2)
    assert ours.sustainable_rate(0.0) == pytest.approx(60 / PACE.minute)
    unlimited = part(RateLimit())
    hear(unlimited, 0.0, spare=(), room=())
    assert (unlimited.sustainable_rate(0.0), unlimited.remaining(0.0)) == (inf, None)


def test_a_reply_is_read() -> None:
    text = (
        '{"is_known": true, "granted": 2, "is_clear": false, "wait": 50, "pause": 1500, '
        '"spare": {}, "room": [3], "live": 4, "others": [["q", 500]], "is_settled": false}'
    )
    assert parse_reply(text) == Reply(
        granted=2,
        is_clear=False,
        wait=0.05,
        pause=1.5,
        room=(3,),
        live=4,
        others=(("q", 0.5),),
        is_settled=False,
    )
    assert parse_reply(b'{"is_known": false}') == Reply(is_known=False)
