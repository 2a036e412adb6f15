"""Tokens from the identity service."""

import json
import pickle
import traceback
from base64 import urlsafe_b64encode
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import TokenError
from itwin_export_async._protocol.messages import Response
from itwin_export_async._protocol.oauth import AccessToken, parse_token, token_request
from itwin_export_async._redaction import Secret
from tests.support.samples import NOW, answer, json_values

URL = "https://ims.bentley.com/connect/token"


def test_token_request_is_a_form_that_is_not_shown() -> None:
    form = {"grant_type": "client_credentials", "client_secret": "plant&ed=", "scope": "a b"}
    request = token_request(URL, form)
    assert (request.method, request.url, request.retryable) == ("POST", URL, True)
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs((request.body or b"").decode()) == {k: [v] for k, v in form.items()}
    assert "plant" not in repr(request)


def test_token_expires_after_its_lifetime() -> None:
    members = {"access_token": "abc", "token_type": "Bearer", "expires_in": 3600}
    assert parse_token(answer(members), NOW).token == AccessToken("abc", NOW + timedelta(hours=1))


@pytest.mark.parametrize("lifetime", [None, "soon", [], {}])
def test_missing_lifetime_is_none(lifetime: object) -> None:
    token = parse_token(answer({"access_token": "abc", "expires_in": lifetime}), NOW).token
    assert token == AccessToken("abc")


@pytest.mark.parametrize("lifetime", [b"1e999", b"-1e999", b"NaN", b"1e15", b"1" + b"0" * 30])
def test_senseless_lifetime_is_ignored(lifetime: bytes) -> None:
    body = b'{"access_token": "abc", "expires_in": %s}' % lifetime
    assert parse_token(answer(body), NOW).token.value == "abc"


@pytest.mark.parametrize(
    ("status", "is_transient"),
    [(400, False), (401, False), (403, False), (408, True), (429, True), (500, True), (503, True)],
)
@pytest.mark.parametrize("body", [{"error": "invalid_client"}, b"<html>", b""])
def test_refused_token_says_whether_it_is_transient(
    status: int, is_transient: bool, body: Any
) -> None:
    with pytest.raises(TokenError) as caught:
        parse_token(answer(body, status), NOW)
    assert caught.value.is_transient is is_transient
    assert str(status) in str(caught.value)


def test_token_error_has_the_reason_of_the_service() -> None:
    body = {"error": "invalid_client", "error_description": "unknown client"}
    with pytest.raises(TokenError, match="invalid_client: unknown client"):
        parse_token(answer(body, 400), NOW)


@pytest.mark.parametrize(
    "body", [{}, {"access_token": None}, {"access_token": ""}, {"access_token": 5}]
)
def test_response_without_a_token_is_a_token_error(body: object) -> None:
    with pytest.raises(TokenError, match="access_token"):
        parse_token(answer(body), NOW)


@pytest.mark.parametrize("value", ["ä", "a b", " ", "a\r\nX-Evil: 1"])
def test_token_that_fits_no_header_is_a_token_error(value: str) -> None:
    with pytest.raises(TokenError):
        parse_token(answer({"access_token": value}), NOW)


def test_no_secret_is_in_a_token_error() -> None:
    body = {"error": "invalid_request", "error_description": "bad client_secret=planted"}
    response = Response(status=400, url=f"{URL}?client_secret=planted", body=answer(body).body)
    with pytest.raises(TokenError) as caught:
        parse_token(response, NOW)
    assert "planted" not in str(caught.value)
    assert "planted" not in pickle.dumps(caught.value).decode("latin-1")
    assert "/connect/token" in str(caught.value)


MEMBERS = st.sampled_from(["access_token", "expires_in", "error", "error_description"])


@given(st.sampled_from([200, 400, 503]), st.dictionaries(MEMBERS, json_values()))
def test_response_of_any_kind_is_a_token_or_a_token_error(
    status: int, body: dict[str, Any]
) -> None:
    try:
        token = parse_token(answer(body, status), NOW).token
    except TokenError as error:
        assert str(status) in str(error)
    else:
        assert token.value == body["access_token"]


@pytest.mark.parametrize("value", ["", " ", "a b", "a\nb", "ä", "a\x00", None, 5, b"abc"])
def test_token_has_to_fit_a_header(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="token") as caught:
        AccessToken(value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("moment", [datetime(2025, 1, 1), 3600, "tomorrow"])
def test_expires_at_has_to_be_aware(moment: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="expires_at"):
        AccessToken("abc", moment)


def test_token_is_not_in_its_repr() -> None:
    assert "planted" not in repr(AccessToken("planted", NOW))


@pytest.mark.parametrize("text", ["abc", " abc\n", "Bearer abc", "bearer  abc", "BEARER abc "])
def test_token_is_taken_without_the_name_of_its_scheme(text: str) -> None:
    assert AccessToken(text).value == "abc"


def jwt(claims: object) -> str:
    body = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJSUzI1NiJ9.{body}.c2lnbmF0dXJl"


def test_expires_at_of_a_jwt_is_its_exp() -> None:
    token = AccessToken(jwt({"exp": int(NOW.timestamp()), "sub": "me"}))
    assert token.expires_at == NOW
    assert AccessToken(token.value, None).expires_at is None
    assert parse_token(answer({"access_token": token.value}), NOW).token == token


@pytest.mark.parametrize(
    "claims",
    [{}, {"exp": None}, {"exp": "soon"}, {"exp": True}, {"exp": -5}, {"exp": 1e300}, [], 7, None],
)
def test_senseless_exp_is_ignored(claims: object) -> None:
    assert AccessToken(jwt(claims)).expires_at is None


@pytest.mark.parametrize("value", ["a.b", "a.b.c", "a.%%%.c", "a..c", f"a.{'W1tb' * 20_000}.c"])
def test_token_that_is_no_jwt_has_no_known_end(value: str) -> None:
    assert AccessToken(value).expires_at is None


def test_token_request_takes_secrets_that_no_local_shows() -> None:
    request = token_request(URL, {"client_secret": Secret("plant&ed"), "scope": "a"})
    assert parse_qs((request.body or b"").decode()) == {
        "client_secret": ["plant&ed"],
        "scope": ["a"],
    }


@pytest.mark.parametrize("echo", ["plant&ed-secret", "plant%26ed-secret"])
def test_reason_does_not_repeat_a_secret_of_the_request(echo: str) -> None:
    body = {"error": "invalid_client", "error_description": f"no application has {echo}"}
    with pytest.raises(TokenError) as caught:
        parse_token(answer(body, 400), NOW, [Secret("plant&ed-secret")])
    assert "no application has ***" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [b'{"access_token": "planted', b'["planted"]', b'{"access_token": "planted planted"}'],
)
def test_no_local_of_a_token_error_shows_the_response(body: bytes) -> None:
    with pytest.raises(TokenError) as caught:
        parse_token(answer(body), NOW)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in shown.stack if frame.filename.endswith("_protocol/oauth.py")]
    assert ours
    assert "planted" not in str([frame.locals for frame in ours])
    assert caught.value.__context__ is None
