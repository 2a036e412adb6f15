"""`itwin-export emulator`: an iTwin Platform to try things on."""

import asyncio
import errno
import os
from contextlib import AsyncExitStack

from itwin_export_async.cli.commands.demo import names
from itwin_export_async.cli.output.console import tell
from itwin_export_async.emulator import Emulator


async def serve_emulator(*, port: int, imodels: int, speed: float, seed: int) -> None:
    """Serve until cancelled, after saying what there is and how to use it.

    A port that cannot be had is a `ValueError`.
    """
    emulator = Emulator(seed=seed, speed=speed)
    for name in names(imodels):
        emulator.add_imodel(name)
    first = next(iter(emulator.imodels))
    async with AsyncExitStack() as stack:
        try:
            served = await stack.enter_async_context(emulator.serve(port=port))
        except OSError as exc:
            raise ValueError(_about_port(port, exc)) from exc
        tell(f"An emulated iTwin Platform at {served.base_url} (Ctrl-C ends it)")
        for imodel_id, name in emulator.imodels.items():
            tell(f"  iModel {imodel_id}  {name}")
        tell(f"\nIn a browser, what goes on in it: {served.base_url}/")
        issuer = served.token_url.removesuffix("/connect/token")
        tell("\nIn another terminal:")
        tell(f"  export ITP_API_URL={served.base_url} ITP_ISSUER_URL={issuer}")
        tell(f"  export ITP_SERVICE_CLIENT_ID={emulator.client_id}")
        tell(f"  export ITP_SERVICE_CLIENT_SECRET={emulator.client_secret}")
        tell(f"  itwin-export run {first} -o bridge.ifc")
        await asyncio.Event().wait()


def _about_port(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken; --port 0 takes one that is free"
    return f"port {port} cannot be used: {os.strerror(error.errno or 0).lower()}"
