"""How many exports of a batch run at once.

An export gives its slot away while it waits for another client's run. Afterwards it is served
before any new request.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from attrs import define, field


@define(eq=False)
class Slots:
    """The slots of one batch.

    `free`: how many a new export may take; negative when an export that ends early takes back a
    slot that another export uses. `changed`: set when one may be free.
    """

    free: int
    changed: asyncio.Event
    _returning: deque[asyncio.Event] = field(factory=deque)  # exports that need their slot back

    def take(self) -> None:
        """Take a slot for a new export."""
        self.free -= 1

    def release(self) -> None:
        """Free a slot: for an export that gave its own away, else for the next request."""
        self.free += 1
        self._return()

    def _return(self) -> None:
        while self.free > 0 and self._returning:
            self.free -= 1
            self._returning.popleft().set()
        self.changed.set()

    @asynccontextmanager
    async def given_away(self) -> AsyncIterator[None]:
        """Another export may use the slot meanwhile; afterwards this one is served first."""
        self.release()
        try:
            yield
        except BaseException:
            self.free -= 1  # taken back at once: the outcome of the export will release it
            raise
        granted = asyncio.Event()
        self._returning.append(granted)
        self._return()
        try:
            await granted.wait()
        except asyncio.CancelledError:
            if not granted.is_set():  # pragma: no branch - else in the same turn of the loop
                self._returning.remove(granted)
                self.free -= 1
            raise
