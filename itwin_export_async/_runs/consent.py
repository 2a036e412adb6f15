"""The user's consent to background work, asked for before it is needed."""

import asyncio
from collections import defaultdict

from itwin_export_async._errors import AuthorizationRequired
from itwin_export_async._http.session import Session
from itwin_export_async._models import AuthorizationInformation, Connection
from itwin_export_async._protocol.authorization import (
    get_authorization_request,
    needs_consent,
    parse_authorization,
    validate_redirect_url,
)
from itwin_export_async._protocol.runs import Service

REMEMBERED = 5.0  # seconds for which a lack is not asked for again: nobody agrees sooner


class Consent:
    """What one client knows of the user's consent: that it was given for good, that it lacks for
    a few seconds.

    `redirect_url`: where the page of the consent sends the user afterwards.
    """

    def __init__(self, session: Session, redirect_url: str) -> None:
        self._session = session
        self._redirect_url = validate_redirect_url(redirect_url)
        self._known: dict[Service, tuple[AuthorizationInformation, float]] = {}
        self._asking: defaultdict[Service, asyncio.Lock] = defaultdict(asyncio.Lock)

    def forget(self) -> None:
        """Know nothing any more: the client is opened, maybe in another event loop."""
        self._known.clear()
        self._asking.clear()

    async def require(self, service: Service, connection: Connection) -> None:
        """Raise `AuthorizationRequired` if the connection's runs need a consent that is lacking."""
        if not needs_consent(connection):
            return
        async with self._asking[service]:
            told = await self._told(service)
        if not told.is_user_authorized:
            raise AuthorizationRequired(url=told.authorization_url)

    async def _told(self, service: Service) -> AuthorizationInformation:
        clock = asyncio.get_running_loop().time
        if service in self._known:
            told, at = self._known[service]
            if told.is_user_authorized or clock() - at < REMEMBERED:
                return told
        told = await self.ask(service, self._redirect_url)
        self._known[service] = told, clock()
        return told

    async def ask(self, service: Service, redirect_url: str) -> AuthorizationInformation:
        """What the service says now."""
        request = get_authorization_request(service, redirect_url)
        return parse_authorization(await self._session.send(request))
