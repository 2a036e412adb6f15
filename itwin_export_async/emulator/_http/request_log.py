"""The log of requests: the latest ones, and how many there were of each operation."""

from collections import Counter

from attrs import frozen

from itwin_export_async.emulator._config import Settings


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

    def __init__(self, settings: Settings) -> None:
        self.records: list[RequestRecord] = []
        self.counts: Counter[str] = Counter()
        self._settings = settings

    @property
    def next_number(self) -> int:
        """The number of the next request."""
        return self.counts.total() + 1

    def add(self, record: RequestRecord) -> None:
        """Add a record."""
        self.counts[record.operation] += 1
        self.records.append(record)
        limit = self._settings.max_recorded_requests
        if len(self.records) > limit * 1.1:  # rarely: it moves all other records
            del self.records[:-limit]
