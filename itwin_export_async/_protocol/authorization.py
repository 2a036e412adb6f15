"""The user's consent to background work, which both services ask for alike."""

import re
from urllib.parse import quote

from itwin_export_async._models import AuthenticationType, AuthorizationInformation, Connection
from itwin_export_async._protocol.codec import decode, json_object
from itwin_export_async._protocol.error_responses import refusal
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.runs import Service

_PATHS = {
    Service.EXPORT: "/export/authorizationinformation",
    Service.SYNCHRONIZATION: "/synchronization/imodels/connections/authorizationinformation",
}
_HOST = r"([^/?#\s\[\]\\]+|\[[0-9a-f:.]+\](:\d+)?)"
_ABSOLUTE = re.compile(rf"[a-z][a-z0-9+.-]*://{_HOST}([/?#]\S*)?", re.IGNORECASE)


def needs_consent(connection: Connection) -> bool:
    """Whether its runs are known to work in a user's name."""
    return connection.authentication_type == AuthenticationType.USER


def checked_redirect_url(redirect_url: str) -> str:
    """The address itself, or an error that says what is wrong with it."""
    if not isinstance(redirect_url, str):
        raise TypeError(f"redirect_url must be a string, not {redirect_url!r}")
    if not _ABSOLUTE.fullmatch(redirect_url):
        raise ValueError(f"redirect_url {redirect_url!r} must be an absolute address")
    return redirect_url


def get_authorization_request(service: Service, redirect_url: str) -> Request:
    """Ask whether the user has agreed to background work."""
    query = f"redirectUrl={quote(checked_redirect_url(redirect_url), safe='')}"
    return Request(method="GET", url=f"{_PATHS[service]}?{query}")


def parse_authorization(response: Response) -> AuthorizationInformation:
    """What the service says of the user's consent, wrapped in an object or not."""
    match response.status:
        case 200:
            member = "authorizationInformation"
            bare = "isUserAuthorized" in json_object(response)
            return decode(response, "" if bare else member, AuthorizationInformation)
        case _:
            raise refusal(response)
