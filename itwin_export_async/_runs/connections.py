"""Find a connection by its name, or create it.

Creation is never repeated blindly: after an uncertain one the list is read several times, because
lists lag behind, and after a 201 nothing is created again. Of several connections with the name,
the first of the service's list is used, so that concurrent processes agree afterwards.
"""

import asyncio
import logging
import unicodedata
from collections.abc import Iterable

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

log = logging.getLogger("itwin_export_async.runs")

LIST_DELAYS = (0.5, 1.5, 3.0, 5.0)
"""Seconds before each list call after an uncertain creation: about 10 s for a lagging list."""


async def find_or_create_connection(
    session: Session,
    imodel_id: str,
    display_name: str,
    authentication_type: AuthenticationType | None,
) -> Connection:
    """Return the iModel's connection with this name and, unless None, authentication type.

    Concurrent calls of one session for the same name run one after another.
    """
    if not isinstance(display_name, str):
        raise TypeError(f"display_name must be a string, not {type(display_name).__name__}")
    name = normalize_name(display_name)
    if not name:
        raise ValueError("display_name is empty")
    lock = session.locks.setdefault((imodel_id, name, authentication_type), asyncio.Lock())
    async with lock:
        return await _find_or_create_locked(session, imodel_id, display_name, authentication_type)


async def _find_or_create_locked(
    session: Session,
    imodel_id: str,
    display_name: str,
    authentication_type: AuthenticationType | None,
) -> Connection:
    creation = create_connection_request(imodel_id, display_name, authentication_type)
    name = normalize_name(display_name)
    found = await _find(session, imodel_id, name, authentication_type)
    attempt = 0
    while found is None:
        attempt += 1
        try:
            created = parse_created_connection(await session.send(creation), Connection)
        except ExportError as error:
            if not error.may_have_been_processed:
                raise
            log.info(
                "creation of connection %r of iModel %s is uncertain, listing again: %s",
                display_name,
                imodel_id,
                error,
                extra={"itwin": {"imodel_id": imodel_id, "operation": "create_connection"}},
            )
            found = await _find_after_delay(session, imodel_id, name, authentication_type)
            if found is None and attempt >= session.retry.attempts:
                raise
        else:
            log.info(
                "created connection %s (%r) of iModel %s",
                created.id,
                display_name,
                imodel_id,
                extra={"itwin": {"imodel_id": imodel_id, "connection_id": created.id}},
            )
            return created
    return found


async def _find_after_delay(
    session: Session, imodel_id: str, name: str, authentication_type: AuthenticationType | None
) -> Connection | None:
    for delay in LIST_DELAYS:
        await asyncio.sleep(delay)
        found = await _find(session, imodel_id, name, authentication_type)
        if found is not None:
            return found
    return None


async def _find(
    session: Session, imodel_id: str, name: str, authentication_type: AuthenticationType | None
) -> Connection | None:
    try:
        return first_match(await list_connections(session, imodel_id), name, authentication_type)
    except NotFound as error:
        if not means_empty(error):
            raise
    return None


def first_match(
    connections: Iterable[Connection], name: str, authentication_type: AuthenticationType | None
) -> Connection | None:
    """The first connection of the list with this normalized name and authentication type."""
    for connection in connections:
        if normalize_name(connection.display_name or "") == name and (
            authentication_type in (None, connection.authentication_type)
        ):
            return connection
    return None


def normalize_name(name: str) -> str:
    """The name as it is compared: without outer blanks, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", name.strip())


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
