"""`itwin-export authorize`: the user's consent to background work in their name."""

import asyncio
import webbrowser
from collections.abc import Callable

from itwin_export_async import AuthorizationRequired, ExportClient
from itwin_export_async._client import REDIRECT_URL
from itwin_export_async.cli.output.console import tell

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
        page = told.authorization_url
        where = f" here:\n  {page}" if page else "; the service does not say where."
        tell(f"The user has to sign in and agree{where}")
        if open_page and page:
            await asyncio.to_thread(webbrowser.open, page)
        try:
            async with asyncio.timeout(timeout):
                await asyncio.sleep(pause := _FIRST_PAUSE)
                while not (await ask(REDIRECT_URL)).is_user_authorized:
                    pause = min(pause + _FIRST_PAUSE, _LONGEST_PAUSE)
                    await asyncio.sleep(pause)
        except TimeoutError:
            raise AuthorizationRequired(url=page) from None
        print("The user has agreed.")
