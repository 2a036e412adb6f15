"""The protocol of the processes that share a rate limit, by way of a script in Redis.

Each process sends a message at least every heartbeat, and earlier when it wants calls or has
something to report that others wait for. The script (`rate_limit.lua`) takes the message in,
grants calls and replies, in one step and by the clock of Redis. A message carries ages instead of
moments, so that clocks of different machines never meet. All times are in milliseconds.

Keys, all of one hash slot, `itwin_export_async:{NAME}:` in front of each:

    calls     sorted set: PROCESS:NUMBER -> finished at; for a call in flight, when its lease ends
    peers     sorted set: process -> last contact; forgotten after the retention
    reserved  hash: process -> [calls of each window that it may make if it is cut off, its limit]
    queue     hash: process -> [calls it still wants, until when that holds, last grant]
    state     hash: paused_until, needs_probe, prober, prober_until, complete_at

A message:

    process, processes, limit       name; how many share the limit; the limit as text
    windows                         [[milliseconds, calls], ...]
    heartbeat, peer_timeout, lease, retention
    first, wanted                   number of the next call, and how many calls it wants to start
    finished, released              [[number, age], ...] and [number, ...] since the last reply
    in_flight                       [number, ...], all of them, before their leases end
    reserved                        what it believes to be reserved for it, in each window
    pause, probe                    a pause after a 429 to announce; how its probe ended
    is_probing                      whether its probe is in flight
    full_report, peers              all that it did within the windows, and the peers it knows
    resync                          the previous message may be lost: the reply is "unknown"
    is_last                         the process leaves

A reply is `{"known": false}`, after which a full report has to follow, or:

    granted, wait                   calls it may start now; how long to wait before it asks again
    needs_probe, pause              whether they are for a probe; what is left of the pause
    reserved, remaining             calls of each window: if it is cut off; for all processes now
    live_peers, peers               how many processes there are; [[process, silent for], ...]
    all_reported                    whether every process had time to report after a loss of data
    other_limits                    how many of the peers have another limit or `processes`

Invariants, which `test_redis_properties.py` checks:

1. A call counts in every window from its start until a whole window after its end. What Redis
   grants, what it reserves for connected processes and the shares (1/processes of a window) of
   those that it has lost never exceed the limit together.
2. A process that gets no reply first makes no more calls than were reserved for it. Once all that
   others knew has left the window, it keeps all its own calls within its share.
3. A number is granted once. Whatever may not have arrived is reported again: unanswered messages
   lead to a full report, and calls that may have been granted are released.
4. After a 429 nothing is granted until the pause is over, then one probe at a time.

The limit can be exceeded by: more clients than `processes`; a process that starts where it cannot
reach Redis, or dies there; one that is out of contact for longer than the retention; calls in
flight for longer than their lease without contact. Data that Redis loses is restored by the
processes, so that it lacks the calls of those that have left or died, and of those that are out of
contact until they report again.
"""

import json
from typing import Any

from attrs import define, field, frozen

from itwin_export_async._http.rate_limit import HOUR_WINDOW, MINUTE_WINDOW, RateLimit


class InvalidReply(ValueError):
    """Redis replied with something else than the script does."""


@frozen(kw_only=True)
class Timing:
    """Durations of the protocol, in seconds.

    `heartbeat`: between two messages of an idle process. `peer_timeout`: without contact, after
    which a process counts as lost. `reply_timeout`: for one reply. `call_lease`: for which a call
    counts as in flight without a renewal. `peer_retention`: for which the share of a lost process
    is left to it.
    """

    minute: float = MINUTE_WINDOW
    hour: float = HOUR_WINDOW
    heartbeat: float = 0.5
    peer_timeout: float = 4.0
    reply_timeout: float = 1.0
    call_lease: float = 30.0
    peer_retention: float = 3600.0

    def windows_of(self, limit: RateLimit) -> list[tuple[float, int]]:
        """The windows of a limit: seconds and calls of each."""
        both = ((self.minute, limit.per_minute), (self.hour, limit.per_hour))
        return [(seconds, calls) for seconds, calls in both if calls is not None]


@frozen(kw_only=True)
class Reply:
    """The reply to one process.

    `granted`: calls it may start now. `needs_probe`: whether they are for a probe. `wait`: seconds
    until it may ask for more. `pause`: seconds left of the pause after a 429. `reserved`: calls of
    each window that it may make if it is cut off. `remaining`: calls of each window that all
    processes may make now. `live_peers`: connected processes. `peers`: name and seconds since last
    contact of each other process. `known`: False if Redis has lost what the process reported.
    `all_reported`: False while others may still have to report. `other_limits`: how many peers
    have another limit or another number of processes.
    """

    granted: int = 0
    needs_probe: bool = False
    wait: float = 0.0
    pause: float = 0.0
    reserved: tuple[int, ...] = ()
    remaining: tuple[int, ...] = ()
    live_peers: int = 1
    peers: tuple[tuple[str, float], ...] = ()
    known: bool = True
    all_reported: bool = True
    other_limits: int = 0


def parse_reply(text: object) -> Reply:
    """The reply in a text from Redis; `InvalidReply` if it is not one of the script."""
    try:
        value: Any = json.loads(text) if isinstance(text, str | bytes) else None
        if value["known"] is False:
            return Reply(known=False)
        return Reply(
            granted=_count(value["granted"]),
            needs_probe=value["needs_probe"] is True,
            wait=_seconds(value["wait"]),
            pause=_seconds(value["pause"]),
            reserved=tuple(map(_count, value["reserved"])),
            remaining=tuple(map(int, value["remaining"])),
            live_peers=max(1, _count(value["live_peers"])),
            peers=tuple((str(name), _seconds(silent)) for name, silent in value["peers"]),
            all_reported=value["all_reported"] is True,
            other_limits=_count(value["other_limits"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InvalidReply("not a reply of the rate limit's script") from error


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a count")
    return value


def _seconds(milliseconds: Any) -> float:
    if not 0 <= milliseconds < 1e15:
        raise ValueError("not a duration")
    return float(milliseconds) / 1000


@define
class Report:
    """What a process has not reported yet, by its own clock."""

    finished: list[tuple[int, float]] = field(factory=list)
    released: list[int] = field(factory=list)
    paused_until: float | None = None
    probe: str | None = None  # how the probe ended: "succeeded" or "failed"

    def followed_by(self, later: "Report") -> "Report":
        """This report and a later one, as one."""
        pauses = [p for p in (self.paused_until, later.paused_until) if p is not None]
        return Report(
            finished=self.finished + later.finished,
            released=self.released + later.released,
            paused_until=max(pauses, default=None),
            probe=later.probe or self.probe,
        )
