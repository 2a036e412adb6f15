"""The command that waits for the user's consent, in virtual time."""

import asyncio
import json
import webbrowser

import pytest

from itwin_export_async import AuthorizationRequired, ExportClient
from itwin_export_async.cli.commands.auth import authorize
from itwin_export_async.cli.errors import words
from itwin_export_async.emulator import Emulator
from tests.support.fakes import answer


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that were opened in a browser."""
    pages: list[str] = []
    monkeypatch.setattr(webbrowser, "open", pages.append)
    return pages


async def ask(emulator: Emulator, *, open_page: bool = False, timeout: float = 600.0) -> None:
    await authorize(
        lambda: ExportClient(emulator.token(), transport=emulator),
        synchronization=False,
        open_page=open_page,
        timeout=timeout,
    )


async def test_who_has_agreed_is_not_asked_again(
    emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    await ask(emulator)
    assert "agreed already" in capsys.readouterr().out


async def test_the_page_is_named_and_the_consent_waited_for(
    emulator: Emulator, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.user_authorized = False
    asyncio.get_running_loop().call_later(100, setattr, emulator, "user_authorized", True)
    await ask(emulator, open_page=True)
    out = capsys.readouterr().out
    (page,) = opened
    assert page.startswith("https://connect-itwinbridgeportal.bentley.com/")
    assert page in out
    assert out.endswith("The user has agreed.\n")
    assert 5 < emulator.count("get_authorization") < 20


async def test_a_page_that_is_not_told_is_not_shown_as_one(
    emulator: Emulator, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = answer(200, '{"authorizationInformation": {"isUserAuthorized": false}}')
    emulator.inject("get_authorization", unknown)
    asyncio.get_running_loop().call_later(1, setattr, emulator, "user_authorized", True)
    await ask(emulator, open_page=True)
    assert capsys.readouterr().out == (
        "The user has to sign in and agree; the service does not say where.\nThe user has agreed.\n"
    )
    assert opened == []
    assert words(AuthorizationRequired()).endswith("exports in their name")


async def test_a_page_does_not_act_on_the_terminal(
    emulator: Emulator, capsys: pytest.CaptureFixture[str]
) -> None:
    href = {"authorizationUrl": {"href": "https://x.example/\x1b[2J"}}
    told = {"authorizationInformation": {"isUserAuthorized": False, "_links": href}}
    emulator.inject("get_authorization", answer(200, json.dumps(told)))
    await ask(emulator)
    assert "  https://x.example/\\x1b[2J\n" in capsys.readouterr().out


async def test_a_consent_that_does_not_come_is_an_error(
    emulator: Emulator, opened: list[str]
) -> None:
    emulator.user_authorized = False
    with pytest.raises(AuthorizationRequired, match="connect-itwinbridgeportal"):
        await ask(emulator, timeout=60)
    assert opened == []
