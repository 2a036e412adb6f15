"""How long waits for one run may last, and until when whoever takes over may wait.

Each wait has a limit of its own. What a token or a pickle carries on is the limit of the wait that
goes on (the latest of several), or was cancelled, and otherwise the deadline that the handle itself
came with.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, TypeAlias

from attrs import define, field, frozen

from itwin_export_async._errors import ExportError
from itwin_export_async._models.validators import validate_timeout

DEFAULT_TIMEOUT = 24 * 3600.0
_FOR_EVER = 100 * 365 * DEFAULT_TIMEOUT


class _Unset(Enum):
    USE_DEFAULT = "24 hours, or what is left of the token's deadline"


USE_DEFAULT: Final = _Unset.USE_DEFAULT
Timeout: TypeAlias = float | _Unset | None
"""Seconds; None for ever, `USE_DEFAULT` what the handle's deadline leaves, and without one 24 hours."""


class RetryAfterTooLate(Exception):
    """The service asks to wait for longer than there is time: `refusal` is its answer."""

    def __init__(self, refusal: ExportError) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@frozen(eq=False)
class Limit:
    """How long one wait may last: `ends` in the loop's time, None for ever.

    `deadline`: the same by the calendar for whoever takes over, None for no such limit.
    """

    ends: float | None
    deadline: datetime | None


@define(eq=False)
class Limits:
    """The limits of the waits for one run that go on."""

    _open: list[Limit] = field(factory=list, init=False)
    _left: list[Limit] = field(factory=list, init=False)  # of waits cancelled since the last began

    @contextmanager
    def limited(self, timeout: Timeout, deadline: datetime | None) -> Iterator[Limit]:
        """The limit of one wait, while it goes on. `deadline` is that of the handle."""
        limit = _limit(timeout, deadline)
        self._left.clear()
        self._open.append(limit)
        try:
            yield limit
        except asyncio.CancelledError:
            self._left.append(limit)
            raise
        finally:
            self._open.remove(limit)

    def latest(self, deadline: datetime | None) -> datetime | None:
        """Until when whoever takes over may wait. `deadline` is that of the handle."""
        now = datetime.now(UTC)
        left = [limit for limit in self._left if limit.deadline is None or limit.deadline > now]
        deadlines = [limit.deadline for limit in self._open or left] or [deadline]
        known = [one for one in deadlines if one is not None]
        return max(known) if len(known) == len(deadlines) else None


def _limit(timeout: Timeout, deadline: datetime | None) -> Limit:
    now, clock = datetime.now(UTC), asyncio.get_running_loop().time
    if isinstance(timeout, _Unset):
        seconds = (deadline - now).total_seconds() if deadline else DEFAULT_TIMEOUT
        return Limit(ends=clock() + seconds, deadline=deadline)
    timeout = validate_timeout(timeout)
    if timeout is None or timeout > _FOR_EVER:
        return Limit(ends=None, deadline=None)
    return Limit(ends=clock() + timeout, deadline=now + timedelta(seconds=timeout))
