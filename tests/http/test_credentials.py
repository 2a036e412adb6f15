"""Credentials: rotation of refresh tokens, the environment, and what no text shows."""

import asyncio
import json
import logging
import threading
from typing import Any

import pytest

from itwin_export_async import (
    ClientCredentials,
    ExportClient,
    RefreshTokenCredentials,
    Session,
    TokenError,
)
from itwin_export_async._http import credentials
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer

GET = Request(method="GET", url="/export/connections/c1")
URL = "https://ims.example.com/token"


class Ims(Answers):
    """A token service that is slow and rotates the refresh token with each exchange."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__(answer(204))
        self.seconds = seconds
        self.issued = ["refresh-0"]
        self.active = self.most = 0

    async def send(self, request: Request, /) -> Response:
        if request.url != URL:
            return await super().send(request)
        self.active += 1
        self.most = max(self.most, self.active)
        self.issued.append(f"refresh-{len(self.issued)}")
        members = {"access_token": "a", "refresh_token": self.issued[-1], "expires_in": 3600}
        await asyncio.sleep(self.seconds)
        self.active -= 1
        return answer(200, json.dumps(members))


def signed_in(on_rotate: Any = None) -> RefreshTokenCredentials:
    return RefreshTokenCredentials("app", "refresh-0", token_url=URL, on_rotate=on_rotate)


async def test_rotated_refresh_token_is_stored_when_the_client_closes_meanwhile() -> None:
    stored: list[str] = []
    ims = Ims(seconds=5)
    async with Session(signed_in(stored.append), transport=ims) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(1)
    await asyncio.gather(call, return_exceptions=True)
    assert stored == [ims.issued[-1]] == ["refresh-1"]


async def test_rotated_refresh_token_is_stored_when_the_closing_is_cancelled() -> None:
    stored: list[str] = []
    ims = Ims(seconds=5)

    async def work() -> None:
        async with Session(signed_in(stored.append), transport=ims) as session:
            call = asyncio.create_task(session.send(GET))
            try:
                await asyncio.sleep(1)
            finally:
                call.cancel()

    task = asyncio.create_task(work())
    await asyncio.sleep(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored == ["refresh-1"]


async def test_exchange_that_fails_while_the_client_closes_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing(Answers):
        async def send(self, request: Request, /) -> Response:
            await asyncio.sleep(5)
            return await super().send(request)

    transport = Refusing(answer(400, '{"error": "invalid_grant"}'))
    async with Session(signed_in(), transport=transport) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(1)
    with pytest.raises(TokenError, match="invalid_grant"):
        await call
    assert not caplog.records


@pytest.mark.parametrize("is_async", [True, False])
async def test_error_of_on_rotate_loses_no_token(
    is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(token: str) -> None:
        raise OSError(f"disk full: cannot store {token}")

    async def fail_later(token: str) -> None:
        fail(token)

    auth, ims = signed_in(fail_later if is_async else fail), Ims()
    async with Session(auth, transport=ims) as session:
        assert (await session.send(GET)).status == 204
        assert (await session.send(GET)).status == 204
    assert (auth.refresh_token, ims.issued) == ("refresh-1", ["refresh-0", "refresh-1"])
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.getMessage() == (
        "on_rotate did not store the new refresh token: OSError: disk full: cannot store ***"
    )


async def test_on_rotate_that_returns_an_awaitable_is_awaited() -> None:
    stored: list[str] = []

    async def store(token: str) -> None:
        stored.append(token)

    async with Session(signed_in(lambda token: store(token)), transport=Ims()) as session:
        await session.send(GET)
    assert stored == ["refresh-1"]


async def test_on_rotate_that_is_cancelled_keeps_the_token() -> None:
    async def cancelled(token: str) -> None:
        raise asyncio.CancelledError

    auth = signed_in(cancelled)
    async with Session(auth, transport=Ims()) as session:
        assert (await session.send(GET)).status == 204


async def test_on_rotate_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async def hang(token: str) -> None:
        await asyncio.sleep(credentials.ROTATE_TIMEOUT * 2)

    async with Session(signed_in(hang), transport=Ims()) as session:
        assert (await session.send(GET)).status == 204
        assert "on_rotate has not returned after 60 s" in caplog.text
        await asyncio.sleep(credentials.ROTATE_TIMEOUT)


@pytest.mark.real_time
async def test_on_rotate_that_blocks_does_not_stall_the_loop() -> None:
    release = threading.Event()

    def block(token: str) -> None:
        assert release.wait(30)

    async with Session(signed_in(block), transport=Ims()) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(0.05)
        assert not call.done()
        release.set()
        assert (await call).status == 204


async def test_refresh_token_is_exchanged_by_one_client_at_a_time() -> None:
    auth, ims = signed_in(), Ims(seconds=2)
    async with Session(auth, transport=ims) as one, Session(auth, transport=ims) as two:
        await asyncio.gather(one.send(GET), two.send(GET))
    assert ims.most == 1
    assert auth.refresh_token == ims.issued[-1] == "refresh-2"


async def test_credentials_show_no_secret() -> None:
    auth = RefreshTokenCredentials("app", "refresh-0", client_secret="planted", token_url=URL)
    assert "planted" not in repr(auth)
    assert "refresh-0" not in repr(auth)
    assert "planted" not in repr(ClientCredentials("app", "planted"))
    assert repr(auth.secrets) == "(Secret(***), Secret(***))"


NAMES = ("ITP_SERVICE_CLIENT_ID", "ITP_SERVICE_CLIENT_SECRET", "ITWIN_ACCESS_TOKEN")


@pytest.mark.parametrize("make", [ClientCredentials.from_env, ExportClient.from_env])
def test_error_of_an_empty_environment_names_both_ways(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="set") as caught:
        make()
    for name in NAMES:
        assert name in str(caught.value)


def test_token_of_the_environment_comes_before_the_service_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "value")
    assert credentials.auth_from_env() == "value"
    monkeypatch.setenv("ITWIN_ACCESS_TOKEN", " ")
    assert credentials.auth_from_env() == ClientCredentials("value", "value")


@pytest.mark.parametrize("name", ["client_id", "client_secret"])
def test_blank_credentials_are_refused_by_the_name_of_the_field(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ClientCredentials(**{"client_id": "a", "client_secret": "b"} | {name: " "})
