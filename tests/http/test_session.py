"""The session: headers, tokens, retries, and where the token may go."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from itwin_export_async import (
    AccessToken,
    AuthenticationFailed,
    ClientCredentials,
    ExportClient,
    ProtocolError,
    RateLimit,
    RateLimited,
    RequestStats,
    RequestTimeout,
    ResponseError,
    RetryPolicy,
    ServerError,
    Session,
    TokenError,
    TransportError,
    __version__,
)
from itwin_export_async._http.limiter import RequestLimiter, create_limiter
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer
from tests.support.samples import NOW

GET = Request(method="GET", url="/export/connections/c1")
POST = Request(method="POST", url="/export/connections", body=b"{}")
CONNECTION = answer(200, '{"connection": {"id": "c1"}}')


async def test_request_carries_token_version_and_user_agent() -> None:
    transport = Answers(CONNECTION)
    async with ExportClient("secret", transport=transport) as client:
        await client.get_connection("c1")
    (request,) = transport.requests
    assert request.url == "https://api.bentley.com/export/connections/c1"
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["Accept"] == "application/vnd.bentley.itwin-platform.v1+json"
    assert request.headers["User-Agent"].startswith("itwin-export-async/")
    assert "secret" not in repr(request)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 521, 522, 524])
async def test_transient_status_is_retried(status: int) -> None:
    transport = Answers(answer(status), answer(status), answer(204))
    async with Session("t", transport=transport) as session:
        assert (await session.send(GET)).status == 204
    assert len(transport.requests) == 3


@pytest.mark.parametrize("status", [200, 303, 400, 403, 404, 409, 422, 501])
async def test_definite_status_is_returned_at_once(status: int) -> None:
    transport = Answers(answer(status))
    async with Session("t", transport=transport) as session:
        assert (await session.send(GET)).status == status
    assert len(transport.requests) == 1


@pytest.mark.parametrize(
    ("outcome", "sendings"),
    [
        (TransportError(message="reset"), 1),
        (TransportError(message="refused", may_have_been_processed=False), 3),
        (answer(500), 1),
        (answer(503), 1),
        (answer(503, Retry_After="1"), 3),
        (answer(429), 3),
    ],
)
async def test_unsafe_request_is_sent_again_only_if_it_was_not_processed(
    outcome: Response | Exception, sendings: int
) -> None:
    transport = Answers(outcome)
    async with Session("t", transport=transport, retry=RetryPolicy(attempts=3)) as session:
        try:
            await session.send(POST)
        except TransportError as error:
            assert error.message == getattr(outcome, "message", None)
    assert len(transport.requests) == sendings


async def test_retry_after_is_waited_for_exactly() -> None:
    transport = Answers(answer(429, Retry_After="17"), answer(204))
    async with Session("t", transport=transport) as session:
        await session.send(GET)
    assert asyncio.get_running_loop().time() == 17


async def test_too_long_retry_after_is_raised_at_once() -> None:
    async with ExportClient("t", transport=Answers(answer(429, Retry_After="301"))) as client:
        with pytest.raises(RateLimited, match="retry after 301 s") as caught:
            await client.get_connection("c1")
    assert caught.value.retry_after == 301
    assert asyncio.get_running_loop().time() == 0


async def test_last_response_is_the_one_that_is_raised() -> None:
    transport = Answers(TransportError(message="reset"), answer(500), answer(502, "<html>Bad"))
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(ServerError, match="502: an HTML page: Bad"):
            await client.get_connection("c1")
    assert len(transport.requests) == 5


async def test_retries_are_logged_without_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = Answers(TransportError(message="reset"), answer(429), answer(204))
    async with Session("the-token", transport=transport) as session:
        await session.send(GET)
    assert "retry 1 in" in caplog.text
    assert "429 for GET https://api.bentley.com/export/connections/c1" in caplog.text
    assert "the-token" not in caplog.text


async def test_stream_names_its_request() -> None:
    request = Request(method="GET", url="https://blobs.example/b")
    async with (
        Session("t", transport=Answers(answer(200, "x"))) as session,
        session.stream_blob(request) as stream,
    ):
        assert (stream.response.method, stream.response.url) == ("GET", "https://blobs.example/b")


async def test_silent_service_is_a_timeout() -> None:
    class Silent(Answers):
        async def send(self, request: Request, /) -> Response:
            await asyncio.sleep(1000)
            return await super().send(request)

    retry = RetryPolicy(attempts=1)
    async with Session("t", transport=Silent(answer(200)), retry=retry) as session:
        with pytest.raises(RequestTimeout, match="no response within 30 s"):
            await session.send(GET)
        with pytest.raises(TimeoutError):
            await session.send(GET)


async def test_timeout_of_a_transport_passes_through() -> None:
    async with Session("t", transport=Answers(TimeoutError("not mine"))) as session:
        with pytest.raises(TimeoutError, match="not mine"):
            await session.send(GET)


@pytest.mark.parametrize(
    "url",
    ["https://evil.example/x", "https://api.bentley.com:444/x", "http://api.bentley.com/x"],
)
async def test_token_goes_to_one_origin_only(url: str) -> None:
    transport = Answers(answer(200))
    async with Session("t", transport=transport) as session:
        with pytest.raises(ProtocolError, match="gets no token"):
            await session.send(Request(method="GET", url=url))
    assert not transport.requests


@pytest.mark.parametrize(
    "url", ["http://api.bentley.com", "ftp://x", "api.bentley.com", "", "http://["]
)
def test_insecure_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Session("t", base_url=url)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="request_timeout"):
        Session("t", request_timeout=0)
    with pytest.raises(ValueError, match="exclude"):
        Session("t", http=object(), transport=Answers(answer(200)))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"http must be an aiohttp\.ClientSession"):
        Session("t", http=object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token is empty"):
        Session("  ")
    with pytest.raises(ValueError, match="cannot be in a header"):
        Session("a\nb")
    with pytest.raises(TypeError, match="auth must be"):
        Session(42)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="client_id"):
        ClientCredentials("", "secret")
    with pytest.raises(ValueError, match="token_url"):
        ClientCredentials("id", "secret", token_url="http://ims.bentley.com/connect/token")


async def test_session_refuses_another_event_loop() -> None:
    async with Session("t", transport=Answers(answer(204))) as session:

        def elsewhere() -> None:
            asyncio.run(session.send(GET))

        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(elsewhere)


def credentials(emulator: Emulator) -> ClientCredentials:
    return ClientCredentials(emulator.client_id, emulator.client_secret)


async def test_token_is_fetched_once_for_fifty_callers(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        imodel_id = emulator.add_imodel()
        await asyncio.gather(*(client.create_connection(imodel_id) for _ in range(50)))
    assert emulator.count("issue_token") == 1


async def test_cancelled_caller_does_not_cancel_the_fetch(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        imodel_id = emulator.add_imodel()
        calls = [asyncio.create_task(client.create_connection(imodel_id)) for _ in range(5)]
        await asyncio.sleep(0)
        calls[0].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert not any(isinstance(result, BaseException) for result in results[1:])
    assert emulator.count("issue_token") == 1


async def test_token_is_renewed_before_it_expires(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        imodel_id = emulator.add_imodel()
        for _ in range(4):
            await client.create_connection(imodel_id)
            await asyncio.sleep(1750)
    assert emulator.count("issue_token") == 2
    assert 401 not in [request.status for request in emulator.requests]


async def test_refused_token_is_renewed_once(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        emulator.inject("create_connection", answer(401, "{}"))
        await client.create_connection(emulator.add_imodel())
        assert emulator.count("issue_token") == 2
        emulator.inject("create_connection", answer(401, "{}"), answer(401, "{}"))
        with pytest.raises(AuthenticationFailed):
            await client.create_connection(emulator.add_imodel())
        assert emulator.count("issue_token") == 3


async def test_refusal_of_an_older_token_keeps_the_newer_one(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        emulator.inject("create_connection", *[answer(401, "{}")] * 3)
        imodel_id = emulator.add_imodel()
        await asyncio.gather(*(client.create_connection(imodel_id) for _ in range(3)))
        assert emulator.count("issue_token") == 2


async def test_late_refusals_do_not_renew_twice() -> None:
    class Late(Answers):
        async def send(self, request: Request, /) -> Response:
            await asyncio.sleep(5 if request.url.endswith("late") else 1)
            return answer(401 if request.headers["Authorization"].endswith("token1") else 204)

    provider = Provider()
    async with Session(provider, transport=Late(answer(204))) as session:
        soon = session.send(GET)
        late = session.send(Request(method="GET", url="/late"))
        assert [a.status for a in await asyncio.gather(soon, late)] == [204, 204]
    assert provider.fetches == 2


async def test_waiting_request_does_not_send_a_refused_token() -> None:
    """A token that was refused while other requests waited is not sent by them."""
    tokens = iter(["old", "new"])

    async def provider() -> AccessToken:
        return AccessToken(next(tokens), datetime.now(UTC) + timedelta(hours=1))

    def guard(request: Request) -> Response:
        return answer(401 if request.headers["Authorization"] == "Bearer old" else 204)

    transport = Answers(answer(429, Retry_After="5"), guard)
    async with Session(provider, transport=transport) as session:
        get = Request(method="GET", url="/x")
        first = asyncio.create_task(session.send(get))
        await asyncio.sleep(1)
        answers = await asyncio.gather(*(session.send(get) for _ in range(3)), first)
    assert [response.status for response in answers] == [204] * 4
    sent = [request.headers["Authorization"] for request in transport.requests]
    assert sent == ["Bearer old"] * 2 + ["Bearer new"] * 4


async def test_error_after_an_uncertain_sending_may_have_been_processed() -> None:
    refused = TransportError(message="refused", may_have_been_processed=False)
    async with Session("t", transport=Answers(TransportError(message="reset"), refused)) as session:
        with pytest.raises(TransportError, match="refused") as caught:
            await session.send(Request(method="GET", url="/x"))
    assert caught.value.may_have_been_processed
    async with Session("t", transport=Answers(refused)) as session:
        with pytest.raises(TransportError, match="refused") as caught:
            await session.send(Request(method="GET", url="/x"))
    assert not caught.value.may_have_been_processed


async def test_fixed_token_is_not_sent_again_after_a_401(emulator: Emulator) -> None:
    async with ExportClient("stale", transport=emulator) as client:
        with pytest.raises(AuthenticationFailed):
            await client.create_connection(emulator.add_imodel())
    assert emulator.count("create_connection") == 1


async def test_wrong_credentials_are_a_token_error(emulator: Emulator) -> None:
    auth = ClientCredentials("unknown", "the-secret")
    async with ExportClient(auth, transport=emulator) as client:
        with pytest.raises(TokenError, match="invalid_client") as caught:
            await client.create_connection(emulator.add_imodel())
    assert not caught.value.is_transient
    assert "the-secret" not in f"{caught.value!s}{caught.value!r}{auth!r}"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (answer(200, "<html>"), "not JSON"),
        (answer(200, '{"token": 1}'), "no access_token"),
        (TransportError(message="gone"), "gone"),
        (answer(503, '{"error": "down"}'), "503 down"),
    ],
)
async def test_failing_token_service_is_a_token_error(
    outcome: Response | Exception, reason: str
) -> None:
    transport = Answers(outcome)
    async with Session(ClientCredentials("id", "secret"), transport=transport) as session:
        with pytest.raises(TokenError, match=reason):
            await session.send(GET)


async def test_token_without_a_lifetime_is_kept() -> None:
    transport = Answers(answer(200, '{"access_token": "abc"}'), answer(204))
    async with Session(ClientCredentials("id", "secret"), transport=transport) as session:
        await session.send(GET)
        await session.send(GET)
    assert [r.url.rpartition("/")[2] for r in transport.requests] == ["token", "c1", "c1"]


class Provider:
    """A provider whose tokens last an hour."""

    def __init__(self) -> None:
        self.fetches = 0

    async def get_token(self) -> AccessToken:
        self.fetches += 1
        return AccessToken(f"token{self.fetches}", datetime.now(UTC) + timedelta(hours=1))


def calls(provider: Provider) -> dict[str, tuple[Any, int]]:
    """Every form of `auth`, and how often three requests call it."""
    fetches: list[None] = []

    def count() -> str:
        fetches.append(None)
        return f"token{len(fetches)}"

    async def later() -> str:
        return count()

    async def kept() -> AccessToken:
        return AccessToken(count(), None)

    def awaitable() -> Awaitable[str]:
        return later()

    return {
        "provider": (provider, 1),
        "sync": (count, 3),
        "async": (later, 3),
        "awaitable": (awaitable, 3),
        "access token": (kept, 1),
    }


@pytest.mark.parametrize("form", ["provider", "sync", "async", "awaitable", "access token"])
async def test_auth_takes_many_forms(form: str) -> None:
    auth, fetches = calls(Provider())[form]
    transport = Answers(answer(204))
    async with Session(auth, transport=transport) as session:
        for _ in range(3):
            await session.send(GET)
    sent = [request.headers["Authorization"] for request in transport.requests]
    assert len(set(sent)) == fetches
    assert sent[0] == "Bearer token1"


async def test_auth_that_returns_no_token_is_an_error() -> None:
    async with Session(lambda: 42, transport=Answers(answer(204))) as session:  # type: ignore[arg-type,return-value]
        with pytest.raises(TokenError, match="not int"):
            await session.send(GET)


async def test_closing_cancels_a_fetch() -> None:
    async def never() -> str:
        await asyncio.sleep(1e6)
        return "token"

    async with Session(never, transport=Answers(answer(204)), request_timeout=1e7) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(1)
    with pytest.raises(RuntimeError, match="closed"):
        await call
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_ends_a_retry_delay() -> None:
    transport = Answers(answer(503, Retry_After="100"))
    async with Session("t", transport=transport) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(1)
    async with session:  # another opening sends nothing of the former one
        with pytest.raises(RuntimeError, match="not open"):
            await call
    assert len(transport.requests) == 1


async def test_failing_renewal_keeps_the_valid_token(
    emulator: Emulator,
) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        await client.create_connection(emulator.add_imodel())
        await asyncio.sleep(3320)
        emulator.inject("issue_token", *[answer(503, '{"error": "down"}')] * 200)
        for _ in range(20):
            await client.create_connection(emulator.add_imodel())
            await asyncio.sleep(10)
    assert 2 < emulator.count("issue_token") // RetryPolicy().attempts < 15  # growing delays


async def test_renewal_delays_no_request(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        await client.create_connection(emulator.add_imodel())
        await asyncio.sleep(3500)
        emulator.inject("issue_token", answer(503, "{}", Retry_After="50"))
        before = asyncio.get_running_loop().time()
        await client.create_connection(emulator.add_imodel())
        assert asyncio.get_running_loop().time() - before < 1
        await asyncio.sleep(600)
        await client.create_connection(emulator.add_imodel())
    assert 401 not in [request.status for request in emulator.requests]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (OSError("the vault is sealed"), "OSError: the vault is sealed"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
async def test_failing_provider_is_a_token_error(failure: BaseException, reason: str) -> None:
    def sync() -> str:
        raise failure

    async def later() -> str:
        raise failure

    for auth in (sync, later):
        async with Session(auth, transport=Answers(answer(204))) as session:
            errors = await asyncio.gather(
                *(session.send(GET) for _ in range(3)), return_exceptions=True
            )
        assert [type(error) for error in errors] == [TokenError] * 3
        assert len(set(map(id, errors))) == 3
        assert reason in str(errors[0])


@pytest.mark.parametrize("token", ["a b", "ä", ""])
async def test_token_that_fits_no_header_is_a_token_error(token: str) -> None:
    async with Session(lambda: token, transport=Answers(answer(204))) as session:
        with pytest.raises(TokenError, match="access token"):
            await session.send(GET)


async def test_hanging_provider_is_a_token_error() -> None:
    async def never() -> str:
        await asyncio.sleep(1e6)
        return "token"

    async with Session(never, transport=Answers(answer(204))) as session:
        with pytest.raises(TokenError, match="takes longer than 30 s"):
            await session.send(GET)
    assert asyncio.get_running_loop().time() == pytest.approx(30, abs=1)


async def test_object_with_an_async_call_is_a_provider() -> None:
    class Vault:
        async def __call__(self) -> str:
            assert asyncio.current_task()
            return "token1"

    transport = Answers(answer(204))
    async with Session(Vault(), transport=transport) as session:
        await session.send(GET)
    assert transport.requests[0].headers["Authorization"] == "Bearer token1"


async def test_transport_error_names_its_request() -> None:
    async with Session("t", transport=Answers(TransportError(message="lost"))) as session:
        with pytest.raises(TransportError, match=r"no response to POST https://api.*: lost"):
            await session.send(POST)


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITP_SERVICE_CLIENT_ID", "id")
    monkeypatch.delenv("ITP_SERVICE_CLIENT_SECRET", raising=False)
    with pytest.raises(ValueError, match="ITP_SERVICE_CLIENT_SECRET"):
        ClientCredentials.from_env()
    monkeypatch.setenv("ITP_SERVICE_CLIENT_SECRET", "secret")
    monkeypatch.delenv("ITP_ISSUER_URL", raising=False)
    assert ClientCredentials.from_env().token_url == "https://ims.bentley.com/connect/token"
    monkeypatch.setenv("ITP_ISSUER_URL", "https://qa-ims.bentley.com/")
    assert ClientCredentials.from_env().token_url == "https://qa-ims.bentley.com/connect/token"


async def test_unexpected_status_is_an_error_of_every_operation() -> None:
    uses: list[Callable[[ExportClient], Awaitable[object]]] = [
        lambda client: client.create_connection("m"),
        lambda client: client.get_connection("c"),
        lambda client: client.delete_connection("c"),
        lambda client: client.get_run("c", "r"),
        lambda client: client.get_authorization("https://x.example"),
        lambda client: anext(client.list_runs("c")),
        lambda client: anext(client.list_connections("m")),
        lambda client: client.start_run("c"),
        lambda client: client.storage.get_file("f"),
    ]
    for use in uses:
        moved = Answers(answer(301, Location="https://evil.example/"))
        async with ExportClient("t", transport=moved) as client:
            with pytest.raises(ProtocolError, match="answered 301"):
                await use(client)
        assert len(moved.requests) == 1
        teapot = Answers(answer(418, '{"code": "Teapot", "message": "short and stout"}'))
        async with ExportClient("t", transport=teapot) as client:
            with pytest.raises(ResponseError, match="418 Teapot: short and stout"):
                await use(client)


async def test_correlation_id_is_one_for_each_call_and_all_its_retries() -> None:
    transport = Answers(answer(503), answer(503), answer(204), answer(404))
    async with Session("t", transport=transport) as session:
        first, second = await session.send(GET), await session.send(GET)
    sent = [request.headers["X-Correlation-Id"] for request in transport.requests]
    assert len(set(sent[:3])) == 1
    assert sent[3] != sent[0]
    assert (first.correlation_id, second.correlation_id) == (sent[0], sent[3])
    assert UUID(sent[0])


async def test_session_has_its_properties_before_it_is_opened_and_after_it_was_closed() -> None:
    session = Session("t", transport=Answers(answer(204)), rate_limit=RateLimit(per_minute=7))
    for _ in range(2):
        assert session.remaining_calls == 7
        assert session.call_rate > 0
        assert session.service_time() is None
        assert session.last_response_at is None
        assert session.outage_since is None
        assert "closed" in repr(session)
        with pytest.raises(RuntimeError, match="not open"):
            await session.send(GET)
        await session.open()
        assert session.stats == RequestStats()
        assert "open" in repr(session)
        await session.send(GET)
        assert session.remaining_calls == 6
        await session.aclose()
        await session.aclose()
        assert session.stats == RequestStats(calls=1)


async def test_session_of_a_shared_limit_has_no_limit_before_it_is_opened() -> None:
    class Shared:
        def create_limiter(self, max_concurrent: int) -> RequestLimiter:
            raise OSError("not now")

    session = Session("t", transport=Answers(answer(204)), rate_limit=Shared())
    assert session.remaining_calls is None
    for _ in range(2):
        with pytest.raises(OSError, match="not now"):
            await session.open()


async def test_session_whose_opening_failed_can_be_opened() -> None:
    class Flaky:
        calls = 0

        def create_limiter(self, max_concurrent: int) -> RequestLimiter:
            self.calls += 1
            if self.calls == 1:
                raise OSError("not now")
            return create_limiter(RateLimit.STANDARD, max_concurrent)

    session = Session("t", transport=Answers(answer(204)), rate_limit=Flaky())
    with pytest.raises(OSError, match="not now"):
        await session.open()
    async with session:
        assert (await session.send(GET)).status == 204
        with pytest.raises(RuntimeError, match="open already"):
            await session.open()
        assert (await session.send(GET)).status == 204


async def test_session_is_closed_only_by_the_event_loop_that_opened_it() -> None:
    async with Session("t", transport=Answers(answer(204))) as session:
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(session.aclose()))
        assert (await session.send(GET)).status == 204


async def test_reopened_client_works_with_a_borrowed_session() -> None:
    transport = Answers(CONNECTION)
    async with Session("t", transport=transport) as session:
        client = ExportClient(session=session)
        for _ in range(2):
            async with client:
                await client.get_connection("c1")
    with pytest.raises(RuntimeError, match="not open"):
        async with client:
            pass


async def test_service_time_is_the_latest_date_and_the_time_since() -> None:
    dates = ["Sat, 01 Mar 2025 12:00:00 GMT", "Sat, 01 Mar 2025 12:00:20 GMT"]
    transport = Answers(*(answer(204, Date=date) for date in dates), answer(204))
    async with Session("t", transport=transport) as session:
        await session.send(GET)
        await asyncio.sleep(10)
        assert session.service_time() == NOW + timedelta(seconds=10)
        await session.send(GET)
        await session.send(GET)  # has no date
        await asyncio.sleep(600)
        assert session.service_time() == NOW + timedelta(seconds=620)
        await asyncio.sleep(1)
        assert session.service_time() is None


@pytest.mark.parametrize("date", ["noon", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_service_time_is_none_with_an_unreadable_date(date: str) -> None:
    async with Session("t", transport=Answers(answer(204, Date=date))) as session:
        await session.send(GET)
        assert session.service_time() is None


async def test_session_knows_its_last_response_and_since_when_requests_fail() -> None:
    lost = TransportError(message="reset")
    transport = Answers(answer(204), lost, lost, answer(404))
    async with Session("t", transport=transport, retry=RetryPolicy(attempts=1)) as session:
        await session.send(GET)
        responded_at = session.last_response_at
        assert responded_at is not None
        assert session.outage_since is None
        for _ in range(2):
            await asyncio.sleep(5)
            with pytest.raises(TransportError):
                await session.send(GET)
        assert session.outage_since is not None
        assert 4.9 < (datetime.now(UTC) - session.outage_since).total_seconds() < 6
        assert datetime.now(UTC) - responded_at < timedelta(minutes=1)
        await session.send(GET)
        assert session.outage_since is None


async def test_before_send_is_awaited_before_each_sending_and_not_in_the_queue() -> None:
    transport = Answers(answer(429, Retry_After="5"), answer(503), answer(204))
    sendings: list[tuple[int, bool]] = []

    async def before_send(is_uncertain: bool) -> None:
        sendings.append((len(transport.requests), is_uncertain))

    async with Session("t", transport=transport, rate_limit=RateLimit(per_minute=9)) as session:
        await session.send(GET, before_send=before_send)
    assert sendings == [(0, False), (1, False), (2, True)]


async def test_error_of_before_send_ends_the_call_and_sends_nothing() -> None:
    async def before_send(_: bool) -> None:
        raise OSError("the disk is full")

    transport = Answers(answer(204))
    async with Session("t", transport=transport, rate_limit=RateLimit(per_minute=1)) as session:
        with pytest.raises(OSError, match="the disk is full"):
            await session.send(GET, before_send=before_send)
        assert session.remaining_calls == 1
    assert not transport.requests


async def test_pause_that_begins_during_before_send_holds_the_request_back() -> None:
    slow, transport = asyncio.Event(), Answers(answer(429, Retry_After="30"), answer(204))
    sent: list[float] = []

    class Timed(Answers):
        async def send(self, request: Request, /) -> Response:
            sent.append(asyncio.get_running_loop().time())
            return await transport.send(request)

    async def wait(_: bool) -> None:
        await slow.wait()

    async with Session("t", transport=Timed(answer(204))) as session:
        waiting = asyncio.create_task(session.send(GET, before_send=wait))
        await asyncio.sleep(1)
        other = asyncio.create_task(session.send(GET))
        await asyncio.sleep(1)
        slow.set()
        await asyncio.gather(waiting, other)
    assert sent == [1.0, 31.0, 31.0]


async def test_token_error_after_an_uncertain_sending_may_have_been_processed() -> None:
    tokens = iter([AccessToken("first", datetime.now(UTC) + timedelta(seconds=100))])

    def provider() -> AccessToken:
        try:
            return next(tokens)
        except StopIteration:
            raise TokenError(message="no more") from None

    retry = RetryPolicy(initial=200.0, maximum=200.0, jitter=lambda bound: bound)
    async with Session(provider, transport=Answers(answer(502)), retry=retry) as session:
        with pytest.raises(TokenError, match="no more") as caught:
            await session.send(GET)
    assert caught.value.may_have_been_processed


async def test_response_after_an_uncertain_sending_says_since_when() -> None:
    transport = Answers(answer(503), answer(502), answer(503, Retry_After="3"), answer(303))
    retry = RetryPolicy(jitter=lambda bound: bound)
    async with Session("t", transport=transport, retry=retry) as session:
        response = await session.send(GET)
    assert response.uncertain_for == 0.5 + 1.0 + 3.0
    transport = Answers(answer(503, Retry_After="3"), answer(303))
    async with Session("t", transport=transport) as session:
        assert (await session.send(GET)).uncertain_for is None


async def test_token_is_fetched_before_a_slot_is_taken() -> None:
    fetched = asyncio.Event()

    async def provider() -> AccessToken:
        await fetched.wait()
        return AccessToken("t", None)

    transport = Answers(answer(204))
    limit = RateLimit(per_minute=1)
    async with Session(provider, transport=transport, rate_limit=limit) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(1)
        assert session.remaining_calls == 1
        fetched.set()
        await call
        assert session.remaining_calls == 0


async def test_provider_that_returns_one_token_for_ever_ends_with_its_401() -> None:
    token = AccessToken("stale", None)
    for provider in (lambda: token, lambda: "stale"):
        transport = Answers(answer(401))
        async with Session(provider, transport=transport) as session:
            statuses = await asyncio.gather(*(session.send(GET) for _ in range(60)))
        assert {response.status for response in statuses} == {401}


async def test_retry_log_names_operation_and_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "itwin_export_async.http")
    async with Session("t", transport=Answers(answer(503), answer(204))) as session:
        await session.send(GET)
    (record,) = [r for r in caplog.records if "retry 1" in r.getMessage()]
    fields = {"operation": "GET /export/connections/{id}", "attempt": 1}
    assert record.itwin == fields  # type: ignore[attr-defined]
    assert (record.name, record.levelno) == ("itwin_export_async.http", logging.DEBUG)


@pytest.mark.parametrize(
    ("base_url", "url", "is_sent"),
    [
        ("https://api.bentley.com", "http://127.0.0.1:6379/x", False),
        ("https://api.bentley.com", "http://localhost/x", False),
        ("https://localhost", "http://localhost/x", True),
        ("http://127.0.0.1:8080", "http://127.0.0.1:9090/x", True),
        ("http://127.0.0.1:8080", "http://blobs.example/x", False),
    ],
)
async def test_plain_http_goes_to_loopback_only_for_an_api_on_loopback(
    base_url: str, url: str, is_sent: bool
) -> None:
    transport, request = Answers(answer(200)), Request(method="GET", url=url)
    async with Session("t", base_url=base_url, transport=transport) as session:
        for _ in range(1 if is_sent else 0):
            await session.send_blob(request)
            async with session.stream_blob(request):
                pass
        if not is_sent:
            with pytest.raises(ProtocolError, match="must be https"):
                await session.send_blob(request)
            with pytest.raises(ProtocolError, match="must be https"):
                async with session.stream_blob(request):
                    pass
    assert len(transport.requests) == (2 if is_sent else 0)


async def test_blob_store_and_token_service_are_retried_after_a_429() -> None:
    transport = Answers(answer(429, Retry_After="7"), answer(201))
    async with Session("t", transport=transport) as session:
        response = await session.send_blob(Request(method="PUT", url="https://blobs.example/b"))
    assert response.status == 201
    assert asyncio.get_running_loop().time() == 7


async def test_any_call_can_be_bounded_by_a_timeout() -> None:
    transport = Answers(answer(503, Retry_After="100"))
    async with Session("t", transport=transport) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await session.send(GET)
    assert asyncio.get_running_loop().time() == 3


async def test_opening_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "itwin_export_async.http")
    async with Session("secret-token", transport=Answers(answer(204))):
        pass
    assert (
        f"client opened: version {__version__}, https://api.bentley.com, RateLimit(" in caplog.text
    )
    assert "secret-token" not in caplog.text


async def test_absolute_url_of_the_api_is_sent_unchanged() -> None:
    transport, url = Answers(answer(204)), "https://API.bentley.com:443/storage/files/f1/complete"
    async with Session("t", transport=transport) as session:
        await session.send(Request(method="POST", url=url))
    assert [request.url for request in transport.requests] == [url]
    assert transport.requests[0].headers["Authorization"] == "Bearer t"


async def test_error_names_the_correlation_id_that_was_sent() -> None:
    for headers, expected in (({}, None), ({"x_correlation_id": "theirs"}, "theirs")):
        transport = Answers(answer(404, "{}", **headers))
        async with ExportClient("t", transport=transport) as client:
            with pytest.raises(ResponseError) as caught:
                await client.get_connection("c1")
        sent = transport.requests[0].headers["X-Correlation-Id"]
        assert caught.value.correlation_id == (expected or sent)
        assert (expected or sent) in str(caught.value)


@pytest.mark.parametrize("status", [200, 404])
async def test_token_that_a_response_repeats_is_struck_out(status: int) -> None:
    transport = Answers(answer(status, '{"a": "opaque-token-1"}', X_Debug="opaque-token-1"))
    async with Session("opaque-token-1", transport=transport) as session:
        response = await session.send(GET)
    assert b"opaque" not in response.body
    assert "opaque" not in "".join(response.headers.values())


async def test_signature_that_a_blob_store_repeats_is_struck_out() -> None:
    transport = Answers(answer(403, "it is planted-signature", X_Debug="planted-signature"))
    request = Request(method="GET", url="https://blobs.example/b?sig=planted-signature")
    async with Session("t", transport=transport) as session:
        response = await session.send_blob(request)
        assert b"planted" not in response.body
        async with session.stream_blob(request) as stream:
            assert "planted" not in "".join(stream.response.headers.values())


async def test_session_knows_when_its_token_expires() -> None:
    ends = datetime.now(UTC) + timedelta(hours=1)
    session = Session(AccessToken("t", ends), transport=Answers(answer(204)))
    assert session.token_expires_at is None
    async with session:
        assert session.token_expires_at == ends


def test_half_built_session_has_a_repr() -> None:
    assert "closed" in repr(Session.__new__(Session))


async def test_imodels_of_a_bounded_number_of_connections_are_remembered() -> None:
    async with Session("t", transport=Answers(answer(204))) as session:
        for number in range(20_000):
            session.remember_imodel(f"c{number}", "m")
        session.remember_imodel("c20000", None)
        known = [session.imodel_of(f"c{number}") for number in range(20_001)]
    assert known == [None] * 10_000 + ["m"] * 10_000 + [None]
