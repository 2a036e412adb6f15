"""A process that forks another for each line it reads: one batch, until it is done or killed.

Each child says its pid, then its outcomes; the parent says "over" when the child has ended.
"""

import asyncio
import json
import os
import sys
from typing import Any

from itwin_export_async import (
    ExportClient,
    ExportOptions,
    ExportRequest,
    FixedSchedule,
    RateLimit,
)


async def batch(told: dict[str, Any]) -> None:
    requests = [
        ExportRequest(**{**request, "options": ExportOptions(ifc_version=request["options"])})
        for request in told["requests"]
    ]
    async with ExportClient(
        told["token"],
        base_url=told["url"],
        rate_limit=RateLimit(),
        schedule=FixedSchedule(0.2),
    ) as client:
        print(os.getpid(), flush=True)
        async for outcome in client.export_many(
            requests, concurrency=told["concurrency"], ledger=told["ledger"]
        ):
            paths = [str(path) for path in outcome.paths]
            print(json.dumps([outcome.request.key, str(outcome.error), paths]), flush=True)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(batch(json.loads(line)))
            finally:
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(child, 0)
        print("over", flush=True)


if __name__ == "__main__":
    main()
