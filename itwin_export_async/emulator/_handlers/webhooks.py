"""The Webhooks API v2: subscriptions of service applications.

A callback URL is https. The emulator also accepts http to a loopback host.
https://developer.bentley.com/apis/webhooks-v2/operations/
"""

import re
from typing import Any
from urllib.parse import urlsplit

from attrs import evolve

from itwin_export_async._protocol.messages import Response
from itwin_export_async.emulator._handlers.identity import authenticate
from itwin_export_async.emulator._handlers.validation import json_body
from itwin_export_async.emulator._http.messages import (
    ApiError,
    error,
    insufficient_permissions,
    invalid,
    invalid_value,
    json_response,
    no_content,
    not_provided,
)
from itwin_export_async.emulator._http.router import V2, api
from itwin_export_async.emulator._state.ids import new_guid
from itwin_export_async.emulator._state.platform import Platform, RequestContext
from itwin_export_async.emulator._state.webhooks import EVENT_TYPES, Webhook

_INVALID = "InvalidWebhooksRequest"
_SCOPES = ("Account", "iTwin")
_MIN_SECRET = 32
_EVENT_TYPE = re.compile(r"[A-Za-z]+\.[A-Za-z]+\.v[0-9]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@api("POST", "/webhooks", accepts=V2)
def create_webhook(platform: Platform, context: RequestContext) -> Response:
    """Create an inactive webhook. The secret is in this answer only."""
    body = json_body(context, _INVALID)
    errors = [
        not_provided(name)
        for name in ("callbackUrl", "scope", "eventTypes")
        if body.get(name) is None
    ]
    if body.get("scope") == "iTwin" and body.get("scopeId") is None:
        errors.append(not_provided("scopeId"))
    errors = errors or _errors(body)
    if errors:
        raise ApiError(invalid(_INVALID, *errors))
    scope_id = body.get("scopeId")
    _require_service(platform, context, scope_id)
    secret = body.get("secret") or f"{platform.id_rng.getrandbits(256):064x}"
    webhook = Webhook(
        id=new_guid(platform.id_rng),
        scope=body["scope"],
        scope_id=scope_id,
        callback_url=body["callbackUrl"],
        secret=secret,
        event_types=tuple(body["eventTypes"]),
        created_at=context.now,
        modified_at=context.now,
    )
    platform.webhooks.webhooks[webhook.id] = webhook
    item = _item(platform, webhook)
    del item["created"], item["modified"]
    return json_response(201, item | {"secret": secret})


@api("GET", "/webhooks", accepts=V2)
def list_webhooks(platform: Platform, context: RequestContext) -> Response:
    """List the webhooks of the application."""
    _require_service(platform, context)
    webhooks = [_item(platform, w) for w in platform.webhooks.webhooks.values()]
    return json_response(200, {"webhooks": webhooks})


@api("GET", "/webhooks/{}", accepts=V2)
def get_webhook(platform: Platform, context: RequestContext) -> Response:
    """Return a webhook."""
    return json_response(200, _item(platform, _find(platform, context)))


@api("PATCH", "/webhooks/{}", accepts=V2)
def update_webhook(platform: Platform, context: RequestContext) -> Response:
    """Change a webhook; this also activates it."""
    webhook = _find(platform, context)
    body = json_body(context, _INVALID)
    errors = _errors(body)
    if errors:
        raise ApiError(invalid(_INVALID, *errors))
    is_active = body.get("active", webhook.active_since is not None)
    since = context.now if webhook.active_since is None else webhook.active_since
    updated = evolve(
        webhook,
        active_since=since if is_active else None,
        secret=body.get("secret", webhook.secret),
        callback_url=body.get("callbackUrl", webhook.callback_url),
        event_types=tuple(body.get("eventTypes", webhook.event_types)),
        modified_at=context.now,
    )
    platform.webhooks.webhooks[webhook.id] = updated
    return json_response(200, _item(platform, updated))


@api("DELETE", "/webhooks/{}", accepts=V2)
def delete_webhook(platform: Platform, context: RequestContext) -> Response:
    """Delete a webhook."""
    del platform.webhooks.webhooks[_find(platform, context).id]
    return no_content(204)


def _find(platform: Platform, context: RequestContext) -> Webhook:
    _require_service(platform, context)
    webhook = platform.webhooks.webhooks.get(context.ids[0])
    if webhook is None:
        raise ApiError(error(404, "WebhookNotFound", "Requested Webhook is not available."))
    return webhook


def _require_service(
    platform: Platform, context: RequestContext, itwin_id: str | None = None
) -> None:
    """Raise 403 unless a service application with the right to maintain webhooks asks."""
    is_user = authenticate(platform, context).is_user
    allowed = itwin_id is None or "webhooks_maintainer" in platform.permissions_in_itwin(itwin_id)
    if is_user or not allowed:
        raise ApiError(insufficient_permissions())


def _errors(body: dict[str, Any]) -> list[dict[str, str]]:
    """Return the details for the members that are present."""
    event_types = body.get("eventTypes", EVENT_TYPES[:1])
    secret = body.get("secret", "x" * _MIN_SECRET)
    valid = {
        "callbackUrl": _is_callback_url(body.get("callbackUrl", "https://example.com")),
        "scope": body.get("scope", "iTwin") in _SCOPES,
        "scopeId": isinstance(body.get("scopeId"), str | None),
        "eventTypes": isinstance(event_types, list | tuple)
        and bool(event_types)
        and all(isinstance(t, str) and _EVENT_TYPE.fullmatch(t) for t in event_types),
        "secret": isinstance(secret, str) and len(secret) >= _MIN_SECRET,
        "active": isinstance(body.get("active", True), bool),
    }
    return [invalid_value(name) for name, is_valid in valid.items() if not is_valid]


def _is_callback_url(url: object) -> bool:
    try:
        parts = urlsplit(str(url))
    except ValueError:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    )


def _item(platform: Platform, webhook: Webhook) -> dict[str, Any]:
    return {
        "id": webhook.id,
        "scope": webhook.scope,
        "scopeId": webhook.scope_id,
        "active": webhook.active_since is not None,
        "callbackUrl": webhook.callback_url,
        "eventTypes": list(webhook.event_types),
        "created": platform.clock.stamp(webhook.created_at),
        "modified": platform.clock.stamp(webhook.modified_at),
    }
