"""The user's consent to background work: checked before a run that needs it is started.

A consent that was given holds as long as the client is open. It lives 30 days, so a batch reads it
again.
"""

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

NEGATIVE_TTL = 5.0  # seconds for which a missing consent is not read again


class Consent:
    """The consent of one client's user.

    `redirect_url`: where the consent page sends the user afterwards.
    """

    def __init__(self, session: Session, redirect_url: str) -> None:
        self._session = session
        self.redirect_url = validate_redirect_url(redirect_url)
        self._cached: dict[Service, tuple[AuthorizationInformation, float]] = {}
        self._locks: defaultdict[Service, asyncio.Lock] = defaultdict(asyncio.Lock)

    def clear(self) -> None:
        """Read it again before the next run, as each new batch does."""
        self._cached.clear()

    def reset(self) -> None:
        """Begin again: the client is opened, maybe in another event loop."""
        self._cached.clear()
        self._locks.clear()

    async def require(self, service: Service, connection: Connection) -> None:
        """Raise `AuthorizationRequired` if the connection's runs need a consent that is missing."""
        if not needs_consent(connection):
            return
        async with self._locks[service]:
            information = await self._information(service)
        if not information.is_user_authorized:
            raise AuthorizationRequired(url=information.authorization_url)

    async def _information(self, service: Service) -> AuthorizationInformation:
        now = asyncio.get_running_loop().time
        if service in self._cached:
            information, fetched_at = self._cached[service]
            if information.is_user_authorized or now() - fetched_at < NEGATIVE_TTL:
                return information
        information = await self.fetch(service, self.redirect_url)
        self._cached[service] = information, now()
        return information

    async def fetch(self, service: Service, redirect_url: str) -> AuthorizationInformation:
        """Read the consent from the service."""
        request = get_authorization_request(service, redirect_url)
        return parse_authorization(await self._session.send(request))
