"""What a batch takes and yields. The batch itself is imported when the first one begins."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from itwin_export_async._models import ExportOutcome, ExportRequest
from itwin_export_async._runs.handle import RunHandle

Requests: TypeAlias = Iterable[ExportRequest] | AsyncIterable[ExportRequest]

ItwinVersion: TypeAlias = Literal["latest", "named"]

OnStart = Callable[[RunHandle], Any]
"""Called with the handle as soon as an export has a run; may be async."""


class ExportOutcomes(AsyncIterator[ExportOutcome]):
    """The outcomes of a batch: an async iterator, and a context manager that ends its waiting.

    Leaving the `async with` block, or `aclose()`, ends the waiting for the exports that still run,
    and never the exports themselves.
    """

    def __init__(self, outcomes: AsyncGenerator[ExportOutcome, None]) -> None:
        self._outcomes = outcomes

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ExportOutcome:
        return await anext(self._outcomes)

    async def aclose(self) -> None:
        """End the waiting; the exports continue at the service."""
        await self._outcomes.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
