"""`itwin-export check`: what an export would lack, before it is started."""

import json
from datetime import UTC, datetime

import pytest

from itwin_export_async import ClientHealth, ExportClient
from itwin_export_async.cli.commands.check import MAX_IMODELS
from tests.support.command import CommandLine
from tests.support.fakes import answer


def findings(out: str) -> dict[str, bool | None]:
    return {line["subject"]: line["ok"] for line in map(json.loads, out.splitlines())}


def test_everything_is_there(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    code, out, err = cli.invoke("check", imodel_id)
    assert (code, err, "FAIL" in out) == (0, "", False)
    assert "ok    token:    accepted; ends at " in out
    assert "it is renewed" in out
    assert "ok    iModel:   Bridge in iTwin " in out
    assert "30 days" in out
    assert "5,000 a minute" in out
    assert cli.emulator.count("create_connection") == cli.emulator.count("create_run") == 0
    code, out, _ = cli.invoke("check", imodel_id, "--json", "--tier", "community")
    expected = {"token": True, "iModel": True, "rights": True, "consent": True, "tier": None}
    assert findings(out) == expected
    assert "500 a minute and 5,000 an hour" in out


def test_missing_rights_are_named_with_the_administrator(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    itwin = cli.emulator.itwin_id(imodel_id)
    cli.emulator.set_permissions(itwin, ["imodels_webview", "imodels_read", "storage_read"])
    code, out, err = cli.invoke("check", imodel_id)
    assert (code, "an export would not work" in err) == (4, True)
    assert "FAIL  rights:   Bridge lacks storage_write" in out
    assert "administrator" in out


def test_missing_consent_is_named_with_its_page(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.user_authorized = False
    code, out, _ = cli.invoke("check", imodel_id)
    assert (code, "FAIL  consent:  missing; the user can give it at https://" in out) == (4, True)
    code, out, _ = cli.invoke("check", imodel_id, "--authentication-type", "Service")
    assert (code, "not needed for Service connections" in out) == (0, True)


def test_imodel_without_access_says_how_to_become_a_member(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge", authorized=False)
    code, out, _ = cli.invoke("check", imodel_id)
    assert (code, "FAIL  access:" in out) == (4, True)
    assert f"{cli.emulator.client_id}@apps.imsoidc.bentley.com" in out
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", cli.emulator.token())
    code, out, _ = cli.invoke("check", imodel_id)
    assert (code, "the user has to be a member of the iTwin" in out) == (4, True)


def test_rejected_credentials_are_about_the_token(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    monkeypatch.setenv("ITP_SERVICE_CLIENT_SECRET", "planted-secret")
    code, out, _ = cli.invoke("check", imodel_id, "--json")
    assert (code, findings(out)) == (4, {"token": False, "tier": None})
    assert "planted" not in out


def test_fixed_token_is_not_renewed(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", cli.emulator.token())
    code, out, _ = cli.invoke("check", imodel_id)
    assert (code, "token:    accepted" in out) == (0, True)


def test_end_of_a_fixed_token_is_named(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    health = ClientHealth(is_open=True, token_expires_at=datetime(2100, 1, 1, tzinfo=UTC))
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", cli.emulator.token())
    monkeypatch.setattr(ExportClient, "health", lambda _: health)
    code, out, _ = cli.invoke("check", imodel_id)
    assert (code, "ITWIN_ACCESS_TOKEN is not renewed" in out) == (0, True)


def test_model_that_is_not_initialized_cannot_be_exported(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge", state="notInitialized")
    code, out, _ = cli.invoke("check", imodel_id)
    assert (code, "Bridge is not initialized: nothing to export" in out) == (4, True)


def test_itwin_is_checked_as_a_whole(cli: CommandLine) -> None:
    first = cli.emulator.add_imodel("Bridge")
    itwin = cli.emulator.itwin_id(first)
    second = cli.emulator.add_imodel("Tunnel", itwin_id=itwin)
    code, out, _ = cli.invoke("check", "--itwin", itwin)
    assert (code, "lists 2 iModels, 2 of them initialized" in out) == (0, True)
    assert "all there, of 2 iModels" in out
    cli.emulator.set_permissions(second, ["imodels_webview"])
    code, out, _ = cli.invoke("check", "--itwin", itwin)
    assert (code, "Tunnel lacks imodels_read (a role with View or Read" in out) == (4, True)


def test_very_large_itwin_is_checked_in_part(cli: CommandLine) -> None:
    itwin = cli.emulator.itwin_id(cli.emulator.add_imodel("Bridge"))
    for number in range(MAX_IMODELS):
        cli.emulator.add_imodel(f"Tunnel {number}", itwin_id=itwin)
    code, out, _ = cli.invoke("check", "--itwin", itwin)
    assert (code, f"only the first {MAX_IMODELS} iModels were checked" in out) == (0, True)
    cli.emulator.set_permissions(itwin, ["imodels_webview", "imodels_read", "storage_read"])
    assert " and 45 more lacks storage_write" in cli.invoke("check", "--itwin", itwin)[1]


def test_empty_itwin_says_how_to_become_a_member(cli: CommandLine) -> None:
    itwin = cli.emulator.itwin_id(cli.emulator.add_imodel("Bridge", authorized=False))
    code, out, _ = cli.invoke("check", "--itwin", itwin)
    assert (code, "lists no iModel; an administrator has to add" in out) == (4, True)


def test_consent_without_a_page_is_named(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    unknown = answer(200, '{"authorizationInformation": {"isUserAuthorized": false}}')
    cli.emulator.inject("get_authorization", unknown, unknown)
    code, out, _ = cli.invoke("check", imodel_id)
    assert (code, "consent:  missing; the user can give it. Service" in out) == (4, True)


def test_outage_is_exit_code_1(cli: CommandLine) -> None:
    imodel_id = cli.emulator.add_imodel("Bridge")
    cli.emulator.inject("get_imodel", *[answer(503)] * 5)
    assert cli.invoke("check", imodel_id)[0] == 1


@pytest.mark.parametrize("words", [(), ("m", "--itwin", "i"), ("m",), ("--itwin", "i")])
def test_mistake_is_exit_code_2(cli: CommandLine, words: tuple[str, ...]) -> None:
    assert cli.invoke("check", *words)[0] == 2
    assert cli.emulator.requests == []
