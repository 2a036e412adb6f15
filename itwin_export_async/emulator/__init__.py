"""The services an export needs, emulated: for tests without a network, an account or a wait.

    emulator = Emulator(seed=7)
    imodel_id = emulator.add_imodel("Bridge")
    async with ExportClient(emulator.token(), transport=emulator) as client:
        ...

In memory it is a transport; `serve()` puts it behind a real server. Under `run_virtual` the hours
that runs take pass in milliseconds.
"""

from itwin_export_async.emulator._emulator import Emulator, RequestRecord
from itwin_export_async.emulator._server import Served
from itwin_export_async.emulator._virtual_time import VirtualTimeLoop, run_virtual

__all__ = ["Emulator", "RequestRecord", "Served", "VirtualTimeLoop", "run_virtual"]
