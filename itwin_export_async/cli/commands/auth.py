"""`itwin-export auth`: the user's consent to background work in their name."""

import asyncio
import webbrowser
from typing import Annotated

import typer

from itwin_export_async import AuthorizationInformation, AuthorizationRequired, ExportClient
from itwin_export_async.cli.command import Invocation
from itwin_export_async.cli.options import AsJson, parse_duration
from itwin_export_async.cli.output.console import echo
from itwin_export_async.cli.output.json_lines import print_json

REDIRECT_URL = "https://developer.bentley.com/"  # where the consent page sends the user afterwards
CONSENT_DAYS = 30
_FIRST_PAUSE = 3.0
_MAX_PAUSE = 30.0

Synchronization = Annotated[
    bool, typer.Option("--synchronization", help="For synchronizations instead of exports.")
]


async def show_status(
    invocation: Invocation, synchronization: Synchronization = False, as_json: AsJson = False
) -> int:
    """Show whether the user has consented. Exit code 4 if not."""
    async with invocation.open_client() as client:
        information = await _read(client, synchronization)
    is_given, page = information.is_user_authorized, information.authorization_url
    if as_json:
        print_json({"is_user_authorized": is_given, "authorization_url": page})
    elif is_given:
        echo(f"The user has consented. Consent ends {CONSENT_DAYS} days after it was given.")
    else:
        echo(f"The user has not consented{f'; the page for it: {page}' if page else ''}")
    return 0 if is_given else 4


async def wait_for_consent(
    invocation: Invocation,
    synchronization: Synchronization = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    timeout: Annotated[
        float,
        typer.Option(
            parser=parse_duration,
            help="How long to wait for the user, then exit code 4.",
            metavar="DURATION",
            show_default="10m",
        ),
    ] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Show the page on which the user consents to background work, and wait for the consent."""
    async with invocation.open_client() as client:
        information = await _read(client, synchronization)
        page = information.authorization_url
        if not information.is_user_authorized:
            where = f" here:\n  {page}" if page else "; the service does not name the page."
            echo(f"The user has to sign in and consent{where}") if not as_json else print_json(
                {"is_user_authorized": False, "authorization_url": page}
            )
            if open_page and page and page.startswith("https://"):
                await asyncio.to_thread(webbrowser.open, page)
            await _poll(client, synchronization, timeout, page)
    if as_json:
        print_json({"is_user_authorized": True, "authorization_url": page})
    else:
        echo("The user has consented.")


async def _read(client: ExportClient, synchronization: bool) -> AuthorizationInformation:
    service = client.synchronization if synchronization else client
    return await service.get_authorization(REDIRECT_URL)


async def _poll(
    client: ExportClient, synchronization: bool, timeout: float, page: str | None
) -> None:
    try:
        async with asyncio.timeout(timeout):
            pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            while not (await _read(client, synchronization)).is_user_authorized:
                pause = min(pause + _FIRST_PAUSE, _MAX_PAUSE)
                await asyncio.sleep(pause)
    except TimeoutError:
        raise AuthorizationRequired(url=page) from None
