"""Export connections found by name, or made: never a twin."""

import asyncio
import logging

from itwin_export_async._errors import ExportError, NotFound
from itwin_export_async._http.pager import AsyncPager
from itwin_export_async._http.session import Session
from itwin_export_async._models import AuthenticationType, Connection
from itwin_export_async._protocol.connections import (
    create_connection_request,
    list_connections_request,
    means_empty,
    parse_connections,
    parse_created_connection,
)
from itwin_export_async._protocol.runs import Service

log = logging.getLogger(__name__)


async def find_or_create(
    session: Session, imodel_id: str, display_name: str, kind: AuthenticationType | None
) -> Connection:
    """The iModel's connection of this name and, unless that is None, of this kind.

    Those who ask a session for the same one take turns: the first makes it, the others find it.
    """
    if not isinstance(display_name, str):
        raise TypeError(f"display_name must be a string, not {type(display_name).__name__}")
    async with session.locks.setdefault((imodel_id, display_name), asyncio.Lock()):
        return await _found_or_created(session, imodel_id, display_name, kind)


async def _found_or_created(
    session: Session, imodel_id: str, display_name: str, kind: AuthenticationType | None
) -> Connection:
    creation = create_connection_request(imodel_id, display_name, kind)
    found = await _find(session, imodel_id, display_name, kind)
    attempt = 0
    while found is None:
        attempt += 1
        try:
            return parse_created_connection(await session.send(creation), Connection)
        except ExportError as error:
            if not error.may_have_been_processed:
                raise
            log.info("connection %r may have been made: %s", display_name, error)
            await asyncio.sleep(session.retry.max_delay(attempt))  # what is slow may still come
            found = await _find(session, imodel_id, display_name, kind)
            if found is None and attempt >= session.retry.attempts:
                raise
    return found


async def _find(
    session: Session, imodel_id: str, display_name: str, kind: AuthenticationType | None
) -> Connection | None:
    try:
        async for connection in list_connections(session, imodel_id):
            named = connection.display_name == display_name
            if named and kind in (None, connection.authentication_type):
                return connection
    except NotFound as error:
        if not means_empty(error):
            raise
    return None


def list_connections(
    session: Session, imodel_id: str, page_size: int | None = None
) -> AsyncPager[Connection]:
    """The export connections of an iModel."""
    return AsyncPager(
        session,
        page_size,
        lambda size, offset: list_connections_request(
            Service.EXPORT, imodel_id, page_size=size, offset=offset
        ),
        lambda response: parse_connections(response, Connection),
    )
