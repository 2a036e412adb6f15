"""Find a connection by its name, or create it.

Creation is never repeated blindly: after an uncertain one the list is read several times, because
lists lag behind, and after a 201 nothing is created again. Of several connections with the name,
the first of the service's list is used, so that concurrent processes agree afterwards.
"""

import asyncio
import logging
import unicodedata
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from typing import TypeAlias

from attrs import frozen

from itwin_export_async._errors import ExportError, NotFound, ProtocolError
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
from itwin_export_async._protocol.messages import Response
from itwin_export_async._protocol.runs import Service

Find: TypeAlias = Callable[[], Awaitable[Connection | None]]

log = logging.getLogger("itwin_export_async.runs")

CREATED = 201
LIST_DELAYS = (0.5, 1.5, 3.0, 5.0)
"""Seconds before each list call after an uncertain creation: about 10 s for a lagging list."""


async def _once(find: Find) -> Connection | None:
    return await find()


async def find_or_create_connection(
    session: Session,
    imodel_id: str,
    display_name: str,
    authentication_type: AuthenticationType | None,
    retry: Callable[[Find], Awaitable[Connection | None]] = _once,
) -> Connection:
    """Return the iModel's connection with this name and, unless None, authentication type.

    Concurrent calls of one session for the same name run one after another. `retry` makes the
    list calls after an uncertain creation, so that an outage cannot hide what was created.
    """
    if not isinstance(display_name, str):
        raise TypeError(f"display_name must be a string, not {type(display_name).__name__}")
    name = normalize_name(display_name)
    if not name:
        raise ValueError("display_name is empty")
    lock = session.locks.setdefault((imodel_id, name, authentication_type), asyncio.Lock())
    finder = _Finder(
        session=session,
        imodel_id=imodel_id,
        display_name=display_name,
        authentication_type=authentication_type,
        retry=retry,
    )
    async with lock:
        return await finder.find() or await finder.create()


@frozen(kw_only=True)
class _Finder:
    session: Session
    imodel_id: str
    display_name: str
    authentication_type: AuthenticationType | None
    retry: Callable[[Find], Awaitable[Connection | None]]

    async def find(self) -> Connection | None:
        """The first connection of the list that fits, None without one."""
        try:
            connections = await list_connections(self.session, self.imodel_id)
        except NotFound as error:
            if not means_empty(error):
                raise
            return None
        return first_match(connections, self.display_name, self.authentication_type)

    async def create(self) -> Connection:
        """A new connection, or one that an uncertain creation of this call has made."""
        creation = create_connection_request(
            self.imodel_id, self.display_name, self.authentication_type
        )
        for attempt in count(1):
            response = None
            try:
                response = await self.session.send(creation)
                created = parse_created_connection(response, Connection)
            except ExportError as error:
                if not error.may_have_been_processed:
                    raise
                self._log(logging.INFO, f"creation is uncertain, listing again: {error}")
                found = await self._find_after_delays()
                if found is not None:
                    return found
                if response is not None and response.status == CREATED:
                    raise self._unnamed_error(response) from error
                if attempt >= self.session.retry.attempts:
                    raise
            else:
                self._log(logging.INFO, "created", created.id)
                self.session.remember_new_connection(created.id)
                return created
        raise AssertionError  # pragma: no cover - the loop above has no other end

    async def _find_after_delays(self) -> Connection | None:
        for delay in LIST_DELAYS:
            await asyncio.sleep(delay)
            found = await self.retry(self.find)
            if found is not None:
                return found
        return None

    def _unnamed_error(self, response: Response) -> ProtocolError:
        return ProtocolError(
            message=f"connection {self.display_name!r} of iModel {self.imodel_id} was created, but "
            "the response does not name it and the list does not show it yet; call again later",
            method=response.method,
            url=response.url,
        )

    def _log(self, level: int, event: str, connection_id: str | None = None) -> None:
        fields = {"imodel_id": self.imodel_id, "operation": "create_connection"}
        if connection_id is not None:
            fields["connection_id"] = connection_id
        log.log(
            level,
            "connection %r of iModel %s: %s%s",
            self.display_name,
            self.imodel_id,
            event,
            f" {connection_id}" * (connection_id is not None),
            extra={"itwin": fields},
        )


def first_match(
    connections: Iterable[Connection], name: str, authentication_type: AuthenticationType | None
) -> Connection | None:
    """The first connection of the list with this name and authentication type (None: any)."""
    wanted = normalize_name(name)
    return next(
        (
            connection
            for connection in connections
            if normalize_name(connection.display_name or "") == wanted
            and authentication_type in (None, connection.authentication_type)
        ),
        None,
    )


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
