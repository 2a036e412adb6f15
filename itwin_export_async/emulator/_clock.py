"""The service's clock: seconds since its first reading, and the dates for them."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from weakref import WeakKeyDictionary

_TICKS = 10_000_000  # a second in the service's own unit, 100 ns


class Clock:
    """A clock that never runs backwards.

    In a running event loop it follows the loop's time, which may be virtual. Elsewhere it follows
    `time.monotonic`. On a new loop it continues from its last reading. `last` is that reading.
    """

    def __init__(self, epoch: datetime) -> None:
        if epoch.tzinfo is None:
            raise ValueError(f"epoch needs a time zone, got {epoch!r}: pass one with tzinfo=UTC")
        self._epoch = epoch.astimezone(UTC)
        self._second = self._epoch.replace(microsecond=0, tzinfo=None)
        self._dated = (-1, "")
        self.last = 0.0
        self._offsets: WeakKeyDictionary[asyncio.AbstractEventLoop, float] = WeakKeyDictionary()
        self._offset_outside: float | None = None

    def now(self) -> float:
        """Return the seconds since the first reading."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            reading = time.monotonic()
            if self._offset_outside is None:
                self._offset_outside = self.last - reading
            offset = self._offset_outside
        else:
            reading = loop.time()
            offset = self._offsets.setdefault(loop, self.last - reading)
        self.last = max(self.last, reading + offset)
        return self.last

    def moment(self, at: float) -> datetime:
        """Return the date and time of a reading, in UTC."""
        return self._epoch + timedelta(seconds=at)

    def stamp(self, at: float, *, zone: str = "Z") -> str:
        """Format a reading as the service does: up to seven digits, without trailing zeros."""
        ticks = round(at * _TICKS) + self._epoch.microsecond * 10
        second = self._second + timedelta(seconds=ticks // _TICKS)
        digits = f"{ticks % _TICKS:07d}".rstrip("0")
        fraction = f".{digits}" if digits else ""
        return f"{second.isoformat()}{fraction}{zone}"

    def http_date(self, at: float) -> str:
        """Format a reading as a `Date` header (RFC 9110, section 5.6.7)."""
        second = int(at + self._epoch.microsecond / 1e6)
        if second != self._dated[0]:
            self._dated = second, format_datetime(self.moment(at), usegmt=True)
        return self._dated[1]

    def event_date(self, at: float) -> str:
        """Format a reading as the envelope of a webhook event does."""
        moment = self.moment(at)
        return (
            f"{moment.month}/{moment.day}/{moment.year} "
            f"{moment.hour % 12 or 12}:{moment:%M:%S} {'AM' if moment.hour < 12 else 'PM'}"
        )
