"""The token cache: one fetch for all waiters, bounded waits, and bugs that surface."""

import asyncio
import logging
import threading
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from itwin_export_async import (
    AccessToken,
    ClientCredentials,
    ExportClient,
    RateLimit,
    RetryPolicy,
    Session,
    TokenError,
)
from itwin_export_async.transport import Request
from tests.support.fakes import Answers, answer

GET = Request(method="GET", url="/export/connections/c1")
OK = answer(204)
CREDENTIALS = ClientCredentials("app", "the-client-secret")


def now() -> float:
    return asyncio.get_running_loop().time()


def is_token_request(request: Request) -> bool:
    return request.url.endswith("/token")


async def test_token_service_that_requests_a_long_wait_fails_calls_at_once() -> None:
    transport = Answers(answer(503, "{}", Retry_After="3000"))
    async with Session(CREDENTIALS, transport=transport) as session:
        for _ in range(3):
            with pytest.raises(TokenError) as caught:
                await session.send(GET)
            assert caught.value.is_transient
            assert caught.value.retry_after == pytest.approx(3000 - now(), abs=1)
            await asyncio.sleep(60)
        assert now() == 180
    assert len(transport.requests) == 1


async def test_requested_wait_is_kept_and_bounded() -> None:
    answers = [answer(429, "{}", Retry_After="400"), answer(200, '{"access_token": "a"}'), OK]
    async with Session(CREDENTIALS, transport=Answers(*answers)) as session:
        with pytest.raises(TokenError):
            await session.send(GET)
        await asyncio.sleep(200)
        assert (await session.send(GET)).status == 204
        assert now() == 400
    answers = [answer(429, "{}", Retry_After="999999999999"), *answers[1:]]
    async with Session(CREDENTIALS, transport=Answers(*answers)) as session:
        with pytest.raises(TokenError):
            await session.send(GET)
        await asyncio.sleep(3600)
        assert (await session.send(GET)).status == 204


async def test_wait_for_a_token_holds_no_place_in_the_rate_limit() -> None:
    release = asyncio.Event()

    async def slow() -> AccessToken:
        await release.wait()
        return AccessToken("token")

    limit = RateLimit(per_minute=1)
    async with Session(
        slow, transport=Answers(OK), rate_limit=limit, request_timeout=900
    ) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(100)
        assert session.remaining_calls == 1
        release.set()
        await call
        assert session.remaining_calls == 0


@pytest.mark.parametrize("error", [NameError("typo"), KeyError("x"), RuntimeError("bug")])
async def test_bug_in_a_provider_is_raised_as_it_is(error: Exception) -> None:
    def sync() -> str:
        raise error

    async def later() -> str:
        raise error

    for auth in (sync, later):
        async with Session(auth, transport=Answers(OK)) as session:
            for _ in range(2):
                with pytest.raises(type(error)) as caught:
                    await session.send(GET)
                assert caught.value.args == error.args
        assert now() == 0


async def test_bug_in_a_provider_keeps_its_fields() -> None:
    async def provider() -> str:
        raise ModuleNotFoundError("No module named 'vault'", name="vault", path="vault.py")

    async with Session(provider, transport=Answers(OK)) as session:
        with pytest.raises(ModuleNotFoundError) as caught:
            await session.send(GET)
    assert (caught.value.name, caught.value.path) == ("vault", "vault.py")


class NumberedError(TokenError):
    """A caller's own error, which needs a number."""

    def __new__(cls, number: int = 0) -> "NumberedError":
        if not number:
            raise ValueError("no number")
        return super().__new__(cls)

    def __init__(self, number: int) -> None:
        super().__init__(message=f"refused with {number}")


async def test_error_that_cannot_be_copied_is_raised_itself() -> None:
    error = NumberedError(7)

    async def provider() -> str:
        raise error

    async with Session(provider, transport=Answers(OK)) as session:
        with pytest.raises(NumberedError, match="refused with 7") as caught:
            await session.send(GET)
    assert caught.value is error


class Vault:
    """A provider that fails, whose errors have a cause and a note."""

    async def get_token(self) -> AccessToken:
        error = TokenError(message="the vault is sealed")
        error.add_note("of the provider")
        raise error from LookupError("no key")


async def test_each_waiter_gets_its_own_error_of_the_provider() -> None:
    async with Session(Vault(), transport=Answers(OK)) as session:
        errors = await asyncio.gather(
            *(session.send(GET) for _ in range(20)), return_exceptions=True
        )
    assert len({id(error) for error in errors}) == 20
    for error in errors:
        assert isinstance(error, TokenError)
        assert "the vault is sealed" in str(error)
        assert error.__notes__ == ["of the provider"]
        assert isinstance(error.__cause__, LookupError)
        frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert frames.count("send") == frames.count("get_token") == 1


@pytest.mark.parametrize("lifetime", [1000, None])
async def test_fetch_runs_in_the_context_of_the_opening(lifetime: float | None) -> None:
    trace = ContextVar[str]("trace")
    traces: list[str] = []

    async def provider() -> AccessToken | str:
        traces.append(trace.get())
        trace.set("of the last fetch")
        if lifetime is None:
            return "abc"
        return AccessToken("abc", datetime.now(UTC) + timedelta(seconds=lifetime))

    trace.set("of the opening")
    async with Session(provider, transport=Answers(OK)) as session:
        trace.set("of the waiter")
        for _ in range(2):
            await session.send(GET)
            await asyncio.sleep(900)  # the second time it is refreshed
    assert traces == ["of the opening"] * 2


@pytest.mark.parametrize("seconds", [10, 31])  # after 30 the waiter has given up
async def test_closing_does_not_wait_for_a_provider_that_ignores_cancellation(
    caplog: pytest.LogCaptureFixture, seconds: int
) -> None:
    release = asyncio.Event()

    async def provider() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "token"

    session = Session(provider, transport=Answers(OK), request_timeout=30)
    await session.open()
    call = asyncio.create_task(session.send(GET))
    await asyncio.sleep(seconds)
    await session.aclose()
    assert now() == seconds + 30
    assert "the token provider has not ended" in caplog.text
    with pytest.raises(TokenError, match="takes longer"):
        await call
    release.set()


async def test_stop_iteration_of_a_provider_is_a_runtime_error() -> None:
    async with Session(iter(()).__next__, transport=Answers(OK)) as session:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await session.send(GET)


class VaultError(Exception):
    """An error of a library that a provider uses."""


@pytest.mark.parametrize("error", [VaultError("sealed"), ConnectionResetError("gone"), EOFError()])
async def test_failure_of_a_provider_is_a_transient_token_error(error: Exception) -> None:
    async def provider() -> str:
        raise error

    async with Session(provider, transport=Answers(OK)) as session:
        with pytest.raises(TokenError, match=type(error).__name__) as caught:
            await session.send(GET)
    assert caught.value.is_transient
    assert caught.value.__cause__ is error


async def test_slow_provider_is_never_called_beside_itself() -> None:
    calls = 0

    async def provider() -> AccessToken:
        nonlocal calls
        calls += 1
        await asyncio.sleep(100)
        return AccessToken(f"token{calls}")

    transport = Answers(OK)
    async with Session(provider, transport=transport, request_timeout=30) as session:
        for _ in range(3):
            results = await asyncio.gather(
                *(session.send(GET) for _ in range(5)), return_exceptions=True
            )
            assert {type(result) for result in results} == {TokenError}
        assert now() == 90
        await session.send(GET)
        assert (now(), calls) == (100, 1)
    assert transport.requests[0].headers["Authorization"] == "Bearer token1"


async def test_token_that_has_ended_already_is_sent_all_the_same() -> None:
    async def provider() -> AccessToken:
        return AccessToken("old", datetime.now(UTC) - timedelta(seconds=1))

    async with Session(provider, transport=Answers(OK)) as session:
        results = await asyncio.gather(*(session.send(GET) for _ in range(5)))
    assert {response.status for response in results} == {204}


async def test_bearer_in_front_of_a_token_is_taken_off() -> None:
    for auth in ("Bearer abc", lambda: "bearer abc", AccessToken("Bearer abc")):
        transport = Answers(OK)
        async with Session(auth, transport=transport) as session:
            await session.send(GET)
        assert transport.requests[0].headers["Authorization"] == "Bearer abc"


async def test_fixed_token_that_ends_soon_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    soon = AccessToken("abc", datetime.now(UTC) + timedelta(seconds=3000))
    async with Session(soon, transport=Answers(OK)) as session:
        assert session.token_expires_at == soon.expires_at
        session.warn_if_token_ends(100)
        assert not caplog.records
        session.warn_if_token_ends(24 * 3600)
    (record,) = caplog.records
    assert record.name == "itwin_export_async.auth"
    assert "is fixed and ends in 3000 s" in record.getMessage()


async def test_token_that_is_renewed_or_has_no_known_end_is_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def renewed() -> AccessToken:
        return AccessToken("abc", datetime.now(UTC) + timedelta(seconds=30))

    for auth in ("abc", renewed):
        async with Session(auth, transport=Answers(OK)) as session:
            assert session.token_expires_at is None
            await session.send(GET)
            session.warn_if_token_ends(24 * 3600)
    assert not caplog.records


@pytest.mark.usefixtures("integration")
async def test_function_that_hangs_takes_one_thread_and_closing_leaves_it() -> None:
    release, calls = threading.Event(), 0

    def provider() -> str:
        nonlocal calls
        calls += 1
        release.wait(30)
        return "token"

    async with Session(provider, transport=Answers(OK), request_timeout=0.01) as session:
        for _ in range(5):
            with pytest.raises(TokenError, match="takes longer"):
                await session.send(GET)
        assert await asyncio.wait_for(asyncio.to_thread(int), 10) == 0
    assert calls == 1
    release.set()


@pytest.mark.usefixtures("integration")
async def test_function_is_called_in_a_thread_of_its_own() -> None:
    threads: list[Any] = []

    def provider() -> str:
        threads.append(threading.current_thread())
        return "token"

    async with Session(provider, transport=Answers(OK)) as session:
        await session.send(GET)
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon


def shown(error: BaseException) -> str:
    """A traceback with locals of the package's frames."""
    text = ""
    found: BaseException | None = error
    while found is not None:
        seen = traceback.TracebackException.from_exception(found, capture_locals=True)
        text += str([f.locals for f in seen.stack if "/itwin_export_async/" in f.filename])
        found = found.__cause__ or found.__context__
    return text


async def test_no_local_shows_a_token_of_a_provider() -> None:
    planted = "tok" + "planted7f3a"

    async def bad() -> str:
        return f"{planted} {planted}"

    async with Session(bad, transport=Answers(OK)) as session:
        with pytest.raises(TokenError) as caught:
            await session.send(GET)
    assert planted not in shown(caught.value)
    with pytest.raises(ValueError, match="access token") as refused:
        ExportClient(f"{planted} {planted}")
    ours = [f for f in shown(refused.value).split("{") if planted in f and "'auth'" not in f]
    assert not ours
    with pytest.raises(ValueError, match="base_url") as other:
        ExportClient(planted, base_url="http://example.com")
    assert planted not in shown(other.value)


async def test_cancelled_waiter_shows_no_token() -> None:
    class Silent(Answers):
        async def send(self, request: Request, /) -> Any:
            await asyncio.sleep(3600)

    planted = "tok" + "planted7f3a"
    with pytest.raises(TimeoutError) as caught:
        async with ExportClient(planted, transport=Silent(OK)) as client:
            async with asyncio.timeout(5):
                await client.get_connection("c1")
    assert planted not in shown(caught.value)


async def test_background_refresh_of_a_failing_provider_harms_nothing() -> None:
    calls = 0

    async def provider() -> AccessToken:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise NameError("typo")
        return AccessToken("abc", datetime.now(UTC) + timedelta(seconds=1000))

    policy = RetryPolicy(jitter=lambda seconds: 0.0)
    async with Session(provider, transport=Answers(OK), retry=policy) as session:
        for _ in range(3):
            await session.send(GET)
            await asyncio.sleep(400)
        with pytest.raises(NameError):
            await session.send(GET)


async def test_log_of_a_failed_fetch_names_the_next_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    transport = Answers(answer(400, '{"error": "invalid_client"}'))
    async with Session(CREDENTIALS, transport=transport) as session:
        with pytest.raises(TokenError):
            await session.send(GET)
    (record,) = caplog.records
    assert record.name == "itwin_export_async.auth"
    assert "invalid_client; next attempt in 0.5 s" in record.getMessage()
