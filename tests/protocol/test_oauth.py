"""Tokens from the identity service."""

import pickle
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import TokenError
from itwin_export_async._protocol.messages import Response
from itwin_export_async._protocol.oauth import AccessToken, parse_token, token_request
from tests.support.samples import NOW, answer, json_values

URL = "https://ims.bentley.com/connect/token"


def test_a_token_is_asked_for_by_a_form_that_is_not_shown() -> None:
    form = {"grant_type": "client_credentials", "client_secret": "plant&ed=", "scope": "a b"}
    request = token_request(URL, form)
    assert (request.method, request.url, request.retryable) == ("POST", URL, True)
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs((request.body or b"").decode()) == {k: [v] for k, v in form.items()}
    assert "plant" not in repr(request)


def test_a_token_holds_as_long_as_it_says() -> None:
    told = {"access_token": "abc", "token_type": "Bearer", "expires_in": 3600}
    assert parse_token(answer(told), NOW) == AccessToken("abc", NOW + timedelta(hours=1))


@pytest.mark.parametrize("lifetime", [None, "soon", [], {}])
def test_an_untold_lifetime_is_none(lifetime: object) -> None:
    token = parse_token(answer({"access_token": "abc", "expires_in": lifetime}), NOW)
    assert token == AccessToken("abc")


@pytest.mark.parametrize("lifetime", [b"1e999", b"-1e999", b"NaN", b"1e15", b"1" + b"0" * 30])
def test_a_senseless_lifetime_is_no_obstacle(lifetime: bytes) -> None:
    body = b'{"access_token": "abc", "expires_in": %s}' % lifetime
    assert parse_token(answer(body), NOW).value == "abc"


@pytest.mark.parametrize(
    ("status", "passing"),
    [(400, False), (401, False), (403, False), (408, True), (429, True), (500, True), (503, True)],
)
@pytest.mark.parametrize("body", [{"error": "invalid_client"}, b"<html>", b""])
def test_a_refusal_says_whether_it_may_pass(status: int, passing: bool, body: Any) -> None:
    with pytest.raises(TokenError) as caught:
        parse_token(answer(body, status), NOW)
    assert caught.value.is_transient is passing
    assert str(status) in str(caught.value)


def test_a_refusal_gives_the_services_reason() -> None:
    body = {"error": "invalid_client", "error_description": "unknown client"}
    with pytest.raises(TokenError, match="invalid_client: unknown client"):
        parse_token(answer(body, 400), NOW)


@pytest.mark.parametrize(
    "body", [{}, {"access_token": None}, {"access_token": ""}, {"access_token": 5}]
)
def test_an_answer_without_a_token_is_a_token_error(body: object) -> None:
    with pytest.raises(TokenError, match="access_token"):
        parse_token(answer(body), NOW)


@pytest.mark.parametrize("value", ["ä", "a b", " ", "a\r\nX-Evil: 1"])
def test_a_token_that_fits_no_header_is_a_token_error(value: str) -> None:
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
def test_whatever_comes_is_a_token_or_a_token_error(status: int, body: dict[str, Any]) -> None:
    try:
        token = parse_token(answer(body, status), NOW)
    except TokenError as error:
        assert str(status) in str(error)
    else:
        assert token.value == body["access_token"]


@pytest.mark.parametrize("value", ["", " ", "a b", "a\nb", "ä", "a\x00", None, 5, b"abc"])
def test_what_fits_no_header_is_no_token(value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="token") as caught:
        AccessToken(value)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("moment", [datetime(2025, 1, 1), 3600, "tomorrow"])
def test_what_is_no_aware_moment_is_named(moment: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="expires_at"):
        AccessToken("abc", moment)


def test_a_token_is_not_in_its_repr() -> None:
    assert "planted" not in repr(AccessToken("planted", NOW))
