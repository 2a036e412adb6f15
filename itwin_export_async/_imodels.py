"""The iModels API: which iModels an iTwin has, and their versions."""

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from itwin_export_async._errors import ProtocolError
from itwin_export_async._http.pager import MAX_ITEMS, AsyncPager
from itwin_export_async._http.session import Session
from itwin_export_async._models.imodels import Changeset, IModel, NamedVersion
from itwin_export_async._protocol import imodels
from itwin_export_async._protocol.imodels import TokenPage
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import ids_of, new_items

T = TypeVar("T")


class IModelsClient:
    """iModels, named versions and changesets, read only. It is `client.imodels`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def list(
        self,
        itwin_id: str,
        *,
        name: str | None = None,
        search: str | None = None,
        page_size: int | None = None,
    ) -> AsyncPager[IModel]:
        """List the iModels of an iTwin that the caller may see.

        `name`: the exact name; `search`: a part of name or description; give at most one of them.
        `page_size`: at most 1000, None for 1000. iModels that the caller may not see are absent
        without an error, and a service application that is no member of the iTwin gets none.

        https://developer.bentley.com/apis/imodels-v2/operations/get-itwin-imodels/
        """
        return _TokenPager(
            self._session,
            page_size,
            lambda size, token: imodels.list_imodels_request(
                itwin_id, name=name, search=search, page_size=size, token=token
            ),
            imodels.parse_imodels,
        )

    async def get(self, imodel_id: str) -> IModel:
        """Read an iModel. Raises `NotFound`, and `PermissionDenied` without access.

        https://developer.bentley.com/apis/imodels-v2/operations/get-imodel-details/
        """
        request = imodels.get_imodel_request(imodel_id)
        return imodels.parse_imodel(await self._session.send(request))

    def list_named_versions(
        self, imodel_id: str, *, page_size: int | None = None
    ) -> AsyncPager[NamedVersion]:
        """List the named versions of an iModel, hidden ones too, latest in the history first.

        `page_size`: at most 1000, None for 1000.

        https://developer.bentley.com/apis/imodels-v2/operations/get-imodel-named-versions/
        """
        return _TokenPager(
            self._session,
            page_size,
            lambda size, token: imodels.list_named_versions_request(
                imodel_id, page_size=size, token=token
            ),
            imodels.parse_named_versions,
        )

    async def latest_named_version(self, imodel_id: str) -> NamedVersion | None:
        """Return the visible named version that is the latest in the history, None if none is.

        Its position in the history counts, not its creation date.
        """
        request = imodels.latest_named_version_request(imodel_id)
        page = imodels.parse_named_versions(await self._session.send(request))
        visible = [item for item in page.items if (item.state or "visible") == "visible"]
        return visible[0] if visible else None

    async def latest_changeset(self, imodel_id: str) -> Changeset | None:
        """Return the newest changeset, None if the iModel has none.

        https://developer.bentley.com/apis/imodels-v2/operations/get-imodel-changesets/
        """
        request = imodels.latest_changeset_request(imodel_id)
        page = imodels.parse_changesets(await self._session.send(request))
        return page.items[0] if page.items else None

    async def get_permissions(self, imodel_id: str) -> frozenset[str]:
        """Return the caller's permissions in an iModel, such as `imodels_read`."""
        request = imodels.imodel_permissions_request(imodel_id)
        return imodels.parse_permissions(await self._session.send(request))

    async def get_itwin_permissions(self, itwin_id: str) -> frozenset[str]:
        """Return the caller's permissions in an iTwin, such as `storage_write`.

        https://developer.bentley.com/apis/access-control-v2/operations/get-itwin-permissions/
        """
        request = imodels.itwin_permissions_request(itwin_id)
        return imodels.parse_permissions(await self._session.send(request))


class _TokenPager(AsyncPager[T]):
    """A list whose pages follow each other by continuation tokens."""

    def __init__(
        self,
        session: Session,
        page_size: int | None,
        build_request: Callable[[int | None, str], Request],
        parse_page: Callable[[Response], TokenPage[T]],
    ) -> None:
        super().__init__(session, page_size, lambda size, _: build_request(size, ""), parse_page)
        self._build_token_request = build_request
        self._parse_token_page = parse_page

    async def pages(self) -> AsyncIterator[tuple[T, ...]]:
        """The pages, as tuples of items; none is empty."""
        token: str | None = ""
        seen, tokens = set[str](), set[str]()
        while token is not None and token not in tokens:
            tokens.add(token)
            request = self._build_token_request(self._page_size, token)
            page = self._parse_token_page(await self._session.send(request))
            items = new_items(page, seen)
            if not items:
                return
            yield items
            seen.update(ids_of(items))
            if len(seen) > MAX_ITEMS:
                raise ProtocolError(
                    message=f"the list has more than {MAX_ITEMS:,} items",
                    method=request.method,
                    url=request.url,
                )
            token = page.token
