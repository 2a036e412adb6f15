"""The rate limits of the tiers, counted in sliding windows.

A call beyond a limit is rejected with 429 and `Retry-After`. All operations of the APIs count, for
the only application. Rejected calls do not count, and neither do blobs and tokens.
"""

from collections import deque
from collections.abc import Mapping
from math import ceil
from types import MappingProxyType

from attrs import define, field

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._config import check_number
from itwin_export_async.emulator._http.messages import error

_MINUTE, _HOUR = 60.0, 3600.0

TIERS: Mapping[str, Mapping[float, int]] = MappingProxyType(
    {
        "Community": {_MINUTE: 500, _HOUR: 5000},
        "Standard": {_MINUTE: 5000},
        "Premium": {_MINUTE: 5000},
    }
)


@define
class SlidingWindow:
    """At most `limit` calls in any `seconds`."""

    seconds: float
    limit: int
    calls: deque[float] = field(factory=deque)

    def available_at(self, now: float) -> float:
        """Return when the next call fits: now, or later."""
        while self.calls and self.calls[0] + self.seconds <= now:
            self.calls.popleft()
        if len(self.calls) < self.limit:
            return now
        return self.calls[-self.limit] + self.seconds


class RateLimiter:
    """The windows of one tier; all of them apply at once."""

    def __init__(self, windows: Mapping[float, int], *, tier: str) -> None:
        self.windows = windows
        self.tier = tier
        self._sliding = [SlidingWindow(seconds, limit) for seconds, limit in windows.items()]

    @classmethod
    def for_tier(cls, tier: str | Mapping[float, int]) -> "RateLimiter":
        """Return the limiter of a tier; a mapping of seconds to calls is a "Custom" tier."""
        if isinstance(tier, str):
            if tier not in TIERS:
                raise ValueError(f"unknown tier {tier!r}: use one of {', '.join(TIERS)}")
            return cls(TIERS[tier], tier=tier)
        if not isinstance(tier, Mapping) or not tier:
            raise TypeError(f"tier must be a name or a mapping of seconds to calls, got {tier!r}")
        for seconds, limit in tier.items():
            check_number("the window of a tier", seconds, lowest=0, above=True)
            check_number("the calls of a tier", limit, lowest=1)
        return cls(dict(tier), tier="Custom")

    def acquire(self, now: float) -> float:
        """Count a call and return 0; if it does not fit, return the seconds until one does."""
        wait = max(window.available_at(now) for window in self._sliding) - now
        if wait > 0:
            return wait
        for window in self._sliding:
            window.calls.append(now)
        return 0.0


def rate_limit_exceeded(
    wait: float, *, tier: str, api: str, operation: str, client_id: str
) -> Response:
    """Return the platform's 429; `wait` is in seconds."""
    response = error(
        429,
        "RateLimitExceeded",
        "The client sent more requests than allowed by this API for the current tier of the "
        "client.",
    )
    headers = {
        "Retry-After": str(max(1, ceil(wait))),
        "ITwinPlatform-RateLimited-Tier": tier,
        "ITwinPlatform-RateLimited-API": api,
        "ITwinPlatform-RateLimited-Operation": operation,
        "ITwinPlatform-RateLimited-Application": client_id,
    }
    return Response(status=429, headers={**response.headers, **headers}, body=response.body)
