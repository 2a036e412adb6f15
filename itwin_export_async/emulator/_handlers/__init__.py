"""The operations of the emulated services.

Each module declares its routes: one at a handler, or several as `ROUTES`.
"""

from itwin_export_async.emulator._handlers import (
    blobs,
    export,
    files,
    folders,
    identity,
    imodels,
    reports,
    source_files,
    synchronization,
    webhooks,
)
from itwin_export_async.emulator._http.router import Route

ROUTES: tuple[Route, ...] = tuple(
    declared
    for module in (
        blobs,
        export,
        files,
        folders,
        identity,
        imodels,
        reports,
        source_files,
        synchronization,
        webhooks,
    )
    for declared in (*vars(module).values(), *getattr(module, "ROUTES", ()))
    if isinstance(declared, Route)
)
