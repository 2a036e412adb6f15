"""The services an export needs, emulated: for tests without a network, an account or a wait.

    emulator = Emulator(seed=7)
    imodel_id = emulator.add_imodel("Bridge")
    async with ExportClient(emulator.token(), transport=emulator) as client:
        ...

In memory it is a transport; `serve()` puts it behind a real server. Under `run_virtual` the hours
that runs take pass in milliseconds.

It need not be kind: a `tier` limits the rate of calls, `quirks` make the answers odd, `script` lays
down faults and `chaos` draws them. What a client must not do is kept in `sins`, and
`assert_clean()` raises when there are any.
"""

from itwin_export_async.emulator._chaos import Chaos
from itwin_export_async.emulator._content import SparseContent
from itwin_export_async.emulator._emulator import Emulator
from itwin_export_async.emulator._journal import RequestRecord
from itwin_export_async.emulator._quirks import QUIRKS
from itwin_export_async.emulator._server import Served
from itwin_export_async.emulator._sins import Sin
from itwin_export_async.emulator._virtual_time import VirtualTimeLoop, run_virtual

__all__ = [
    "QUIRKS",
    "Chaos",
    "Emulator",
    "RequestRecord",
    "Served",
    "Sin",
    "SparseContent",
    "VirtualTimeLoop",
    "run_virtual",
]
