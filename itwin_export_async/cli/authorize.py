"""`itwin-export authorize`: the user's consent to background work in their name."""

import asyncio
import webbrowser
from collections.abc import Callable

from itwin_export_async import AuthorizationRequired, ExportClient
from itwin_export_async._client import REDIRECT_URL
from itwin_export_async.cli.printed import tell

_FIRST_PAUSE = 3.0
_LONGEST_PAUSE = 30.0


async def authorize(
    open_client: Callable[[], ExportClient],
    *,
    synchronization: bool,
    open_page: bool,
    timeout: float,
) -> None:
    """Name the page on which the user agrees, and wait until that is done."""
    async with open_client() as client:
        ask = (client.synchronization if synchronization else client).get_authorization
        told = await ask(REDIRECT_URL)
        if told.is_user_authorized:
            print("The user has agreed already.")
            return
        tell(f"The user has to sign in and agree here:\n  {told.authorization_url}")
        if open_page and told.authorization_url:
            await asyncio.to_thread(webbrowser.open, told.authorization_url)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(pause := _FIRST_PAUSE)
                while not (await ask(REDIRECT_URL)).is_user_authorized:
                    pause = min(pause + _FIRST_PAUSE, _LONGEST_PAUSE)
                    await asyncio.sleep(pause)
        except TimeoutError:
            raise AuthorizationRequired(url=told.authorization_url) from None
        print("The user has agreed.")
