"""The rate limits: how many calls each tier allows, counted in sliding windows.

All operations of the APIs count alike, for the one application there is; a call that was refused
does not. Blobs and tokens come from elsewhere and do not count.
"""

from collections import deque
from collections.abc import Mapping
from math import ceil
from types import MappingProxyType

from attrs import define, field

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._http.messages import error

_MINUTE, _HOUR = 60.0, 3600.0

TIERS: Mapping[str, Mapping[float, int]] = MappingProxyType(
    {
        "Community": {_MINUTE: 500, _HOUR: 5000},
        "Standard": {_MINUTE: 5000},
        "Premium": {_MINUTE: 5000},
        "Custom": {_MINUTE: 5000},
    }
)


@define
class _Window:
    seconds: float
    limit: int
    taken: deque[float] = field(factory=deque)

    def free_at(self, now: float) -> float:
        """When there is room for one more call: now, or later."""
        while self.taken and self.taken[0] + self.seconds <= now:
            self.taken.popleft()
        if len(self.taken) < self.limit:
            return now
        return self.taken[-self.limit] + self.seconds


class Limits:
    """The windows of one tier; they hold at once."""

    def __init__(self, tier: str | Mapping[float, int]) -> None:
        if isinstance(tier, str) and tier not in TIERS:
            raise ValueError(f"no tier {tier}, only {', '.join(TIERS)}")
        self.tier, windows = (tier, TIERS[tier]) if isinstance(tier, str) else ("Custom", tier)
        self._windows = [_Window(seconds, limit) for seconds, limit in windows.items()]

    def take(self, now: float) -> float:
        """Count a call if there is room: 0, or the seconds until there will be."""
        wait = max(window.free_at(now) for window in self._windows) - now
        if wait > 0:
            return wait
        for window in self._windows:
            window.taken.append(now)
        return 0.0


def too_many_calls(wait: float, *, tier: str, api: str, operation: str, client_id: str) -> Response:
    """The 429 of the platform; `wait` is in seconds."""
    refusal = error(
        429,
        "RateLimitExceeded",
        "The client sent more requests than allowed by this API for the current tier of the "
        "client.",
    )
    told = {
        "Retry-After": str(max(1, ceil(wait))),
        "ITwinPlatform-RateLimited-Tier": tier,
        "ITwinPlatform-RateLimited-API": api,
        "ITwinPlatform-RateLimited-Operation": operation,
        "ITwinPlatform-RateLimited-Application": client_id,
    }
    return Response(status=429, headers={**refusal.headers, **told}, body=refusal.body)
