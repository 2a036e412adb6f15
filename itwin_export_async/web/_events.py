"""A run as server-sent events.

Event types: `update` (as `describe_run`), `trouble` (the service does not answer; the stream goes
on), `end` (the final state, or why the stream cannot go on). The id of an update is a digest of
its data, so that any process can skip what the browser has seen (`Last-Event-ID`).
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from typing import Any

from itwin_export_async import ExportError, RunHandle, RunUpdate
from itwin_export_async.web._describe import describe_run
from itwin_export_async.web._problems import http_error

KEEP_ALIVE = b": keep-alive\n\n"
RETRY = b"retry: 3000\n\n"  # milliseconds until a browser connects again


async def event_stream(
    run: RunHandle,
    *,
    heartbeat: float = 15,
    max_age: float | None = None,
    last_event_id: str | None = None,
    stop: asyncio.Event | None = None,
) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events of a run until it is final.

    `heartbeat`: seconds of silence after which a comment is sent, so that proxies keep the
    connection and a visitor who left is noticed. `max_age`: seconds after which the stream ends by
    itself, None for never; the browser connects again. `last_event_id`: the id the browser sent,
    whose event is skipped. `stop`: ends the stream when set, as at a server's shutdown.

    A stream that cannot continue sends `end` with the public error and finishes. Closing it ends
    nothing but itself.
    """
    loop = asyncio.get_running_loop()
    ends_at = None if max_age is None else loop.time() + max_age
    updates = run.updates()
    stopped = asyncio.ensure_future((stop or asyncio.Event()).wait())
    waiting: asyncio.Future[RunUpdate] | None = None
    try:
        yield RETRY
        while ends_at is None or loop.time() < ends_at:
            waiting = waiting or asyncio.ensure_future(anext(updates))
            left = heartbeat if ends_at is None else min(heartbeat, ends_at - loop.time())
            await asyncio.wait(
                (waiting, stopped), timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED
            )
            if waiting.done():
                finished, waiting = waiting, None
                for event in _events(finished, last_event_id):
                    yield event
                if _is_last(finished):
                    return
            elif stopped.done():
                return
            else:
                yield KEEP_ALIVE
    finally:
        stopped.cancel()
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait([waiting])
        await updates.aclose()


def _events(finished: "asyncio.Future[RunUpdate]", last_event_id: str | None) -> list[bytes]:
    """The events of one update, or of the error that ended the updates."""
    error = finished.exception()
    if isinstance(error, StopAsyncIteration):
        return []
    if isinstance(error, ExportError):
        return [to_event("end", http_error(error).body)]
    if error is not None:
        raise error
    update = finished.result()
    if update.trouble is not None:
        return [to_event("trouble", http_error(update.trouble).body)]
    data = describe_run(update.run)
    if update.run.is_final:
        return [to_event("update", data), to_event("end", data)]
    event_id = to_event_id(data)
    return [] if event_id == last_event_id else [to_event("update", data, event_id)]


def _is_last(finished: "asyncio.Future[RunUpdate]") -> bool:
    if finished.exception() is not None:
        return True
    update = finished.result()
    return update.trouble is None and update.run.is_final


def to_event_id(data: dict[str, Any]) -> str:
    """The id of an update: equal data have equal ids, in every process."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def to_event(name: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    """One server-sent event. JSON has no raw line breaks, so its data is one line."""
    lines = [f"event: {name}", f"data: {json.dumps(data)}"]
    lines.insert(0, f"id: {event_id or to_event_id(data)}")
    return ("\n".join(lines) + "\n\n").encode()
