"""`itwin-export emulator`: an iTwin Platform to try things on."""

import asyncio

from rich.console import Console

from itwin_export_async.cli.demo import names
from itwin_export_async.emulator import Emulator


async def serve_emulator(*, port: int, imodels: int, speed: float, seed: int) -> None:
    """Serve until cancelled, after saying what there is and how to use it."""
    console = Console(highlight=False, soft_wrap=True)
    emulator = Emulator(seed=seed, speed=speed)
    for name in names(imodels):
        emulator.add_imodel(name)
    first = next(iter(emulator.imodels))
    async with emulator.serve(port=port) as served:
        console.print(f"An emulated iTwin Platform at {served.base_url} (Ctrl-C ends it)")
        for imodel_id, name in emulator.imodels.items():
            console.print(f"  iModel {imodel_id}  {name}")
        console.print(f"\nIn a browser, what goes on in it: {served.base_url}/")
        issuer = served.token_url.removesuffix("/connect/token")
        console.print("\nIn another terminal:")
        console.print(f"  export ITP_API_URL={served.base_url} ITP_ISSUER_URL={issuer}")
        console.print(f"  export ITP_SERVICE_CLIENT_ID={emulator.client_id}")
        console.print(f"  export ITP_SERVICE_CLIENT_SECRET={emulator.client_secret}")
        console.print(f"  itwin-export run {first} -o bridge.ifc")
        await asyncio.Event().wait()
