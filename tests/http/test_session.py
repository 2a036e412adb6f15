"""The session: headers, tokens, retries, and where the token may go."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from itwin_export_async import (
    AccessToken,
    AuthenticationFailed,
    ClientCredentials,
    ExportClient,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseError,
    RetryPolicy,
    ServerError,
    Session,
    TokenError,
    TransportError,
)
from itwin_export_async.emulator import Emulator
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answers, answer

GET = Request(method="GET", url="/export/connections/c1")
POST = Request(method="POST", url="/export/connections", body=b"{}")
CONNECTION = answer(200, '{"connection": {"id": "c1"}}')


async def test_every_request_says_who_asks_and_for_which_version() -> None:
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
async def test_what_may_pass_is_asked_again(status: int) -> None:
    transport = Answers(answer(status), answer(status), answer(204))
    async with Session("t", transport=transport) as session:
        assert (await session.send(GET)).status == 204
    assert len(transport.requests) == 3


@pytest.mark.parametrize("status", [200, 303, 400, 403, 404, 409, 422, 501])
async def test_what_stays_is_an_answer_at_once(status: int) -> None:
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
async def test_a_request_that_may_not_be_repeated_is_sent_again_only_if_surely_not_taken(
    outcome: Response | Exception, sendings: int
) -> None:
    transport = Answers(outcome)
    async with Session("t", transport=transport, retry=RetryPolicy(attempts=3)) as session:
        try:
            await session.send(POST)
        except TransportError as error:
            assert error.message == getattr(outcome, "message", None)
    assert len(transport.requests) == sendings


async def test_an_asked_wait_is_kept_to_the_letter() -> None:
    transport = Answers(answer(429, Retry_After="17"), answer(204))
    async with Session("t", transport=transport) as session:
        await session.send(GET)
    assert asyncio.get_running_loop().time() == 17


async def test_an_asked_wait_that_is_too_long_is_raised_at_once() -> None:
    async with ExportClient("t", transport=Answers(answer(429, Retry_After="301"))) as client:
        with pytest.raises(RateLimited, match="retry after 301 s") as caught:
            await client.get_connection("c1")
    assert caught.value.retry_after == 301
    assert asyncio.get_running_loop().time() == 0


async def test_the_last_answer_is_the_one_that_is_raised() -> None:
    transport = Answers(TransportError(message="reset"), answer(500), answer(502, "<html>Bad"))
    async with ExportClient("t", transport=transport) as client:
        with pytest.raises(ServerError, match="502: <html>Bad"):
            await client.get_connection("c1")
    assert len(transport.requests) == 5


async def test_retries_are_logged_without_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = Answers(TransportError(message="reset"), answer(429), answer(204))
    async with Session("the-token", transport=transport) as session:
        await session.send(GET)
    assert "attempt 1 again in" in caplog.text
    assert "429 for GET https://api.bentley.com/export/connections/c1" in caplog.text
    assert "the-token" not in caplog.text


async def test_a_stream_names_what_it_answers_though_its_transport_does_not() -> None:
    request = Request(method="GET", url="https://blobs.example/b")
    async with (
        Session("t", transport=Answers(answer(200, "x"))) as session,
        session.stream_blob(request) as stream,
    ):
        assert (stream.response.method, stream.response.url) == ("GET", "https://blobs.example/b")


async def test_a_silent_service_is_a_timeout() -> None:
    class Silent(Answers):
        async def send(self, request: Request, /) -> Response:
            await asyncio.sleep(1000)
            return await super().send(request)

    retry = RetryPolicy(attempts=1)
    async with Session("t", transport=Silent(answer(200)), retry=retry) as session:
        with pytest.raises(RequestTimeout, match="none within 30 s"):
            await session.send(GET)
        with pytest.raises(TimeoutError):
            await session.send(GET)


async def test_a_timeout_from_elsewhere_passes_through() -> None:
    async with Session("t", transport=Answers(TimeoutError("not mine"))) as session:
        with pytest.raises(TimeoutError, match="not mine"):
            await session.send(GET)


@pytest.mark.parametrize(
    "url",
    ["https://evil.example/x", "https://api.bentley.com:444/x", "http://api.bentley.com/x"],
)
async def test_the_token_goes_to_one_origin_only(url: str) -> None:
    transport = Answers(answer(200))
    async with Session("t", transport=transport) as session:
        with pytest.raises(ProtocolError, match="gets no token"):
            await session.send(Request(method="GET", url=url))
    assert not transport.requests


@pytest.mark.parametrize(
    "url", ["http://api.bentley.com", "ftp://x", "api.bentley.com", "", "http://["]
)
def test_a_base_address_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Session("t", base_url=url)


def test_arguments_that_make_no_sense_are_refused() -> None:
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


async def test_another_event_loop_is_told() -> None:
    async with Session("t", transport=Answers(answer(204))) as session:

        def elsewhere() -> None:
            asyncio.run(session.send(GET))

        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.to_thread(elsewhere)


def credentials(emulator: Emulator) -> ClientCredentials:
    return ClientCredentials(emulator.client_id, emulator.client_secret)


async def test_fifty_callers_fetch_one_token(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        imodel_id = emulator.add_imodel()
        await asyncio.gather(*(client.create_connection(imodel_id) for _ in range(50)))
    assert emulator.count("issue_token") == 1


async def test_a_caller_that_is_cancelled_takes_no_other_down(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        imodel_id = emulator.add_imodel()
        calls = [asyncio.create_task(client.create_connection(imodel_id)) for _ in range(5)]
        await asyncio.sleep(0)
        calls[0].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert not any(isinstance(result, BaseException) for result in results[1:])
    assert emulator.count("issue_token") == 1


async def test_a_token_is_renewed_before_it_ends(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        imodel_id = emulator.add_imodel()
        for _ in range(4):
            await client.create_connection(imodel_id)
            await asyncio.sleep(1750)
    assert emulator.count("issue_token") == 2
    assert 401 not in [request.status for request in emulator.requests]


async def test_a_refused_token_is_renewed_once(emulator: Emulator) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        emulator.inject("create_connection", answer(401, "{}"))
        await client.create_connection(emulator.add_imodel())
        assert emulator.count("issue_token") == 2
        emulator.inject("create_connection", answer(401, "{}"), answer(401, "{}"))
        with pytest.raises(AuthenticationFailed):
            await client.create_connection(emulator.add_imodel())
        assert emulator.count("issue_token") == 3


async def test_a_refusal_of_an_older_token_leaves_the_newer_one_alone(emulator: Emulator) -> None:
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
    assert provider.asked == 2


async def test_the_token_is_that_of_the_moment_when_a_request_goes() -> None:
    """One that was refused while others waited for their turn is not sent by them."""
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


async def test_who_may_have_been_heard_once_is_not_told_otherwise() -> None:
    refused = TransportError(message="refused", may_have_been_processed=False)
    async with Session("t", transport=Answers(TransportError(message="reset"), refused)) as session:
        with pytest.raises(TransportError, match="refused") as caught:
            await session.send(Request(method="GET", url="/x"))
    assert caught.value.may_have_been_processed
    async with Session("t", transport=Answers(refused)) as session:
        with pytest.raises(TransportError, match="refused") as caught:
            await session.send(Request(method="GET", url="/x"))
    assert not caught.value.may_have_been_processed


async def test_a_fixed_token_that_is_refused_is_not_tried_again(emulator: Emulator) -> None:
    async with ExportClient("stale", transport=emulator) as client:
        with pytest.raises(AuthenticationFailed):
            await client.create_connection(emulator.add_imodel())
    assert emulator.count("create_connection") == 1


async def test_wrong_credentials_are_a_token_error(emulator: Emulator) -> None:
    auth = ClientCredentials("nobody", "the-secret")
    async with ExportClient(auth, transport=emulator) as client:
        with pytest.raises(TokenError, match="invalid_client") as caught:
            await client.create_connection(emulator.add_imodel())
    assert not caught.value.is_transient
    assert "the-secret" not in f"{caught.value!s}{caught.value!r}{auth!r}"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (answer(200, "<html>"), "not JSON"),
        (answer(200, '{"token": 1}'), "no access_token"),
        (TransportError(message="gone"), "gone"),
        (answer(503, '{"error": "down"}'), "503 down"),
    ],
)
async def test_a_token_service_in_trouble_is_a_token_error(
    told: Response | Exception, reason: str
) -> None:
    transport = Answers(told)
    async with Session(ClientCredentials("id", "secret"), transport=transport) as session:
        with pytest.raises(TokenError, match=reason):
            await session.send(GET)


async def test_a_token_without_a_lifetime_is_kept() -> None:
    transport = Answers(answer(200, '{"access_token": "abc"}'), answer(204))
    async with Session(ClientCredentials("id", "secret"), transport=transport) as session:
        await session.send(GET)
        await session.send(GET)
    assert [r.url.rpartition("/")[2] for r in transport.requests] == ["token", "c1", "c1"]


class Provider:
    def __init__(self) -> None:
        self.asked = 0

    async def get_token(self) -> AccessToken:
        self.asked += 1
        return AccessToken(f"token{self.asked}", datetime.now(UTC) + timedelta(hours=1))


def calls(provider: Provider) -> dict[str, tuple[Any, int]]:
    """Every form of auth, and how often three requests ask it."""
    asked: list[None] = []

    def count() -> str:
        asked.append(None)
        return f"token{len(asked)}"

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
async def test_auth_comes_in_many_forms(form: str) -> None:
    auth, asked = calls(Provider())[form]
    transport = Answers(answer(204))
    async with Session(auth, transport=transport) as session:
        for _ in range(3):
            await session.send(GET)
    sent = [request.headers["Authorization"] for request in transport.requests]
    assert len(set(sent)) == asked
    assert sent[0] == "Bearer token1"


async def test_auth_that_gives_something_else_is_told() -> None:
    async with Session(lambda: 42, transport=Answers(answer(204))) as session:  # type: ignore[arg-type,return-value]
        with pytest.raises(TokenError, match="not int"):
            await session.send(GET)


async def test_closing_ends_a_fetch_under_way() -> None:
    async def never() -> str:
        await asyncio.sleep(1e6)
        return "token"

    async with Session(never, transport=Answers(answer(204)), request_timeout=1e7) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(1)
    with pytest.raises(RuntimeError, match="closed"):
        await call
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_request_that_sleeps_while_the_client_is_closed_is_not_sent_again() -> None:
    transport = Answers(answer(503, Retry_After="100"))
    async with Session("t", transport=transport) as session:
        call = asyncio.create_task(session.send(GET))
        await asyncio.sleep(1)
    with pytest.raises(RuntimeError, match="not open"):
        await call
    assert len(transport.requests) == 1


async def test_a_renewal_that_fails_harms_nobody_while_the_old_token_works(
    emulator: Emulator,
) -> None:
    async with ExportClient(credentials(emulator), transport=emulator) as client:
        await client.create_connection(emulator.add_imodel())
        await asyncio.sleep(3320)
        emulator.inject("issue_token", *[answer(503, '{"error": "down"}')] * 200)
        for _ in range(20):
            await client.create_connection(emulator.add_imodel())
            await asyncio.sleep(10)
    assert 2 < emulator.count("issue_token") // RetryPolicy().attempts < 15  # growing rests


async def test_a_renewal_is_not_waited_for(emulator: Emulator) -> None:
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
async def test_what_provides_tokens_may_fail_in_any_way(
    failure: BaseException, reason: str
) -> None:
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
async def test_a_provided_token_that_fits_no_header_is_a_token_error(token: str) -> None:
    async with Session(lambda: token, transport=Answers(answer(204))) as session:
        with pytest.raises(TokenError, match="access token"):
            await session.send(GET)


async def test_a_provider_that_hangs_is_given_up() -> None:
    async def never() -> str:
        await asyncio.sleep(1e6)
        return "token"

    async with Session(never, transport=Answers(answer(204))) as session:
        with pytest.raises(TokenError, match="takes longer than 30 s"):
            await session.send(GET)
    assert asyncio.get_running_loop().time() == pytest.approx(30, abs=1)


async def test_an_object_with_an_async_call_is_a_callable() -> None:
    class Vault:
        async def __call__(self) -> str:
            assert asyncio.current_task()
            return "token1"

    transport = Answers(answer(204))
    async with Session(Vault(), transport=transport) as session:
        await session.send(GET)
    assert transport.requests[0].headers["Authorization"] == "Bearer token1"


async def test_an_error_without_a_place_gets_one() -> None:
    async with Session("t", transport=Answers(TransportError(message="lost"))) as session:
        with pytest.raises(TransportError, match=r"no response to POST https://api.*: lost"):
            await session.send(POST)


def test_the_environment_makes_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITP_SERVICE_CLIENT_ID", "id")
    monkeypatch.delenv("ITP_SERVICE_CLIENT_SECRET", raising=False)
    with pytest.raises(ValueError, match="ITP_SERVICE_CLIENT_SECRET"):
        ClientCredentials.from_env()
    monkeypatch.setenv("ITP_SERVICE_CLIENT_SECRET", "secret")
    monkeypatch.delenv("ITP_ISSUER_URL", raising=False)
    assert ClientCredentials.from_env().token_url == "https://ims.bentley.com/connect/token"
    monkeypatch.setenv("ITP_ISSUER_URL", "https://qa-ims.bentley.com/")
    assert ClientCredentials.from_env().token_url == "https://qa-ims.bentley.com/connect/token"


async def test_what_an_operation_never_answers_breaks_the_contract() -> None:
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
