"""What was asked, and what came of it: the latest requests, and how many there were in all."""

from collections import Counter

from attrs import frozen

_MOST = 100_000


@frozen(kw_only=True)
class RequestRecord:
    """One request that was made: when, in seconds since the first, and what came of it.

    `number` counts all requests from 1. `operation` is "unknown" where the gateway knows none.
    `status` and `answered_at` are None when no answer was given. `fault` names what befell it on
    its way, None for nothing.
    """

    number: int
    at: float
    operation: str
    method: str
    path: str
    status: int | None
    answered_at: float | None
    fault: str | None = None


class RequestLog:
    """The requests that were made; the oldest go when there are too many, but still count."""

    def __init__(self, most: int = _MOST) -> None:
        self.records: list[RequestRecord] = []
        self.counts: Counter[str] = Counter()
        self._most = most
        self._number = 0

    def next_number(self) -> int:
        """The number of the next request."""
        self._number += 1
        return self._number

    def add(self, record: RequestRecord) -> None:
        """Keep a record."""
        self.counts[record.operation] += 1
        self.records.append(record)
        if len(self.records) > self._most + self._most // 10:  # seldom: it moves all the others
            del self.records[: -self._most]
