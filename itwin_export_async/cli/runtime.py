"""The client and the event loop of a command, which tests replace."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import frozen

from itwin_export_async import ExportClient


@frozen(kw_only=True)
class Runtime:
    """What a command runs with.

    `client_factory`: makes the client from options of `ExportClient`. `run`: runs a coroutine to
    its end and returns its result, such as `emulator.run_virtual`, in which waiting takes no time.
    """

    client_factory: Callable[..., ExportClient] = ExportClient.from_env
    run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run
