"""An emulator of the iTwin services that an export needs, for tests without network and account.

    emulator = Emulator(seed=7)
    imodel_id = emulator.add_imodel("Bridge")
    async with ExportClient(emulator.token(), transport=emulator) as client:
        ...
    emulator.assert_no_violations()

In memory it is a transport, and under `run_virtual` runs of hours take milliseconds. `serve()` puts
it behind a real HTTP server, as does the command `itwin-export emulator`.

A `tier` limits the rate of calls, `quirks` change the form of answers, `inject` adds faults, and
`chaos` draws them. What a client must not do is recorded in `violations`.

Tests in any language control a served emulator over HTTP:

    curl $URL/emulator/state
    curl $URL/emulator/violations
    curl $URL/emulator/requests
    curl -X POST $URL/emulator/imodels -H 'Content-Type: application/json' -d '{"name": "Bridge"}'
    curl -X POST $URL/emulator/plans -H 'Content-Type: application/json' \\
        -d '{"imodelId": "...", "result": "Error", "duration": 30}'
    curl -X POST $URL/emulator/faults -H 'Content-Type: application/json' \\
        -d '{"operation": "get_run", "status": 503, "headers": {"Retry-After": 7}, "times": 2}'
    curl -X POST $URL/emulator/reset

The members of `plans` are the arguments of `plan_next_run`, those of `imodels` the arguments of
`add_imodel`; `changesets`, `namedversions` and `permissions` go to `push_changeset`,
`add_named_version` and `set_permissions`. A fault has a `status` with `headers` and `body`, or a
`failure` ("reset", "refused" or "timeout"), or neither for the real answer, and the options of
`inject`. `times` repeats it. A mistake is a 422 that names it. A reset restores what the emulator
held when it was first served: iModels, files, tokens and webhooks. Pages of other origins and
unknown hosts are refused.

In a container:

    FROM python:3.13-slim
    RUN pip install --no-cache-dir 'itwin-export-async[cli]'
    RUN useradd emulator
    USER emulator
    EXPOSE 8080
    HEALTHCHECK CMD python -c "import urllib.request as r; r.urlopen('http://localhost:8080/')"
    ENTRYPOINT ["itwin-export", "emulator", "--host", "0.0.0.0", "--port", "8080"]
    CMD ["--imodels", "3", "--run-seconds", "5-10"]
"""

from itwin_export_async.emulator._audit.violations import Violation
from itwin_export_async.emulator._config import RunSeconds
from itwin_export_async.emulator._emulator import Emulator, Tier
from itwin_export_async.emulator._http.request_log import RequestRecord
from itwin_export_async.emulator._http.server import ServerAddress
from itwin_export_async.emulator._middleware.chaos import Chaos
from itwin_export_async.emulator._middleware.fault_injection import Outcome
from itwin_export_async.emulator._middleware.quirks import QUIRKS
from itwin_export_async.emulator._state.blobs import Content, SparseContent
from itwin_export_async.emulator._state.imodels import PushDate
from itwin_export_async.emulator._state.webhooks import WebhookDelivery
from itwin_export_async.emulator._virtual_time import VirtualTimeLoop, run_virtual

__all__ = [
    "QUIRKS",
    "Chaos",
    "Content",
    "Emulator",
    "Outcome",
    "PushDate",
    "RequestRecord",
    "RunSeconds",
    "ServerAddress",
    "SparseContent",
    "Tier",
    "Violation",
    "VirtualTimeLoop",
    "WebhookDelivery",
    "run_virtual",
]
