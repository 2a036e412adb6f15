"""No secret in any text: planted secrets are searched for wherever they may be shown."""

import asyncio
import html
import json
import logging
import pickle
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async import (
    AccessToken,
    ClientCredentials,
    ExportClient,
    ExportError,
    ExportOptions,
    OutputOptions,
    PermissionDenied,
    RefreshTokenCredentials,
    RetryPolicy,
    RunHandle,
    TransportError,
)
from itwin_export_async._protocol.error_responses import error_from_response, without_secrets
from itwin_export_async._redaction import (
    MAX_ESCAPED,
    MIN_SECRET,
    Secret,
    holds_secret,
    redacted,
    safe_repr,
    signatures,
    struck_out_bytes,
    without_query,
)
from itwin_export_async.transport import Request, Response
from tests.support.fakes import Answer, Answers, answer

TOKEN, SECRET, REFRESH, SIGNATURE = (
    "planted-token",
    "planted-secret",
    "planted-refresh",
    "planted%2Fsig",
)
SIGNED = f"https://blobs.example/f?sv=2024&sig={SIGNATURE}"
OPTIONS = ExportOptions(
    output=OutputOptions(
        location="USER_BLOB_STORAGE",
        output_sas_url=SIGNED,
        logs_sas_url=SIGNED,
        save_logs=True,
    )
)
QUOTING = (
    f'{{"error": {{"code": "Odd", "message": "no such token: Bearer {TOKEN}, see {SIGNED}"}}}}'
)
FAILED = (
    '{"run": {"id": "r1", "state": "Completed", "result": "Error", "jobs": [{"id": "j", "state": '
    '"Completed", "tasks": [{"id": "t", "state": "Completed", "result": "Error", "error": '
    f'{{"errorCode": "E", "description": "PUT {SIGNED} failed"}}}}]}}]}}}}'
)
FAILURES: list[list[Answer]] = [
    [answer(status, QUOTING, Location=SIGNED, X_Echo=f"Bearer {TOKEN}", Set_Cookie=TOKEN)]
    for status in (302, 400, 401, 403, 404, 409, 422, 418, 429, 500)
]
FAILURES += [
    [answer(200, f"<html>Bearer {TOKEN} {SIGNED}</html>")],
    [answer(202, Location=f"https://evil.example/runs?sig={SIGNATURE}")],
    [answer(200, FAILED)],
    [TransportError(message="reset", url=SIGNED)],
    [answer(302, Location=SIGNED), TransportError(message="reset", url=SIGNED)],
    [answer(302, Location=SIGNED), answer(400, QUOTING)],
    [answer(302, Location=SIGNED), answer(403, QUOTING)],
    [answer(302, Location=f"http://blobs.example/f?sig={SIGNATURE}")],
]
USES: list[Callable[[ExportClient, Path], Awaitable[object]]] = [
    lambda client, _: client.start_run("c1", OPTIONS),
    lambda client, _: client.get_connection("c1"),
    lambda client, _: client.attach("c1", "r1").wait(timeout=100),
    lambda client, path: client.attach("c1", "r1").download(path),
    lambda client, path: client.storage.download("f1", path / "x"),
    lambda client, _: client.find_or_create_connection("m", display_name="n"),
]


def shown(thing: object) -> str:
    """Everything of it that a person or a file may see."""
    text = f"{thing!s}\n{thing!r}\n"
    if isinstance(thing, BaseException):
        text += "".join(traceback.format_exception(thing))
        for cause in (thing.__cause__, thing.__context__):
            text += "" if cause is None else shown(cause)
    if isinstance(thing, ExportError | RunHandle):
        text += pickle.dumps(thing, protocol=0).decode(errors="replace")
    return text


def assert_nothing_planted(text: str) -> None:
    for line in text.splitlines():
        if "planted" in line:  # a traceback may quote this file itself
            assert "planted-t" not in line, line
            assert "planted-s" not in line, line
            assert "planted-r" not in line, line
            assert "planted%2Fsig" not in line, line


@pytest.mark.parametrize("answers", FAILURES)
async def test_no_failure_shows_a_secret(
    answers: list[Answer], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    transport, retry = Answers(*answers), RetryPolicy(attempts=2)
    async with ExportClient(TOKEN, transport=transport, retry=retry) as client:
        for use in USES:
            try:
                await use(client, tmp_path)
            except ExportError as error:
                assert_nothing_planted(shown(error))
        handle = client.attach("c1", "r1")
        assert_nothing_planted(shown(handle) + handle.resume_token)
        assert_nothing_planted(repr(transport.requests))
    assert_nothing_planted(caplog.text)
    assert TOKEN in str(transport.requests[0].headers)  # or nothing was sent at all


@pytest.mark.parametrize(
    "auth",
    [
        ClientCredentials("app", SECRET),
        RefreshTokenCredentials("app", REFRESH, client_secret=SECRET),
    ],
)
@pytest.mark.parametrize(
    "response",
    [
        answer(400, f'{{"error": "invalid", "error_description": "client_secret={SECRET}"}}'),
        answer(200, f'{{"access_token": "{TOKEN} {TOKEN}"}}'),
        answer(500, f'"refresh_token": "{REFRESH}"'),
        TransportError(message="reset"),
    ],
)
async def test_no_failure_shows_credentials(
    auth: ClientCredentials | RefreshTokenCredentials,
    response: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    assert_nothing_planted(shown(auth) + shown(AccessToken(TOKEN)))
    async with ExportClient(auth, transport=Answers(response)) as client:
        with pytest.raises(ExportError) as caught:
            await client.get_connection("c1")
    assert_nothing_planted(shown(caught.value))
    assert_nothing_planted(caplog.text)


def test_values_show_no_signature_and_keep_it_for_workers() -> None:
    assert_nothing_planted(f"{OPTIONS!r} {OPTIONS!s}")
    assert pickle.loads(pickle.dumps(OPTIONS)) == OPTIONS
    assert_nothing_planted(repr(Request(method="GET", url=SIGNED)))
    assert_nothing_planted(repr(Response(status=200, url=SIGNED, body=TOKEN.encode())))


async def test_token_goes_to_the_api_alone(tmp_path: Path) -> None:
    transport = Answers(answer(302, Location=SIGNED), answer(200, "content", Content_Length="7"))
    async with ExportClient(TOKEN, transport=transport) as client:
        await client.storage.download("f1", tmp_path / "x.ifc")
    blob = transport.requests[1]
    assert blob.url == SIGNED
    assert TOKEN not in str(dict(blob.headers))
    await asyncio.sleep(0)


OPAQUE = "opaque-token-7f3a91"


@pytest.mark.parametrize("status", [200, 400, 403, 404, 409, 422, 429, 500])
async def test_bearer_that_the_service_repeats_is_struck_out(
    status: int, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    body = json.dumps({"error": {"code": "Odd", "message": f"the token {OPAQUE} has expired"}})
    transport = Answers(answer(status, body, X_Request_Id=f"req-{OPAQUE}", X_Debug=OPAQUE))
    async with ExportClient(OPAQUE, transport=transport, retry=RetryPolicy(attempts=1)) as client:
        for use in USES[:-1]:
            with pytest.raises(ExportError) as caught:
                await use(client, tmp_path)
            assert OPAQUE not in shown(caught.value)
    assert OPAQUE not in caplog.text


async def test_secrets_that_a_token_service_repeats_are_struck_out() -> None:
    for auth, secret in (
        (ClientCredentials("me", "client-secret-91c77d"), "client-secret-91c77d"),
        (RefreshTokenCredentials("me", "refresh-token-5d11e8"), "refresh-token-5d11e8"),
    ):
        body = json.dumps({"error": "odd", "error_description": f"unknown: {secret}"})
        async with ExportClient(auth, transport=Answers(answer(400, body))) as client:
            with pytest.raises(ExportError) as caught:
                await client.get_connection("c1")
        assert "unknown: ***" in str(caught.value)
        assert secret not in shown(caught.value)


async def test_signature_of_a_start_that_the_service_repeats_is_struck_out() -> None:
    body = json.dumps({"error": {"code": "Odd", "message": f"cannot use {SIGNATURE}"}})
    async with ExportClient("token", transport=Answers(answer(422, body))) as client:
        with pytest.raises(ExportError) as caught:
            await client.start_run("c1", OPTIONS)
    assert_nothing_planted(shown(caught.value))


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.delete_connection(SIGNED),
        lambda client: client.storage.get_file(SIGNED),
        lambda client: client.storage.upload(__file__, SIGNED),
        lambda client: client.get_authorization(f"x {SIGNED}"),
        lambda client: client.start_run(
            "c1", ExportOptions(output=OutputOptions(folder_id=SIGNED))
        ),
    ],
)
async def test_misplaced_signed_url_is_refused_without_being_shown(call: Any) -> None:
    transport = Answers(answer(204))
    async with ExportClient("token", transport=transport) as client:
        with pytest.raises(ValueError, match=r"\*\*\*|URL") as caught:
            await call(client)
    assert "planted" not in f"{caught.value} {caught.value!r}"
    assert not transport.requests


@pytest.mark.parametrize(
    "text",
    ["Bearer abc.planted", "sig=planted%3D&x=1", "client_secret: planted", '"password":"planted"',
     "eyJhbGciOiJSUzI1NiJ9.planted", "refresh_token=planted", "SIG=planted",
     "login?next=https%3A%2F%2Fh%2Fb%3Fsv%3D1%26sig%3Dplanted", "to=%3Fsig%253dplanted",
     "https://u:planted@h/p", "https://h/p?key=planted", "redis://:planted@h", "s3://h/p?a=planted"],
)  # fmt: skip
def test_secret_is_redacted_by_its_looks(text: str) -> None:
    assert "planted" not in redacted(f"before {text} after")
    assert redacted(f"before {text} after").startswith("before ")
    assert holds_secret(text)


@pytest.mark.parametrize(
    "text",
    ["plain words", "a?b", "me@example.com", "https://h/p", "", "EYjyeiZMUE690xC6qCpxKGZmAxbyRfxD"],
)
def test_text_without_a_secret_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text
    assert not holds_secret(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\nb\r\n  c\t", "a b c"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\u202etxt.exe", r"\u202etxt.exe"),
        ("\ud800", r"\ud800"),
        ("caf\u00e9 \u6a4b", "caf\u00e9 \u6a4b"),
    ],
)
def test_text_is_one_line_with_control_characters_spelled_out(text: str, expected: str) -> None:
    assert redacted(text) == expected


@pytest.mark.parametrize("limit", [10, 500])
def test_text_is_cut(limit: int) -> None:
    assert redacted("x" * 1_000_000, limit=limit) == "x" * limit
    assert redacted("\x00" * 1_000_000, limit=limit) == (r"\x00" * limit)[:limit]


def test_secret_at_the_cut_is_struck_out_first() -> None:
    secret = Secret("opaque/value+7f3a91")
    for form in (secret.reveal(), "opaque%2Fvalue%2B7f3a91", "opaque\\/value+7f3a91"):
        text = "x" * 1990 + form
        assert redacted(text, [secret], limit=2000) == "x" * 1990 + "***"


ESCAPED_TOKENS = (  # of AbCd+EfGh/IjKl=
    "AbCd+EfGh/IjKl=",
    "AbCd%2BEfGh%2FIjKl%3D",
    "AbCd%2bEfGh%2fIjKl%3d",
    "AbCd%252BEfGh%252FIjKl%253D",
    "AbCd+EfGh\\/IjKl=",
    "AbCd\\u002BEfGh\\u002fIjKl=",
    "AbCd&#43;EfGh&#x2F;IjKl&equals;",
    "AbCd&#x0002b;EfGh&sol;IjKl&#61",
    "AbCd&amp;#43;EfGh/IjKl=",
    "AbCd\\u0026#43;EfGh/IjKl=",
    "&#65;&#98;&#67;&#100;&#43;&#69;&#102;&#71;&#104;&#47;&#73;&#106;&#75;&#108;&#61;",
)


@pytest.mark.parametrize("escaped", ESCAPED_TOKENS)
async def test_token_is_struck_out_however_it_is_escaped(escaped: str) -> None:
    bodies = (
        f"<html><head><title>Denied &quot;&lt;{escaped}</title></head></html>",
        f'{{"error": {{"code": "Odd", "message": "<html><title>{escaped}</title></html>"}}}}',
        f'{{"error": {{"code": "Odd", "message": "not {escaped} &quot;"}}}}',
    )
    for body in bodies:
        transport = Answers(answer(403, body))
        async with ExportClient("AbCd+EfGh/IjKl=", transport=transport) as client:
            with pytest.raises(PermissionDenied) as caught:
                await client.get_connection("c1")
        assert "***" in str(caught.value)
        assert "AbCd" not in shown(caught.value)
        assert caught.value.code == ("" if body.startswith("<html>") else "Odd")


@pytest.mark.parametrize("escaped", ESCAPED_TOKENS)
def test_only_the_secret_is_struck_out_of_a_body(escaped: str) -> None:
    before, after = b'\xff{"a": "&quot;&#43;\\u002b', b'%2B&amp;"}\xfe'
    secrets = [Secret("AbCd+EfGh/IjKl=")]
    body = before + escaped.encode() + after
    assert struck_out_bytes(body, secrets) == before + b"***" + after
    assert struck_out_bytes(before + after, secrets) == before + after


@pytest.mark.parametrize(
    ("secret", "text"),
    [
        ("AbCd-EfGh_IjKl.Mn~", "AbCd&#45;EfGh&#95;IjKl&#46;Mn%7E"),
        ("AbCd-EfGh_IjKl.Mn~", "AbCd\\u002DEfGh_IjKl.Mn~"),
        ("caf\u00e9 caf\u00e9", "caf%C3%A9%20caf\\u00e9"),
        ("caf\u00e9 caf\u00e9", "caf&eacute; caf&#233;"),
        ("tab\tand\nline", "tab\\tand\\nline"),
        ("a%2Bliteral", "a%2Bliteral"),
        ("a%2Bliteral", "a%252Bliteral"),
        ('quote"quote\\back', 'quote\\"quote\\\\back'),
        ("a&amp;secret", "a&amp;amp;secret"),
        ("Ab&Cd;EfGhIjKl", "Ab\\u0026Cd;EfGhIjKl"),
        ("pass&foo;word12", "pass&amp;foo;word12"),
        ("AbCd&EfGhIjKl", "AbCd&ampEfGhIjKl"),
        ("AbCdEfGh=IjK\\&x", "AbCdEfGh=IjK\\&amp;x"),
        ("AbCd\u00bdEfGh", "AbCd&frac12;EfGh"),
        ("AbCd+EfGh", "AbCd&#0000000043;EfGh"),
        ("/bCd+EfGhIjKl=", "\\/bCd+EfGhIjKl="),
    ],
)
def test_escaped_secret_is_struck_out_of_a_text(secret: str, text: str) -> None:
    secrets = [Secret(secret), Secret("another one")]
    assert redacted(f"\u00e9 {text}, {text} &quot;", secrets) == "\u00e9 ***, *** &quot;"


@pytest.mark.parametrize(
    ("secret", "before", "escaped", "after"),
    [
        ("/bCd+EfGhIjKl=", "bad ", "\\/bCd+EfGhIjKl=", " it is"),
        ('"bCd+EfGhIjKl', "bad ", '\\"bCd+EfGhIjKl', ""),
        ("AbCdEfGhIjKl\\", "bad ", "AbCdEfGhIjKl\\\\", ""),
        ("AbCd+EfGhIjKl", "50%", "AbCd\\u002BEfGhIjKl", ""),
    ],
)
def test_json_around_a_secret_stays_json(
    secret: str, before: str, escaped: str, after: str
) -> None:
    body = f'{{"error": {{"code": "Odd", "message": "{before}{escaped}{after}"}}}}'.encode()
    message = json.loads(struck_out_bytes(body, [Secret(secret)]))["error"]["message"]
    assert message.rstrip("\\") == f"{before}***{after}"


def test_error_body_is_cut_where_escaped_secrets_are_not_found() -> None:
    body = json.dumps({"error": {"pad": "x" * MAX_ESCAPED, "code": "Odd", "message": "AbCd+EfGh"}})
    response = answer(403, body.replace("+", "\\u002B"))
    assert "AbCd" not in str(error_from_response(without_secrets(response, [Secret("AbCd+EfGh")])))


@given(st.text(), st.text(min_size=MIN_SECRET), st.text())
def test_escaped_secret_is_struck_out_of_any_text(before: str, secret: str, after: str) -> None:
    for escaped in (secret, quote(secret), json.dumps(secret)[1:-1], html.escape(secret)):
        body = f"{before} {escaped} {after}".encode(errors="surrogatepass")
        struck = struck_out_bytes(body, [Secret(secret)])
        assert escaped.encode(errors="surrogatepass") not in struck
        assert struck_out_bytes(struck, [Secret(secret)]) == struck


def test_plain_value_is_struck_out() -> None:
    assert redacted("the token abcdef0123 is old", [Secret("abcdef0123")]) == "the token *** is old"


def test_short_values_are_not_struck_out() -> None:
    assert redacted("a token", [Secret("token"), Secret("")]) == "a token"


@pytest.mark.parametrize(
    "piece",
    ["http://", "sig", "sig\\", "bearer ", "bearer", "eyJ", "-eyJ", "%3fsig%25", "sig\"'", "//",
     "@//", "a://@", "sig ", "\x00", "://?", "password%25", "&", "&#", "&amp;", "\\", "%25"],
)  # fmt: skip
def test_redaction_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    began = time.process_time()
    holds_secret(text)
    redacted(text, limit=len(text))
    for secret in ("&" * 12, "\\" * 12, "AbCd+EfGh/IjKl="):
        struck_out_bytes(text[:100_000].encode(), [Secret(secret)])
    # at least ten seconds where each start runs to the end
    assert time.process_time() - began < 5


def test_signatures_of_urls_are_found() -> None:
    found = signatures(SIGNED, None, "https://h/p", "https://h/?SIG=a%2Bb&access_token=c#sig=d")
    assert [secret.reveal() for secret in found] == ["planted/sig", "a+b", "c"]
    assert repr(found[0]) == "Secret(***)"


def test_url_is_shown_without_query_fragment_and_user() -> None:
    assert without_query("https://u:planted@h/p?q#f") == "https://h/p"
    assert without_query("https://h/p#f") == "https://h/p"


def test_repr_of_an_argument_is_short_and_without_secrets() -> None:
    assert safe_repr(SIGNED) == "'https://blobs.example/f?***'"
    assert safe_repr([SIGNED]) == "['https://blobs.example/f?***']"
    assert len(safe_repr("x" * 10_000)) == 82
    assert safe_repr(5) == "5"
