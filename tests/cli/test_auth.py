"""The user's consent to background work, in virtual time."""

import asyncio
import json
import webbrowser

import pytest

from itwin_export_async import AuthorizationRequired
from itwin_export_async.cli.commands.auth import show_status, wait_for_consent
from itwin_export_async.cli.errors import message
from tests.support.command import CommandLine
from tests.support.fakes import answer


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that were opened in a browser."""
    pages: list[str] = []
    monkeypatch.setattr(webbrowser, "open", pages.append)
    return pages


async def test_given_consent_is_not_waited_for(
    cli: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    await wait_for_consent(cli.invocation)
    assert capsys.readouterr().out == "The user has consented.\n"
    assert cli.emulator.count("get_authorization") == 1


async def test_consent_page_is_named_and_the_consent_waited_for(
    cli: CommandLine, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.emulator.user_authorized = False
    asyncio.get_running_loop().call_later(100, setattr, cli.emulator, "user_authorized", True)
    await wait_for_consent(cli.invocation, open_page=True)
    out = capsys.readouterr().out
    (page,) = opened
    assert page.startswith("https://connect-itwinbridgeportal.bentley.com/")
    assert page in out
    assert out.endswith("The user has consented.\n")
    assert 5 < cli.emulator.count("get_authorization") < 20


async def test_missing_consent_page_is_not_shown_as_one(
    cli: CommandLine, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = answer(200, '{"authorizationInformation": {"isUserAuthorized": false}}')
    cli.emulator.inject("get_authorization", unknown)
    asyncio.get_running_loop().call_later(1, setattr, cli.emulator, "user_authorized", True)
    await wait_for_consent(cli.invocation, open_page=True)
    assert capsys.readouterr().out == (
        "The user has to sign in and consent; the service does not name the page.\n"
        "The user has consented.\n"
    )
    assert opened == []
    assert message(AuthorizationRequired()).endswith("exports in their name")


def consent_at(page: str) -> str:
    href = {"authorizationUrl": {"href": page}}
    value = {"isUserAuthorized": False, "_links": href}
    return json.dumps({"authorizationInformation": value})


async def test_consent_page_does_not_act_on_the_terminal(
    cli: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    page = consent_at("https://x.example/\x1b[2J")
    cli.emulator.inject("get_authorization", answer(200, page))
    await wait_for_consent(cli.invocation)
    assert "  https://x.example/\\x1b[2J\n" in capsys.readouterr().out


async def test_consent_page_is_opened_over_https_only(cli: CommandLine, opened: list[str]) -> None:
    page = consent_at("file:///etc/passwd")
    cli.emulator.inject("get_authorization", answer(200, page))
    await wait_for_consent(cli.invocation, open_page=True)
    assert opened == []


async def test_consent_that_does_not_come_is_an_error(cli: CommandLine, opened: list[str]) -> None:
    cli.emulator.user_authorized = False
    with pytest.raises(AuthorizationRequired, match="connect-itwinbridgeportal"):
        await wait_for_consent(cli.invocation, timeout=60)
    assert opened == []


@pytest.mark.parametrize("words", [[], ["--synchronization"]])
def test_consent_that_does_not_come_is_exit_code_4(cli: CommandLine, words: list[str]) -> None:
    assert cli.invoke("auth", "consent", *words)[0] == 0
    cli.emulator.user_authorized = False
    code, out, err = cli.invoke("auth", "consent", "--timeout", "1m", *words)
    assert code == 4
    assert "https://connect-itwinbridgeportal" in out
    assert "has not authorized exports" in err


def test_consent_is_printed_as_json(cli: CommandLine) -> None:
    cli.emulator.user_authorized = False
    code, out, _ = cli.invoke("auth", "consent", "--timeout", "1m", "--json")
    assert (code, json.loads(out)["is_user_authorized"]) == (4, False)
    cli.emulator.user_authorized = True
    assert json.loads(cli.invoke("auth", "consent", "--json")[1])["is_user_authorized"] is True


async def test_status_says_whether_the_user_has_consented(
    cli: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await show_status(cli.invocation) == 0
    assert "30 days" in capsys.readouterr().out
    cli.emulator.user_authorized = False
    assert await show_status(cli.invocation) == 4
    assert "not consented; the page for it: https://" in capsys.readouterr().out
    assert await show_status(cli.invocation, as_json=True) == 4
    assert json.loads(capsys.readouterr().out)["is_user_authorized"] is False
