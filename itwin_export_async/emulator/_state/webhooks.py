"""Webhooks: subscriptions, events, and the signed deliveries of the events."""

import hmac
import json
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from random import Random
from typing import Any

from attrs import define, evolve, field, frozen

from itwin_export_async.emulator._state.ids import new_guid

EVENT_TYPES = (
    "iModels.iModelCreated.v1",
    "iModels.iModelDeleted.v1",
    "iModels.changesReady.v1",
    "iModels.namedVersionCreated.v1",
    "synchronization.jobCompleted.v1",
)
_MAX_EVENTS = 10_000


@frozen(kw_only=True)
class Webhook:
    """A subscription to the events of one iTwin, or of the whole account."""

    id: str
    scope: str
    scope_id: str | None
    callback_url: str
    secret: str = field(repr=False)
    event_types: tuple[str, ...]
    created_at: float
    modified_at: float
    active_since: float | None = None

    def wants(self, event: "Event") -> bool:
        """Whether the event is delivered to it."""
        return (
            self.active_since is not None
            and self.active_since <= event.at
            and event.type in self.event_types
            and (self.scope == "Account" or self.scope_id == event.itwin_id)
        )


@frozen(kw_only=True)
class Event:
    """Something that happened, or will have happened, at a moment."""

    at: float
    type: str
    itwin_id: str
    content: Mapping[str, Any]


@frozen(kw_only=True)
class WebhookDelivery:
    """One signed event: POST `body` with `headers` to `url`."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@define(kw_only=True, eq=False)
class WebhookService:
    """The webhooks, and the events that have not been delivered."""

    id_rng: Random
    webhooks: dict[str, Webhook] = field(factory=dict)
    _events: list[Event] = field(factory=list)

    def copied(self) -> "WebhookService":
        """Return a copy without the pending events."""
        return evolve(self, webhooks=dict(self.webhooks), events=[])

    def publish(self, event: Event) -> None:
        """Keep an event for the webhooks that want it."""
        if any(webhook.active_since is not None for webhook in self.webhooks.values()):
            self._events.append(event)
            del self._events[:-_MAX_EVENTS]

    def take_deliveries(
        self,
        now: float,
        *,
        delay: float,
        repeats: int,
        tampering: bool,
        date: Callable[[float], str],
    ) -> Iterator[WebhookDelivery]:
        """Yield the deliveries that are due, each event once and `repeats` times more."""
        due = [event for event in self._events if event.at + delay <= now]
        self._events = [event for event in self._events if event.at + delay > now]
        for event in sorted(due, key=lambda event: event.at):
            for webhook in self.webhooks.values():
                if webhook.wants(event):
                    delivery = self._delivery(webhook, event, tampering=tampering, date=date)
                    yield from [delivery] * (1 + repeats)

    def _delivery(
        self, webhook: Webhook, event: Event, *, tampering: bool, date: Callable[[float], str]
    ) -> WebhookDelivery:
        envelope = {
            "content": dict(event.content),
            "eventType": event.type,
            "enqueuedDateTime": date(event.at),
            "iTwinId": event.itwin_id,
            "messageId": new_guid(self.id_rng),
            "webhookId": webhook.id,
        }
        body = json.dumps(envelope).encode()
        signature = hmac.digest(webhook.secret.encode(), body, sha256).hex()
        return WebhookDelivery(
            url=webhook.callback_url,
            headers={"Content-Type": "application/json", "Signature": f"sha256={signature}"},
            body=body.replace(b'"messageId": "', b'"messageId": "0') if tampering else body,
        )
