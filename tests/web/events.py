"""Server-sent events, as a browser reads them."""

import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import aiohttp
from attrs import frozen


@frozen
class Event:
    """One event. `id` is empty where the event has none."""

    name: str
    data: dict[str, Any]
    id: str = ""


def parse_events(text: str) -> list[Event]:
    """The events of a stream. Comments and `retry` are no events."""
    return [event for block in text.split("\n\n") if (event := _parse(block.splitlines()))]


def parse_pieces(pieces: Iterable[bytes]) -> list[Event]:
    """The events of a stream's pieces."""
    return parse_events(b"".join(pieces).decode())


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[Event]:
    """The events of a response, as they come."""
    assert response.status == 200, await response.text()
    assert response.content_type == "text/event-stream"
    block: list[str] = []
    async for line in response.content:
        block.append(line.decode().rstrip("\n"))
        if block[-1] == "":
            event = _parse(block)
            block = []
            if event is not None:
                yield event


async def next_event(response: aiohttp.ClientResponse) -> Event:
    """The next event of a response."""
    async for event in events_of(response):
        return event
    raise AssertionError("the stream has ended")


def _parse(lines: list[str]) -> Event | None:
    fields = dict(line.split(": ", 1) for line in lines if line and not line.startswith(":"))
    if "data" not in fields:
        return None
    return Event(fields["event"], json.loads(fields["data"]), fields.get("id", ""))
