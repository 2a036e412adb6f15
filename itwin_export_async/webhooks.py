"""Events of the Webhooks API v2: verified, then parsed.

    event = read_event(SECRET, await request.body(), request.headers)
    client.notify(event)

The service wants a response within 5 seconds and sends an event again without one: work afterwards,
and once for each `message_id`. No time is signed, so only remembered message ids guard against a
replay. An event is a hint: read the run or the version before acting on it.

https://developer.bentley.com/apis/webhooks-v2/overview/
"""

import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from attrs import field, frozen

from itwin_export_async._errors import InvalidSignature, ProtocolError
from itwin_export_async._models import ExecutionResult
from itwin_export_async._models.reprs import short_repr
from itwin_export_async._protocol.dates import structure_datetime

__all__ = [
    "InvalidSignature",
    "NamedVersionCreated",
    "SynchronizationJobCompleted",
    "WebhookEvent",
    "read_event",
]

_SIGNATURE = re.compile(r"sha256=([0-9a-fA-F]{64})")
_US_DATE = re.compile(r"\d{1,2}/\d{1,2}/\d{4} \d{1,2}:\d{2}:\d{2} [AP]M")


@frozen(kw_only=True)
class WebhookEvent:
    """An event. Known ones are of a class of their own, with their content as fields.

    `event_type`: such as `"iModels.changesReady.v1"`. `message_id` is the same each time the event
    is sent. `enqueued_date_time`: None where it cannot be read. `content` is the service's JSON.
    """

    event_type: str
    message_id: str
    webhook_id: str | None = None
    itwin_id: str | None = None
    enqueued_date_time: datetime | None = None
    content: Mapping[str, Any] = field(factory=dict, repr=False)

    __repr__ = short_repr


@frozen(kw_only=True, repr=False)
class SynchronizationJobCompleted(WebhookEvent):
    """A synchronization run of the connection has finished: `synchronization.jobCompleted.v1`.

    Whether `synchronization_id` is the id of the run is not documented.
    """

    connection_id: str
    imodel_id: str | None = None
    synchronization_id: str | None = None
    result: ExecutionResult | None = None


@frozen(kw_only=True, repr=False)
class NamedVersionCreated(WebhookEvent):
    """An iModel has a new named version: `iModels.namedVersionCreated.v1`.

    `changeset_id` is what `InputOptions(changeset_id=...)` exports; None for a version on the
    baseline, which has no changeset.
    """

    imodel_id: str
    named_version_id: str | None = None
    changeset_id: str | None = None
    changeset_index: int | None = None


def read_event(
    secret: str | Iterable[str], body: bytes | bytearray | memoryview, headers: Mapping[str, str]
) -> WebhookEvent:
    """Verify the signature of an event, then parse it.

    `secret`: the webhook's; several while it is changed. `body`: the raw bytes of the request.

    Raises `InvalidSignature` if the header `Signature` is missing, is of another algorithm than
    SHA-256 or does not fit the body, and `ProtocolError` if a signed body is no event.
    """
    secrets = [secret] if isinstance(secret, str) else list(secret)
    if not secrets or not all(secrets):
        raise ValueError("secret is empty")
    if not isinstance(body, bytes | bytearray | memoryview):
        raise TypeError(f"body must be the raw bytes of the request, not {type(body).__name__}")
    body = bytes(body)
    given = [value for name, value in headers.items() if name.lower() == "signature"]
    match = _SIGNATURE.fullmatch(given[0].strip()) if len(given) == 1 else None
    if match is None:
        raise InvalidSignature("the event has no signature of the form sha256=<64 hex digits>")
    signature = bytes.fromhex(match[1])
    expected = [hmac.digest(each.encode(), body, sha256) for each in secrets]
    fits = [hmac.compare_digest(signature, digest) for digest in expected]
    if not any(fits):
        raise InvalidSignature("the signature of the event does not fit its body and the secret")
    return _parse(body)


def _parse(body: bytes) -> WebhookEvent:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolError(message="the body of the event is not JSON") from None
    if not isinstance(members, dict):
        raise ProtocolError(message="the body of the event is not a JSON object")
    content = members.get("content")
    envelope: dict[str, Any] = {
        "event_type": _required(members, "eventType"),
        "message_id": _required(members, "messageId"),
        "webhook_id": _text(members, "webhookId"),
        "itwin_id": _text(members, "iTwinId"),
        "enqueued_date_time": _date(_text(members, "enqueuedDateTime")),
        "content": content if isinstance(content, dict) else {},
    }
    parse = _KNOWN.get(envelope["event_type"], _unknown)
    return parse(envelope, envelope["content"])


def _unknown(envelope: dict[str, Any], _: Mapping[str, Any]) -> WebhookEvent:
    return WebhookEvent(**envelope)


def _synchronization(envelope: dict[str, Any], content: Mapping[str, Any]) -> WebhookEvent:
    result = _text(content, "result")
    return SynchronizationJobCompleted(
        **envelope,
        connection_id=_required(content, "connectionId"),
        imodel_id=_text(content, "iModelId"),
        synchronization_id=_text(content, "synchronizationId"),
        result=None if result is None else ExecutionResult(result),
    )


def _named_version(envelope: dict[str, Any], content: Mapping[str, Any]) -> WebhookEvent:
    return NamedVersionCreated(
        **envelope,
        imodel_id=_text(content, "iModelId") or _required(content, "imodelId"),
        named_version_id=_text(content, "namedVersionId"),
        changeset_id=_text(content, "changesetId"),
        changeset_index=_index(content.get("changesetIndex")),
    )


_KNOWN: dict[str, Callable[[dict[str, Any], Mapping[str, Any]], WebhookEvent]] = {
    "synchronization.jobCompleted.v1": _synchronization,
    "iModels.namedVersionCreated.v1": _named_version,
}


def _text(members: Mapping[str, Any], name: str) -> str | None:
    """The text of a member; None where it is missing, null, empty or no text."""
    value = members.get(name)
    return value if isinstance(value, str) and value else None


def _required(members: Mapping[str, Any], name: str) -> str:
    value = _text(members, name)
    if value is None:
        raise ProtocolError(message=f"the event has no {name}", path=name)
    return value


def _index(value: object) -> int | None:
    """A changeset's index, which the service sends as text."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _date(text: str | None) -> datetime | None:
    """A date as the service documents it, such as `11/3/2023 8:07:01 PM`, or as ISO 8601."""
    if text is None or not _US_DATE.fullmatch(text):
        return None if text is None else structure_datetime(text, datetime)
    try:
        return datetime.strptime(text, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC)
    except ValueError:
        return None
