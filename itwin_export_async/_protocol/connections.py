"""Export connections: each operation a pair, the request and what its answer says.

https://developer.bentley.com/apis/export/operations/
"""

import re
from urllib.parse import quote

from itwin_export_async._models import (
    AuthenticationType,
    AuthorizationInformation,
    Connection,
)
from itwin_export_async._models.options import member_of
from itwin_export_async._protocol.addresses import checked_id
from itwin_export_async._protocol.codec import decode, encode, json_object
from itwin_export_async._protocol.http import Request, Response
from itwin_export_async._protocol.paging import Page, page_of, page_query
from itwin_export_async._protocol.refusals import refusal
from itwin_export_async._protocol.runs import Service, connection_path

_ABSOLUTE = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s\[\]]+([/?#]\S*)?$", re.IGNORECASE)


def create_connection(
    imodel_id: str,
    display_name: str | None,
    authentication_type: AuthenticationType | str | None,
) -> Request:
    """Make a connection. Not repeatable: a second request makes a second connection."""
    body = {"iModelId": checked_id("imodel_id", imodel_id)}
    if display_name is not None:
        if not isinstance(display_name, str):
            raise TypeError(f"display_name must be a string, not {display_name!r}")
        body["displayName"] = display_name
    if authentication_type is not None:
        kind = member_of(AuthenticationType, "authentication_type", authentication_type)
        body["authenticationType"] = kind.value
    return Request(
        method="POST",
        url="/export/connections",
        headers={"Content-Type": "application/json"},
        body=encode(body),
        repeatable=False,
    )


def read_created_connection(response: Response) -> Connection:
    """The connection that was made."""
    match response.status:
        case 201:
            return decode(response, "connection", Connection)
        case _:
            raise refusal(response)


def list_connections(imodel_id: str, *, page_size: int | None, offset: int) -> Request:
    """One page of an iModel's connections. The parameter is spelled `imodelId`."""
    parameters = {"imodelId": checked_id("imodel_id", imodel_id)}
    return Request(
        method="GET",
        url=f"/export/connections{page_query(parameters, page_size, offset)}",
    )


def read_connections(response: Response) -> Page[Connection]:
    """One page of connections."""
    return page_of(response, "connections", Connection)


def delete_connection(connection_id: str) -> Request:
    """Delete a connection. Repeatable: deleting twice leaves the same."""
    return Request(method="DELETE", url=connection_path(Service.EXPORT, connection_id))


def read_deleted_connection(response: Response) -> None:
    """Nothing, or the refusal. A 404 after a sending whose answer was lost says that it worked."""
    if response.status != 204 and not (response.status == 404 and response.doubt is not None):
        raise refusal(response)


def get_authorization(redirect_url: str) -> Request:
    """Ask whether the user has agreed to background work."""
    if not isinstance(redirect_url, str):
        raise TypeError(f"redirect_url must be a string, not {redirect_url!r}")
    if not _ABSOLUTE.match(redirect_url):
        raise ValueError(f"redirect_url {redirect_url!r} must be an absolute address")
    query = f"redirectUrl={quote(redirect_url, safe='')}"
    return Request(method="GET", url=f"/export/authorizationinformation?{query}")


def read_authorization(response: Response) -> AuthorizationInformation:
    """What the service says of the user's consent, wrapped in an object or not."""
    match response.status:
        case 200:
            member = "authorizationInformation"
            bare = "isUserAuthorized" in json_object(response)
            return decode(response, "" if bare else member, AuthorizationInformation)
        case _:
            raise refusal(response)
