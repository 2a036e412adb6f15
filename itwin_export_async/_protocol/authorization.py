"""The user's consent to background work, of both services.

https://developer.bentley.com/apis/export/operations/get-authorizationinformation/
"""

import re
from urllib.parse import quote

from itwin_export_async._models import AuthenticationType, AuthorizationInformation, Connection
from itwin_export_async._protocol.codec import decode, json_object
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.runs import Service
from itwin_export_async._redaction import safe_repr

_PATHS = {
    Service.EXPORT: "/export/authorizationinformation",
    Service.SYNCHRONIZATION: "/synchronization/imodels/connections/authorizationinformation",
}
_HOST = r"([^/?#\s\[\]\\]+|\[[0-9a-f:.]+\](:\d+)?)"
_ABSOLUTE = re.compile(rf"[a-z][a-z0-9+.-]*://{_HOST}([/?#]\S*)?", re.IGNORECASE)


def needs_consent(connection: Connection) -> bool:
    """Whether runs of the connection are known to work under a user's identity."""
    return connection.authentication_type == AuthenticationType.USER


def validate_redirect_url(redirect_url: str) -> str:
    """The URL itself. Raises `TypeError` or `ValueError` unless it is absolute."""
    if not isinstance(redirect_url, str):
        raise TypeError(f"redirect_url must be a string, not {type(redirect_url).__name__}")
    if not _ABSOLUTE.fullmatch(redirect_url):
        raise ValueError(f"redirect_url {safe_repr(redirect_url)} must be an absolute URL")
    return redirect_url


def get_authorization_request(service: Service, redirect_url: str) -> Request:
    """Read whether the user has consented to background work."""
    query = f"redirectUrl={quote(validate_redirect_url(redirect_url), safe='')}"
    return Request(method="GET", url=f"{_PATHS[service]}?{query}")


def parse_authorization(response: Response) -> AuthorizationInformation:
    """The state of the user's consent. The service wraps it in an object, or does not."""
    if response.status != 200:
        raise error_from_response(response)
    member = "authorizationInformation"
    bare = "isUserAuthorized" in json_object(response)
    return decode(response, "" if bare else member, AuthorizationInformation)
