"""A run as server-sent events.

Event types: `update` (as `describe_run`), `trouble` (the service does not answer; the stream
continues), `end` (the final state, or a problem document if the run cannot be followed). Only
updates have an id. It is a digest of their data, so that any process can skip what the browser has
seen (`Last-Event-ID`).
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from math import inf
from types import MappingProxyType
from typing import Any

from itwin_export_async import ExportError, RunHandle, RunUpdate
from itwin_export_async.web._describe import describe_run
from itwin_export_async.web._problems import http_error

EVENT_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",  # nginx would collect events otherwise
    }
)
"""The headers of a response whose body is an `event_stream`."""

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
    connection and a closed connection is noticed. `max_age`: seconds after which the stream ends by
    itself, None for never; the browser connects again. `last_event_id`: the id the browser sent,
    whose event is skipped. `stop`: ends the stream when set, as at a server's shutdown.

    A stream that cannot continue sends `end` with the public error and finishes. Closing it ends
    nothing but itself.
    """
    clock = asyncio.get_running_loop().time
    ends_at = inf if max_age is None else clock() + max_age
    stop = asyncio.Event() if stop is None else stop
    updates = run.updates()
    stopped = asyncio.create_task(stop.wait())
    upcoming: asyncio.Future[RunUpdate] | None = None
    try:
        yield RETRY
        while not stop.is_set() and clock() < ends_at:
            upcoming = upcoming or asyncio.ensure_future(anext(updates))
            await asyncio.wait(
                (upcoming, stopped),
                timeout=min(heartbeat, ends_at - clock()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if stop.is_set():
                return
            if not upcoming.done():
                yield KEEP_ALIVE
                continue
            try:
                update = upcoming.result()
            except ExportError as error:
                yield to_event("end", http_error(error).body)
                return
            upcoming = None
            if update.trouble is not None:
                yield to_event("trouble", http_error(update.trouble).body)
                continue
            data = describe_run(update.run)
            event_id = to_event_id(data)
            if event_id != last_event_id:
                last_event_id = event_id
                yield to_event("update", data, event_id)
            if update.run.is_final:
                yield to_event("end", data)
                return
    finally:
        # a server may cancel each wait in here, so that what matters comes first and does not wait
        leaving = [task for task in (stopped, upcoming) if task is not None and task.cancel()]
        if upcoming not in leaving:
            await updates.aclose()
        await asyncio.gather(*leaving, return_exceptions=True)


def to_event_id(data: dict[str, Any]) -> str:
    """The id of an update: equal data have equal ids, in every process."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def to_event(name: str, data: dict[str, Any], event_id: str | None = None) -> bytes:
    """One server-sent event. JSON has no raw line breaks, so its data is one line."""
    id_line = "" if event_id is None else f"id: {event_id}\n"
    return f"{id_line}event: {name}\ndata: {json.dumps(data)}\n\n".encode()
