"""An emulator, and a client that does nothing but HTTP."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import Emulator

EXAMPLES = Path(__file__).parents[1] / "examples"
EPOCH = datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)
API = "https://api.bentley.com"
JSON = "application/vnd.bentley.itwin-platform.v1+json"


@frozen
class Caller:
    """Calls the API of an emulator, with a valid token unless headers replace it."""

    emulator: Emulator
    token: str

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> Request:
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        return Request(
            method=method,
            url=path if "://" in path else f"{API}{path}",
            headers={
                "Authorization": f"Bearer {self.token}",
                "Accept": JSON,
                "User-Agent": "test/1",
            }
            | (headers or {}),
            body=content,
        )

    def __call__(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> Response:
        return self.emulator.handle(self.request(method, path, body, headers=headers))

    def connect(self, imodel_id: str, **members: object) -> str:
        answer = self("POST", "/export/connections", {"iModelId": imodel_id} | members)
        assert answer.status == 201
        connection_id = json.loads(answer.body)["connection"]["id"]
        assert isinstance(connection_id, str)
        return connection_id

    def start(self, connection_id: str, **members: object) -> str:
        """The address of a new run."""
        answer = self(
            "POST", f"/export/connections/{connection_id}/runs", {"exportType": "IFC"} | members
        )
        assert answer.status == 202
        return answer.headers["Location"]


@pytest.fixture
def emulator() -> Emulator:
    return Emulator(seed=1, run_seconds=420, epoch=EPOCH)


@pytest.fixture
def call(emulator: Emulator) -> Caller:
    return Caller(emulator, emulator.token())


@pytest.fixture
def caller_of() -> Callable[[Emulator], Caller]:
    return lambda emulator: Caller(emulator, emulator.token())


@pytest.fixture
def example() -> Callable[[str], Any]:
    return lambda name: json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))
