"""Webhook events: verified before they are parsed, and runs that are polled because of them."""

import asyncio
import hmac
import json
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest

from itwin_export_async import (
    ExecutionResult,
    ExportClient,
    FixedSchedule,
    InvalidSignature,
    ProtocolError,
    SourceFile,
)
from itwin_export_async.emulator import Emulator, WebhookDelivery
from itwin_export_async.transport import Request
from itwin_export_async.webhooks import (
    NamedVersionCreated,
    SynchronizationJobCompleted,
    WebhookEvent,
    read_event,
)
from tests.support.samples import example

SECRET = "s" * 32
ENVELOPE = {"eventType": "iModels.changesReady.v1", "messageId": "m-1", "content": {}}


def signed(event: object, *, secret: str = SECRET) -> tuple[bytes, dict[str, str]]:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return body, {"Signature": f"sha256={hmac.digest(secret.encode(), body, sha256).hex()}"}


def read(event: object) -> WebhookEvent:
    return read_event(SECRET, *signed(event))


def subscribe(emulator: Emulator) -> None:
    """Create an active webhook for all events of the account."""
    headers = {
        "Accept": "application/vnd.bentley.itwin-platform.v2+json",
        "Authorization": f"Bearer {emulator.token()}",
        "User-Agent": "test",
    }

    def ask(method: str, path: str, body: dict[str, object]) -> Any:
        url = f"https://api.bentley.com{path}"
        request = Request(method=method, url=url, headers=headers, body=json.dumps(body).encode())
        return json.loads(emulator.handle(request).body)

    types = ["synchronization.jobCompleted.v1", "iModels.namedVersionCreated.v1"]
    webhook = ask(
        "POST",
        "/webhooks/",
        {
            "callbackUrl": "https://example.com/events",
            "scope": "Account",
            "eventTypes": types,
            "secret": SECRET,
        },
    )
    ask("PATCH", f"/webhooks/{webhook['id']}", {"active": True})


def receive(delivery: WebhookDelivery) -> WebhookEvent:
    return read_event(SECRET, delivery.body, delivery.headers)


def test_an_event_has_its_envelope_and_content() -> None:
    event = read(
        {
            **ENVELOPE,
            "content": {"imodelId": "i"},
            "enqueuedDateTime": "2026-11-03T20:07:01Z",
            "iTwinId": "t",
            "webhookId": "w",
            "Base Event eventType": "odd",
        }
    )
    assert type(event) is WebhookEvent
    assert event == WebhookEvent(
        event_type="iModels.changesReady.v1",
        message_id="m-1",
        webhook_id="w",
        itwin_id="t",
        enqueued_date_time=datetime(2026, 11, 3, 20, 7, 1, tzinfo=UTC),
        content={"imodelId": "i"},
    )
    assert pickle.loads(pickle.dumps(event)) == event
    assert "message_id='m-1'" in repr(event)


def test_a_documented_synchronization_event_is_typed() -> None:
    event = read(example("webhook.synchronization_job_completed.event.json"))
    assert isinstance(event, SynchronizationJobCompleted)
    assert event.connection_id == "MWplZe9Uf0iR1IDMqyOMLqBN0_wHEVBGg_CzJmXdmE4"
    assert event.synchronization_id == "2ad03109-7c6a-47ef-88f6-d15f2a675529"
    assert event.imodel_id == "72640bf2-2173-4276-b896-c157bee0df76"
    assert event.result is ExecutionResult.SUCCESS
    assert event.enqueued_date_time == datetime(2023, 11, 3, 20, 7, 1, tzinfo=UTC)


def test_a_named_version_event_is_typed_also_on_the_baseline() -> None:
    content = {"imodelId": "i", "namedVersionId": "v", "changesetId": "c", "changesetIndex": "7"}
    event = read({**ENVELOPE, "eventType": "iModels.namedVersionCreated.v1", "content": content})
    assert isinstance(event, NamedVersionCreated)
    assert (event.imodel_id, event.named_version_id) == ("i", "v")
    assert (event.changeset_id, event.changeset_index) == ("c", 7)
    content = {"iModelId": "i", "changesetId": "", "changesetIndex": "-"}
    event = read({**ENVELOPE, "eventType": "iModels.namedVersionCreated.v1", "content": content})
    assert isinstance(event, NamedVersionCreated)
    assert (event.imodel_id, event.changeset_id, event.changeset_index) == ("i", None, None)


@pytest.mark.parametrize("date", [None, "", 7, "yesterday", "13/45/2023 8:07:01 PM"])
def test_an_unreadable_date_is_none(date: object) -> None:
    assert read({**ENVELOPE, "enqueuedDateTime": date}).enqueued_date_time is None


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"{", ""),
        (b"[" * 100_000, ""),
        (b"[]", ""),
        (json.dumps({**ENVELOPE, "eventType": ""}).encode(), "eventType"),
        (json.dumps({**ENVELOPE, "messageId": 7}).encode(), "messageId"),
        (
            json.dumps({**ENVELOPE, "eventType": "synchronization.jobCompleted.v1"}).encode(),
            "connectionId",
        ),
        (
            json.dumps({**ENVELOPE, "eventType": "iModels.namedVersionCreated.v1"}).encode(),
            "imodelId",
        ),
    ],
)
def test_a_signed_body_that_is_no_event_is_a_protocol_error(body: bytes, path: str) -> None:
    with pytest.raises(ProtocolError) as error:
        read(body)
    assert error.value.path == path


def test_a_result_may_be_missing_or_unknown() -> None:
    kind = {**ENVELOPE, "eventType": "synchronization.jobCompleted.v1"}
    event = read({**kind, "content": {"connectionId": "c", "result": "exploded"}})
    assert isinstance(event, SynchronizationJobCompleted)
    assert event.result is not None
    assert not event.result.is_known
    event = read({**kind, "content": {"connectionId": "c"}})
    assert isinstance(event, SynchronizationJobCompleted)
    assert event.result is None


BODY, HEADERS = signed(ENVELOPE)
DIGEST = HEADERS["Signature"].removeprefix("sha256=")


@pytest.mark.parametrize(
    "headers",
    [
        {"signature": f"sha256={DIGEST}"},
        {"SIGNATURE": f" sha256={DIGEST.upper()} "},
    ],
)
def test_the_header_is_read_without_case(headers: Mapping[str, str]) -> None:
    assert read_event(SECRET, bytearray(BODY), headers).message_id == "m-1"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Signature": ""},
        {"Signature": DIGEST},
        {"Signature": f"sha1={DIGEST}"},
        {"Signature": f"SHA256={DIGEST}"},
        {"Signature": f"sha256={DIGEST[:-1]}"},
        {"Signature": f"sha256={DIGEST[:-2]}zz"},
        {"Signature": f"sha256={'0' * 64}"},
        {"Signature": f"sha256={DIGEST}", "signature": f"sha256={DIGEST}"},
        {"Signature": f"sha256={hmac.digest(b'other', BODY, sha256).hex()}"},
        {"Signature": "sha256=" + "\N{FULLWIDTH DIGIT ONE}" * 64},
    ],
)
def test_an_event_without_a_valid_signature_is_refused(headers: Mapping[str, str]) -> None:
    with pytest.raises(InvalidSignature, match=r"signature of the form|does not fit") as error:
        read_event(SECRET, BODY, headers)
    assert error.value.public == "the signature of the event is not valid"
    assert SECRET not in str(error.value)
    assert DIGEST not in str(error.value)


def test_one_changed_byte_is_noticed_before_parsing() -> None:
    with pytest.raises(InvalidSignature):
        read_event(SECRET, b"[" * 100, HEADERS)


def test_a_changed_secret_may_overlap_with_the_old_one() -> None:
    body, headers = signed(ENVELOPE, secret="new")
    assert read_event([SECRET, "new"], body, headers).message_id == "m-1"


@pytest.mark.parametrize("secret", ["", [], ["new", ""]])
def test_an_empty_secret_is_refused(secret: Any) -> None:
    with pytest.raises(ValueError, match="secret is empty"):
        read_event(secret, BODY, HEADERS)


def test_a_parsed_body_is_refused() -> None:
    with pytest.raises(TypeError, match="raw bytes of the request, not str"):
        read_event(SECRET, BODY.decode(), HEADERS)  # type: ignore[arg-type]


def test_events_of_the_service_are_repeated_late_or_tampered_with() -> None:
    emulator = Emulator(seed=1, webhook_repeats=2)
    subscribe(emulator)
    imodel_id = emulator.add_imodel()
    changeset_id = emulator.push_changeset(imodel_id)
    version_id = emulator.add_named_version(imodel_id, "released", changeset_id)
    events = [receive(delivery) for delivery in emulator.webhook_deliveries()]
    assert len(events) == 3
    assert len({event.message_id for event in events}) == 1
    (event,) = {event.message_id: event for event in events}.values()
    assert isinstance(event, NamedVersionCreated)
    assert (event.imodel_id, event.named_version_id) == (imodel_id, version_id)
    assert (event.changeset_id, event.changeset_index) == (changeset_id, 1)
    emulator.webhook_tampering = True
    emulator.add_named_version(imodel_id, "again", emulator.push_changeset(imodel_id))
    for delivery in emulator.webhook_deliveries():
        with pytest.raises(InvalidSignature):
            receive(delivery)


async def test_an_event_ends_the_wait_for_the_run_of_its_connection() -> None:
    emulator = Emulator(seed=1, run_seconds=100, webhook_delay=1)
    subscribe(emulator)
    now = asyncio.get_running_loop().time
    async with ExportClient(
        emulator.token(), transport=emulator, schedule=FixedSchedule(600)
    ) as client:
        synchronization = client.synchronization
        runs = []
        for name in ("a.dgn", "b.dgn"):
            file = SourceFile(storage_file_id=emulator.add_file(name, b"x"), connector_type="MSTN")
            connection = await synchronization.create_connection(emulator.add_imodel(), [file])
            runs.append(await synchronization.start_run(connection.id))
        waits = [asyncio.create_task(run.wait()) for run in runs]
        await asyncio.sleep(110)
        first, _ = events = [receive(delivery) for delivery in emulator.webhook_deliveries()]
        assert {type(event) for event in events} == {SynchronizationJobCompleted}
        polls = emulator.count("get_synchronization")
        client.notify(first)
        client.notify(first)
        await asyncio.sleep(1)
        assert emulator.count("get_synchronization") == polls + 1
        client.notify(read({**ENVELOPE, "content": {"imodelId": "i"}}))  # no run of ours
        await asyncio.gather(*waits)
        assert now() > 600
        done, waiting = runs
        assert done.last is not None
        assert waiting.last is not None


async def test_only_an_event_can_be_notified(client: ExportClient) -> None:
    with pytest.raises(TypeError, match="event must be a WebhookEvent, not dict"):
        client.notify({"eventType": "x"})  # type: ignore[arg-type]
