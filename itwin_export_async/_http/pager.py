"""Lists as async iterators that request their pages as they are read."""

from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Generic, TypeVar

from itwin_export_async._errors import ProtocolError
from itwin_export_async._http.session import Session
from itwin_export_async._models import Run
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import Page, checked_page_size, ids_of, new_items
from itwin_export_async._protocol.runs import Service, list_runs_request, parse_runs

T = TypeVar("T")

MAX_ITEMS = 1_000_000  # a list that never ends must not fill the memory


class AsyncPager(Generic[T]):
    """The items of a list, requested page by page.

    `async for item in pager` yields items, `async for page in pager.pages()` yields tuples of items
    (one request each), and `await pager` returns all items as one tuple. Each of them starts at the
    first page, and none yields an item twice. `await anext(pager)` returns the first item, then the
    next ones.
    """

    def __init__(
        self,
        session: Session,
        page_size: int | None,
        build_request: Callable[[int | None, int], Request],
        parse_page: Callable[[Response], Page[T]],
    ) -> None:
        self._session = session
        self._page_size = checked_page_size(page_size)
        self._build_request = build_request
        self._parse_page = parse_page
        self._request = build_request(self._page_size, 0)  # raises for an invalid argument at once
        self._items: AsyncIterator[T] | None = None

    def __repr__(self) -> str:
        return f"<AsyncPager of {self._request.url.partition('?')[0]}>"

    def __aiter__(self) -> AsyncIterator[T]:
        return self._iterate()

    async def __anext__(self) -> T:
        if self._items is None:
            self._items = self._iterate()
        return await anext(self._items)

    def __await__(self) -> Generator[Any, None, tuple[T, ...]]:
        return self._all().__await__()

    async def pages(self) -> AsyncIterator[tuple[T, ...]]:
        """The pages, as tuples of items; none is empty."""
        received, seen = 0, set[str]()
        while True:
            request = self._build_request(self._page_size, received)
            page = self._parse_page(await self._session.send(request))
            items = new_items(page, seen)
            if not items:
                return
            yield items
            if not page.has_next:
                return
            seen.update(ids_of(items))
            received += len(page.items)
            if received > MAX_ITEMS:
                raise ProtocolError(
                    message=f"the list has more than {MAX_ITEMS:,} items",
                    method=request.method,
                    url=request.url,
                )

    async def _all(self) -> tuple[T, ...]:
        items: list[T] = []
        async for page in self.pages():
            items.extend(page)
        return tuple(items)

    async def _iterate(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page:
                yield item


def list_runs(
    session: Session, service: Service, connection_id: str, page_size: int | None = None
) -> AsyncPager[Run]:
    """The runs of a connection, in no particular order."""
    return AsyncPager(
        session,
        page_size,
        lambda size, offset: list_runs_request(
            service, connection_id, page_size=size, offset=offset
        ),
        lambda response: parse_runs(response, connection_id),
    )
