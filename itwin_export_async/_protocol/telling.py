"""What the processes that share a rate limit tell each other, and how often."""

import json

from attrs import define, field, frozen

from itwin_export_async._http.rate_limit import HOUR_WINDOW, MINUTE_WINDOW, RateLimit


@frozen(kw_only=True)
class Pace:
    """How long things take, in seconds.

    `beat`: between two messages of a process that wants nothing. `silence`: after how long one that
    is not heard counts as lost. `patience`: with an answer. `lease`: for how long a call is taken
    to be under way without its process saying so. `memory`: for how long lost ones are left their
    share.
    """

    minute: float = MINUTE_WINDOW
    hour: float = HOUR_WINDOW
    beat: float = 0.5
    silence: float = 4.0
    patience: float = 1.0
    lease: float = 30.0
    memory: float = 3600.0

    def windows_of(self, limit: RateLimit) -> list[tuple[float, int]]:
        """The windows of a limit: how many seconds, and how many calls."""
        told = ((self.minute, limit.per_minute), (self.hour, limit.per_hour))
        return [(seconds, calls) for seconds, calls in told if calls is not None]


@frozen(kw_only=True)
class Reply:
    """What all have in common, as told to one process.

    `granted`: how many places it has got; `is_clear`: False if they are for a probe; `wait`:
    seconds until it may ask for more; `pause`: seconds left of the pause after a 429; `spare`: how
    many calls of each window are set aside for it; `room`: how many all of them may make; `live`:
    how many processes there are; `others`: who has been there besides, and the seconds since each
    was heard. Not `is_known`: all that it did is forgotten, and has to be told.
    Not `is_settled`: others have yet to tell theirs.
    """

    granted: int = 0
    is_clear: bool = True
    wait: float = 0.0
    pause: float = 0.0
    spare: tuple[int, ...] = ()
    room: tuple[int, ...] = ()
    live: int = 1
    others: tuple[tuple[str, float], ...] = ()
    is_known: bool = True
    is_settled: bool = True


def parse_reply(text: str | bytes) -> Reply:
    told = json.loads(text)
    if not told["is_known"]:
        return Reply(is_known=False)
    return Reply(
        granted=told["granted"],
        is_clear=told["is_clear"],
        wait=told["wait"] / 1000,
        pause=told["pause"] / 1000,
        spare=tuple(told["spare"]),
        room=tuple(told["room"]),
        live=told["live"],
        others=tuple((name, silent / 1000) for name, silent in told["others"]),
        is_settled=told["is_settled"],
    )


@define
class News:
    """What has not been told yet, by the process's own clock."""

    ended: list[tuple[int, float]] = field(factory=list)
    returned: list[int] = field(factory=list)
    pause_until: float | None = None
    probe: str | None = None  # how ours ended: "clear" or "lost"
    room: tuple[int, float] | None = None

    def before(self, later: "News") -> "News":
        """This and what has come since."""
        pauses = [p for p in (self.pause_until, later.pause_until) if p is not None]
        return News(
            ended=self.ended + later.ended,
            returned=self.returned + later.returned,
            pause_until=max(pauses, default=None),
            probe=later.probe or self.probe,
            room=later.room or self.room,
        )
