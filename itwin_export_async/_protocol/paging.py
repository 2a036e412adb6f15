"""Lists, page by page.

The service's `next` links cannot be followed as they are: they lose parameters, use `&` for `?`,
jump, hold a literal `{connectionId}`, and stand on the last page too. So each page's query is built
from the list's parameters, the offset advances by the number of items received, and a page is the
last one if it is empty, has no new item, or has no `next`.
"""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from attrs import frozen

from itwin_export_async._protocol.codec import decode_list, json_object
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.messages import Response
from itwin_export_async._protocol.model_hooks import href

T = TypeVar("T")


@frozen(kw_only=True)
class Page(Generic[T]):
    """The items of one page, and whether the service says that another page follows."""

    items: tuple[T, ...]
    has_next: bool


def checked_page_size(page_size: Any) -> int | None:
    """The page size, or an error if it cannot be requested. None leaves it to the service."""
    if page_size is None:
        return None
    if not isinstance(page_size, int) or isinstance(page_size, bool):
        raise TypeError(f"page_size must be a whole number, not {page_size!r}")
    if page_size < 1:
        raise ValueError(f"page_size must be at least 1, not {page_size}")
    return page_size


def page_query(parameters: Mapping[str, str], page_size: int | None, offset: int) -> str:
    """The query of one page with its `?`, or nothing. `$top` is sent only with a page size."""
    pairs = dict(parameters)
    if offset:
        pairs["$skip"] = str(offset)
    if page_size is not None:
        pairs["$top"] = str(page_size)
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs.items())
    return f"?{query}" if query else ""


def page_of(response: Response, member: str, cls: type[T]) -> Page[T]:
    """The page in a response."""
    if response.status != 200:
        raise error_from_response(response)
    return Page(
        items=decode_list(response, member, cls),
        has_next=href(json_object(response), "next") is not None,
    )


def new_items(page: Page[T], seen: set[str]) -> tuple[T, ...]:
    """The items whose ids are not in `seen`, each id once: pages overlap when a list changes."""
    fresh: dict[str, T] = {}
    for item in page.items:
        if (id := _id(item)) not in seen:
            fresh.setdefault(id, item)
    return tuple(fresh.values())


def ids_of(items: tuple[Any, ...]) -> tuple[str, ...]:
    """The ids of the items."""
    return tuple(_id(item) for item in items)


def _id(item: Any) -> str:
    id: str = item.id
    return id
