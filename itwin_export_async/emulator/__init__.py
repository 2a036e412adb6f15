"""The services an export needs, emulated: for tests without a network, an account or a wait.

    emulator = Emulator(seed=7)
    imodel_id = emulator.add_imodel("Bridge")
    async with ExportClient(emulator.token(), transport=emulator) as client:
        ...

In memory it is a transport; `serve()` puts it behind a real server. Under `run_virtual` the hours
that runs take pass in milliseconds.

It need not be kind: a `tier` limits the rate of calls, `quirks` make the answers odd, `script` lays
down faults and `chaos` draws them. What a client must not do is kept in `sins`, and
`assert_no_violations()` raises when there are any.
"""

from itwin_export_async.emulator._audit.violations import Violation
from itwin_export_async.emulator._emulator import Emulator
from itwin_export_async.emulator._http.request_log import RequestRecord
from itwin_export_async.emulator._http.server import ServerAddress
from itwin_export_async.emulator._middleware.chaos import Chaos
from itwin_export_async.emulator._middleware.quirks import QUIRKS
from itwin_export_async.emulator._state.contents import SparseContent
from itwin_export_async.emulator._virtual_time import VirtualTimeLoop, run_virtual

__all__ = [
    "QUIRKS",
    "Chaos",
    "Emulator",
    "RequestRecord",
    "ServerAddress",
    "SparseContent",
    "Violation",
    "VirtualTimeLoop",
    "run_virtual",
]
