"""Webhooks: their management, and the signed events that the emulator sends."""

import asyncio
import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from aiohttp import web

from itwin_export_async._protocol.messages import Request
from itwin_export_async.emulator import Emulator, WebhookDelivery, run_virtual
from tests.emulator.shapes import read, shape
from tests.support.servers import web_server

Caller = Any
V2 = {"Accept": "application/vnd.bentley.itwin-platform.v2+json"}
SECRET = "s" * 32
TYPES = ["synchronization.jobCompleted.v1", "iModels.namedVersionCreated.v1"]


@pytest.fixture
def ask(call: Caller) -> Callable[..., Any]:
    return lambda method, path, body=None: call(method, path, body, headers=V2)


def subscribe(ask: Any, emulator: Emulator, **members: object) -> str:
    """The id of an active webhook for all iTwins."""
    body = {
        "callbackUrl": "https://example.com/events",
        "scope": "Account",
        "eventTypes": TYPES,
        "secret": SECRET,
    } | members
    webhook = read(ask("POST", "/webhooks/", body))
    answer = ask("PATCH", f"/webhooks/{webhook['id']}", {"active": True})
    assert read(answer)["active"] is True
    return str(webhook["id"])


def is_signed(delivery: WebhookDelivery, secret: str = SECRET) -> bool:
    expected = hmac.digest(secret.encode(), delivery.body, sha256).hex()
    return delivery.headers["Signature"] == f"sha256={expected}"


def test_webhooks_are_created_inactive_and_show_their_secret_once(
    ask: Any, emulator: Emulator
) -> None:
    itwin_id = emulator.itwin_id(emulator.add_imodel())
    body = {
        "callbackUrl": "https://example.com/a",
        "scope": "iTwin",
        "scopeId": itwin_id,
        "eventTypes": TYPES,
    }
    answer = ask("POST", "/webhooks/", body)
    assert answer.status == 201
    webhook = read(answer)
    secret = webhook.pop("secret")
    assert len(secret) >= 32
    assert webhook == body | {"id": webhook["id"], "active": False}
    path = f"/webhooks/{webhook['id']}"
    shown = read(ask("GET", path))
    assert shown.keys() - webhook.keys() == {"created", "modified"}
    assert read(ask("GET", "/webhooks/"))["webhooks"] == [shown]
    changed = read(ask("PATCH", path, {"callbackUrl": "https://example.com/b", "active": True}))
    assert (changed["callbackUrl"], changed["active"]) == ("https://example.com/b", True)
    assert read(ask("PATCH", path, {"active": False}))["active"] is False
    assert ask("DELETE", path).status == 204
    assert ask("GET", path).status == 404


@pytest.mark.parametrize(
    ("members", "target"),
    [
        ({"callbackUrl": None}, "callbackUrl"),
        ({"callbackUrl": "http://example.com"}, "callbackUrl"),
        ({"callbackUrl": "https://["}, "callbackUrl"),
        ({"scope": "World"}, "scope"),
        ({"scope": "iTwin"}, "scopeId"),
        ({"scope": "iTwin", "scopeId": 1}, "scopeId"),
        ({"eventTypes": []}, "eventTypes"),
        ({"eventTypes": ["nonsense"]}, "eventTypes"),
        ({"secret": "short"}, "secret"),
    ],
)
def test_webhooks_are_checked(ask: Any, members: dict[str, object], target: str) -> None:
    body = {"callbackUrl": "https://example.com", "scope": "Account", "eventTypes": TYPES}
    answer = ask("POST", "/webhooks/", body | members)
    assert answer.status == 422
    assert [d["target"] for d in json.loads(answer.body)["error"]["details"]] == [target]


def test_a_change_of_a_webhook_is_checked(ask: Any, emulator: Emulator) -> None:
    path = f"/webhooks/{subscribe(ask, emulator)}"
    assert ask("PATCH", path, {"active": 1}).status == 422
    assert ask("PATCH", path, b"[" * 100_000).status == 422


def test_webhooks_are_for_service_applications_that_may(ask: Any, emulator: Emulator) -> None:
    itwin_id = emulator.itwin_id(emulator.add_imodel())
    emulator.set_permissions(itwin_id, ["imodels_read"])
    body = {
        "callbackUrl": "https://example.com",
        "scope": "iTwin",
        "scopeId": itwin_id,
        "eventTypes": TYPES,
    }
    assert ask("POST", "/webhooks/", body).status == 403
    form = f"grant_type=refresh_token&client_id={emulator.client_id}"
    form += f"&refresh_token={emulator.refresh_token()}"
    request = Request(
        method="POST", url="https://ims.bentley.com/connect/token", body=form.encode()
    )
    token = read(emulator.handle(request))["access_token"]
    user = Request(
        method="GET",
        url="https://api.bentley.com/webhooks",
        headers=V2 | {"Authorization": f"Bearer {token}", "User-Agent": "test"},
    )
    assert emulator.handle(user).status == 403


def test_a_synchronization_sends_the_documented_event(caller_of: Any, example: Any) -> None:
    emulator = Emulator(seed=1, run_seconds=100, webhook_delay=20)
    call = caller_of(emulator)

    async def main() -> None:
        subscribe(lambda *args: call(*args, headers=V2), emulator)
        imodel_id = emulator.add_imodel()
        file_id = emulator.add_file("a.dgn", b"x")
        body = {
            "iModelId": imodel_id,
            "sourceFiles": [{"storageFileId": file_id, "connectorType": "MSTN"}],
        }
        connections = "/synchronization/imodels/storageconnections"
        connection = read(call("POST", connections, body))["connection"]
        location = call("POST", f"{connections}/{connection['id']}/run").headers["Location"]
        await asyncio.sleep(110)
        assert emulator.webhook_deliveries() == []
        await asyncio.sleep(20)
        (delivery,) = emulator.webhook_deliveries()
        assert emulator.webhook_deliveries() == []
        assert is_signed(delivery)
        assert not is_signed(delivery, "t" * 32)
        assert delivery.url == "https://example.com/events"
        event = json.loads(delivery.body)
        assert shape(event) == shape(example("webhook.synchronization_job_completed.event"))
        assert event["content"] == {
            "synchronizationId": location.rpartition("/")[2],
            "iModelId": imodel_id,
            "connectionId": connection["id"],
            "result": "success",
        }
        assert event["eventType"] == "synchronization.jobCompleted.v1"
        assert event["iTwinId"] == emulator.itwin_id(imodel_id)

    run_virtual(main())


def test_events_go_to_the_webhooks_that_want_them(ask: Any, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    emulator.add_named_version(imodel_id, "before any webhook")
    itwin_id = emulator.itwin_id(imodel_id)
    subscribe(ask, emulator, scope="iTwin", scopeId=itwin_id)
    subscribe(ask, emulator, scope="iTwin", scopeId=emulator.itwin_id(emulator.add_imodel()))
    subscribe(ask, emulator, eventTypes=["iModels.changesReady.v1"])
    changeset_id = emulator.push_changeset(imodel_id)
    version_id = emulator.add_named_version(imodel_id, "released", changeset_id)
    ready, created = (json.loads(d.body) for d in emulator.webhook_deliveries())
    assert ready["eventType"] == "iModels.changesReady.v1"
    assert ready["content"] == {"imodelId": imodel_id, "changesetId": changeset_id}
    assert created["eventType"] == "iModels.namedVersionCreated.v1"
    assert created["content"] == {
        "changesetId": changeset_id,
        "changesetIndex": "1",
        "imodelId": imodel_id,
        "namedVersionId": version_id,
    }


def test_events_are_repeated_and_tampered_with_on_request(ask: Any, emulator: Emulator) -> None:
    imodel_id = emulator.add_imodel()
    subscribe(ask, emulator)
    emulator.webhook_repeats = 2
    emulator.add_named_version(imodel_id, "released")
    deliveries = emulator.webhook_deliveries()
    assert len(deliveries) == 3
    assert len({json.loads(delivery.body)["messageId"] for delivery in deliveries}) == 1
    assert all(map(is_signed, deliveries))
    emulator.webhook_repeats, emulator.webhook_tampering = 0, True
    emulator.add_named_version(imodel_id, "again", emulator.push_changeset(imodel_id))
    (tampered,) = emulator.webhook_deliveries()
    assert not is_signed(tampered)
    assert json.loads(tampered.body)["messageId"].startswith("0")


@pytest.mark.usefixtures("integration")
async def test_a_served_emulator_posts_events_until_they_are_accepted() -> None:
    emulator = Emulator(seed=1)
    received: asyncio.Queue[bytes] = asyncio.Queue()
    statuses = iter([500, 200, 500, 500, 500])

    async def receive(request: web.Request) -> web.Response:
        received.put_nowait(await request.read())
        return web.Response(status=next(statuses))

    async with web_server(receive) as url, emulator.serve(), asyncio.timeout(20):
        token = emulator.token()

        def ask(method: str, path: str, body: object = None) -> Any:
            return emulator.handle(
                Request(
                    method=method,
                    url=f"https://api.bentley.com{path}",
                    headers=V2 | {"Authorization": f"Bearer {token}"},
                    body=json.dumps(body).encode(),
                )
            )

        subscribe(ask, emulator, callbackUrl="http://localhost:9")  # a closed port
        subscribe(ask, emulator, callbackUrl=url)
        emulator.add_named_version(emulator.add_imodel(), "first")
        assert await received.get() == await received.get()
        emulator.add_named_version(emulator.add_imodel(), "second")
        for _ in range(3):  # then the emulator gives up
            assert b"namedVersionCreated" in await received.get()
        await asyncio.sleep(0.6)
    assert received.empty()
