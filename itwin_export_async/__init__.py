"""The asyncio-native Python client of Bentley's iTwin Export API.

async with ExportClient(ClientCredentials.from_env()) as client:
    connection = await client.find_or_create_connection(imodel_id, display_name="nightly IFC")
    run = await client.start_run(connection.id, ExportOptions(ifc_version=IfcVersion.IFC4_3))
    await run.wait(timeout=3600)
    paths = await run.download("out/")
"""

import logging
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from itwin_export_async._api import *  # noqa: F403
    from itwin_export_async._api import __all__ as __all__
else:

    def __getattr__(name: str) -> object:
        """The client is loaded when it is first used: who tests with the emulator has no need."""
        if name == "__all__" or not name.startswith("_"):
            from itwin_export_async import _api

            if name == "__all__" or name in _api.__all__:
                return getattr(_api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})


logging.getLogger(__name__).addHandler(logging.NullHandler())  # quiet unless asked to speak
