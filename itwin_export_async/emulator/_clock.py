"""The service's clock: seconds since its first use, and the date and time they stand for."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from weakref import WeakKeyDictionary

_TICKS = 10_000_000  # a second in the service's own unit, 100 ns


class Clock:
    """Seconds that never run backwards, wherever they are asked for.

    Inside a running event loop they are the loop's, so that virtual time counts; outside of any
    they are those of `time.monotonic`. A loop seen for the first time goes on where the last
    reading ended.
    """

    def __init__(self, epoch: datetime) -> None:
        if epoch.tzinfo is None:
            raise ValueError("epoch needs a time zone")
        self._epoch = epoch.astimezone(UTC)
        self._second = self._epoch.replace(microsecond=0, tzinfo=None)
        self._dated = (-1, "")
        self._last = 0.0
        self._offsets: WeakKeyDictionary[asyncio.AbstractEventLoop, float] = WeakKeyDictionary()
        self._offset_outside: float | None = None

    def now(self) -> float:
        """Seconds since the first use."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            reading = time.monotonic()
            if self._offset_outside is None:
                self._offset_outside = self._last - reading
            offset = self._offset_outside
        else:
            reading = loop.time()
            offset = self._offsets.setdefault(loop, self._last - reading)
        self._last = max(self._last, reading + offset)
        return self._last

    def moment(self, at: float) -> datetime:
        """The date and time, in UTC, that a reading of this clock stands for."""
        return self._epoch + timedelta(seconds=at)

    def stamp(self, at: float, *, zone: str = "Z") -> str:
        """The moment as the service writes it: up to seven digits, zeros at the end left out."""
        ticks = round(at * _TICKS) + self._epoch.microsecond * 10
        second = self._second + timedelta(seconds=ticks // _TICKS)
        digits = f"{ticks % _TICKS:07d}".rstrip("0")
        fraction = f".{digits}" if digits else ""
        return f"{second.isoformat()}{fraction}{zone}"

    def http_date(self, at: float) -> str:
        """The moment as a `Date` header has it (RFC 9110, section 5.6.7)."""
        second = int(at + self._epoch.microsecond / 1e6)
        if second != self._dated[0]:
            self._dated = second, format_datetime(self.moment(at), usegmt=True)
        return self._dated[1]
