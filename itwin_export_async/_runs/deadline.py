"""Deadline of a `wait()` call: the explicit timeout, else the handle's deadline, else 24 hours."""

import asyncio
from datetime import UTC, datetime, timedelta
from enum import Enum
from math import inf
from typing import Final, TypeAlias

from attrs import frozen

from itwin_export_async._models.validators import validate_timeout

DEFAULT_TIMEOUT = 24 * 3600.0
_MAX_TIMEOUT = 100 * 365 * DEFAULT_TIMEOUT  # longer ones are no limit, and no datetime


class _Unset(Enum):
    USE_DEFAULT = "the handle's deadline, or 24 hours"


USE_DEFAULT: Final = _Unset.USE_DEFAULT
Timeout: TypeAlias = float | _Unset | None
"""Seconds; None for ever, `USE_DEFAULT` until the handle's deadline, and without one 24 hours."""


@frozen(kw_only=True, eq=False)
class Deadline:
    """When one wait ends.

    `seconds`: the timeout, infinite for none. `at`: the end in the loop's time, None for never.
    `moment`: the end as a date, None where no caller has set it.
    """

    seconds: float = inf
    at: float | None = None
    moment: datetime | None = None

    @classmethod
    def of(cls, timeout: Timeout, handle_deadline: datetime | None) -> "Deadline":
        """The deadline of a wait that begins now."""
        now, clock = datetime.now(UTC), asyncio.get_running_loop().time()
        if isinstance(timeout, _Unset):
            seconds = DEFAULT_TIMEOUT
            if handle_deadline is not None:
                seconds = max(0.0, (handle_deadline - now).total_seconds())
            return cls(seconds=seconds, at=clock + seconds, moment=handle_deadline)
        timeout = validate_timeout(timeout)
        if timeout is None or timeout > _MAX_TIMEOUT:
            return cls()
        return cls(seconds=timeout, at=clock + timeout, moment=now + timedelta(seconds=timeout))

    def is_before(self, at: float) -> bool:
        """Whether the wait ends before this time of the loop."""
        return self.at is not None and self.at < at

    def carried(self, now: datetime) -> datetime | None:
        """The deadline for a resume token; one that has passed limits no later wait."""
        return None if self.moment is None or self.moment <= now else self.moment
