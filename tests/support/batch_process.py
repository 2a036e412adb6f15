"""A process that forks a child for each line it reads: one batch, until it is done or killed.

Each child prints its pid, then its outcomes. The parent prints "over" and the child's exit code
once the child has ended. A child may kill itself just before its Nth step of a kind:

- `write`: a statement that changes the ledger,
- `request`: a request that is about to be sent,
- `response`: a response that has arrived and that the client has not seen yet,
- `rename`: a file that is about to get another name.
"""

import asyncio
import json
import os
import signal
import sqlite3
import sys
import traceback
from typing import Any

import aiohttp
from attrs import define

from itwin_export_async import (
    ExportClient,
    ExportOptions,
    ExportRequest,
    FixedSchedule,
    RateLimit,
)

_connect = sqlite3.connect
_WRITES = ("INSERT", "UPDATE", "CREATE")


@define
class Crash:
    """Kills this process at the `left`th step of the kind."""

    kind: str | None
    left: int

    def step(self, kind: str) -> None:
        if kind == self.kind:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename":
            self.step("rename")

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = _connect(*args, **options)
        connection.set_trace_callback(self.statement)
        return connection

    def statement(self, sql: str) -> None:
        if sql.lstrip().startswith(_WRITES):
            self.step("write")

    def tracing(self) -> aiohttp.TraceConfig:
        async def start(*_: object) -> None:
            self.step("request")

        async def end(*_: object) -> None:
            self.step("response")

        config = aiohttp.TraceConfig()
        config.on_request_start.append(start)
        config.on_request_end.append(end)
        return config


async def batch(order: dict[str, Any], crash: Crash) -> None:
    requests = [
        ExportRequest(**{**request, "options": ExportOptions(ifc_version=request["options"])})
        for request in order["requests"]
    ]
    async with (
        aiohttp.ClientSession(trace_configs=[crash.tracing()]) as http,
        ExportClient(
            order["token"],
            base_url=order["url"],
            http=http,
            rate_limit=RateLimit(),
            schedule=FixedSchedule(order["interval"]),
        ) as client,
    ):
        async for outcome in client.export_many(
            requests, concurrency=order["concurrency"], ledger=order["ledger"]
        ):
            paths = [str(path) for path in outcome.paths]
            print(json.dumps([outcome.request.key, str(outcome.error), paths]), flush=True)


def child(order: dict[str, Any]) -> None:
    crash = Crash(*order.get("crash", (None, 0)))
    sys.addaudithook(crash.audit)
    sqlite3.connect = crash.connect  # type: ignore[assignment]
    print(os.getpid(), flush=True)
    asyncio.run(batch(order, crash))


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(json.loads(line))
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print("over", os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
