"""Lists, page by page.

The service's `next` links cannot be followed as they stand: they lose parameters, use `&` for `?`,
jump, hold a literal `{connectionId}`, and stand on the last page too. So the query is built anew
for every page, the offset advances by what was received, and a page that is empty, brings nothing
new or has no `next` is the last.
"""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from attrs import frozen

from itwin_export_async._protocol.codec import decode_list, href, json_object
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.messages import Response

T = TypeVar("T")


@frozen(kw_only=True)
class Page(Generic[T]):
    """The items of one page, and whether the service says that more follow."""

    items: tuple[T, ...]
    has_next: bool


def checked_page_size(page_size: Any) -> int | None:
    """A page size that can be asked for, None to leave it to the service."""
    if page_size is None:
        return None
    if not isinstance(page_size, int) or isinstance(page_size, bool):
        raise TypeError(f"page_size must be a whole number, not {page_size!r}")
    if page_size < 1:
        raise ValueError(f"page_size must be at least 1, not {page_size}")
    return page_size


def page_query(parameters: Mapping[str, str], page_size: int | None, offset: int) -> str:
    """The query of one page, with its `?`, or nothing. No `$top` is sent unless asked for."""
    pairs = dict(parameters)
    if offset:
        pairs["$skip"] = str(offset)
    if page_size is not None:
        pairs["$top"] = str(page_size)
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs.items())
    return f"?{query}" if query else ""


def page_of(response: Response, member: str, cls: type[T]) -> Page[T]:
    """The page that an answer is."""
    match response.status:
        case 200:
            return Page(
                items=decode_list(response, member, cls),
                has_next=href(json_object(response), "next") is not None,
            )
        case _:
            raise error_from_response(response)


def is_new(page: Page[Any], earlier: set[str]) -> bool:
    """Whether the page holds anything that is not among `earlier`, the ids of those before it."""
    return not earlier.issuperset(ids_of(page))


def ids_of(page: Page[Any]) -> tuple[str, ...]:
    """What tells its items apart."""
    return tuple(item.id for item in page.items)
