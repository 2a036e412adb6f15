"""The log of requests: the latest ones, and how many there were of each operation."""

from collections import Counter

from attrs import frozen

_MAX_RECORDS = 100_000


@frozen(kw_only=True)
class RequestRecord:
    """One request: when it arrived, in seconds since the first, and its answer.

    `number` counts all requests from 1. `operation` is "unknown" if the gateway does not know it.
    `status` and `answered_at` are None without an answer. `fault` names the fault that the request
    met, None for none.
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
    """The requests. The oldest records are dropped when there are too many, but stay counted."""

    def __init__(self, max_records: int = _MAX_RECORDS) -> None:
        self.records: list[RequestRecord] = []
        self.counts: Counter[str] = Counter()
        self._max_records = max_records

    @property
    def next_number(self) -> int:
        """The number of the next request."""
        return self.counts.total() + 1

    def add(self, record: RequestRecord) -> None:
        """Add a record."""
        self.counts[record.operation] += 1
        self.records.append(record)
        if len(self.records) > self._max_records * 1.1:  # rarely: it moves all other records
            del self.records[: -self._max_records]
