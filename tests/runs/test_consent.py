"""The user's consent to background work."""

import asyncio
from pathlib import Path

import pytest

from itwin_export_async import AuthorizationRequired, Connection, ExportClient
from itwin_export_async._models import AuthenticationType
from itwin_export_async._protocol.runs import Service
from itwin_export_async._runs.consent import NEGATIVE_TTL, Consent
from itwin_export_async.emulator import Emulator
from tests.support.batches import collect, maker

USERS = Connection(id="c1", authentication_type=AuthenticationType.USER)
SERVICES = Connection(id="c2", authentication_type=AuthenticationType.SERVICE)


@pytest.fixture
def consent(client: ExportClient) -> Consent:
    return Consent(client.session, "https://example.com/back")


async def test_consent_is_read_once(consent: Consent, emulator: Emulator) -> None:
    await asyncio.gather(*(consent.require(Service.EXPORT, USERS) for _ in range(50)))
    assert emulator.count("get_authorization") == 1
    await consent.require(Service.SYNCHRONIZATION, USERS)
    assert emulator.count("get_synchronization_authorization") == 1


async def test_runs_of_a_service_need_none(consent: Consent, emulator: Emulator) -> None:
    emulator.user_authorized = False
    await consent.require(Service.EXPORT, SERVICES)
    await consent.require(Service.EXPORT, Connection(id="c3"))
    assert emulator.requests == []


async def test_missing_consent_names_the_page_and_is_read_again_later(
    consent: Consent, emulator: Emulator
) -> None:
    emulator.user_authorized = False
    for _ in range(3):
        with pytest.raises(
            AuthorizationRequired, match="https://connect-itwinbridgeportal"
        ) as seen:
            await consent.require(Service.EXPORT, USERS)
        assert seen.value.url is not None
        assert "example.com/back" in seen.value.url
    assert emulator.count("get_authorization") == 1
    emulator.user_authorized = True
    await asyncio.sleep(NEGATIVE_TTL)
    await consent.require(Service.EXPORT, USERS)


async def test_consent_that_was_given_meanwhile_is_noticed(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    imodel_id = emulator.add_imodel()
    emulator.user_authorized = False
    with pytest.raises(AuthorizationRequired):
        await client.export_imodel(imodel_id, tmp_path)
    emulator.user_authorized = True
    await asyncio.sleep(5)  # to agree and to come back
    assert (await client.export_imodel(imodel_id, tmp_path)).ok


async def test_exports_that_begin_together_ask_once(
    client: ExportClient, emulator: Emulator, tmp_path: Path
) -> None:
    emulator.user_authorized = False
    emulator.latency = 10
    requests = maker(emulator, tmp_path)(20)
    outcomes = await collect(client, requests)
    assert {type(outcome.error) for outcome in outcomes} == {AuthorizationRequired}
    assert emulator.count("get_authorization") == 1


async def test_client_that_is_opened_again_asks_again(consent: Consent, emulator: Emulator) -> None:
    await consent.require(Service.EXPORT, USERS)
    consent.reset()
    await consent.require(Service.EXPORT, USERS)
    assert emulator.count("get_authorization") == 2


def test_way_back_is_an_absolute_address() -> None:
    with pytest.raises(ValueError, match="redirect_url"):
        ExportClient("token", redirect_url="here")
