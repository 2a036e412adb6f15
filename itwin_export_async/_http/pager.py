"""Lists as async iterators that fetch their pages as they are read."""

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Generic, Self, TypeVar

from itwin_export_async._http.session import Session
from itwin_export_async._models import Run
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import Page, checked_page_size, ids_of, is_new
from itwin_export_async._protocol.runs import Service, list_runs_request, parse_runs

T = TypeVar("T")


class AsyncPager(Generic[T]):
    """The items of a list, fetched page by page as you iterate: `async for item in listing`.

    `async for page in listing.pages()` gives tuples of items instead, one request each, and
    `await listing` all of them as one tuple. Either way it can be read once; a listing asked for
    anew starts anew.
    """

    def __init__(
        self,
        session: Session,
        page_size: int | None,
        ask: Callable[[int | None, int], Request],
        read: Callable[[Response], Page[T]],
    ) -> None:
        self._session = session
        self._page_size = checked_page_size(page_size)
        self._ask = ask
        self._read = read
        self._ask(self._page_size, 0)  # a caller's mistake shows at once
        self._items = self._each()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._items)

    def __await__(self) -> Generator[Any, None, tuple[T, ...]]:
        return self._all().__await__()

    async def pages(self) -> AsyncIterator[tuple[T, ...]]:
        """The pages, as tuples; none is empty."""
        received, earlier = 0, set[str]()
        while True:
            request = self._ask(self._page_size, received)
            page = self._read(await self._session.send(request))
            if not is_new(page, earlier):
                return
            yield page.items
            if not page.has_next:
                return
            earlier.update(ids_of(page))
            received += len(page.items)

    async def _all(self) -> tuple[T, ...]:
        return tuple([item async for item in self])

    async def _each(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page:
                yield item


def list_runs(
    session: Session, service: Service, connection_id: str, page_size: int | None = None
) -> AsyncPager[Run]:
    """The runs of a connection, in no order."""
    return AsyncPager(
        session,
        page_size,
        lambda size, offset: list_runs_request(
            service, connection_id, page_size=size, offset=offset
        ),
        lambda response: parse_runs(response, connection_id),
    )
