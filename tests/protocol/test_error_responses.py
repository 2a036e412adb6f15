"""Error responses: the error of each status, with a body of any shape."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import (
    AuthenticationFailed,
    Conflict,
    ErrorDetail,
    ExportError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    ResponseError,
    ServerError,
)
from itwin_export_async._protocol.error_responses import (
    error_from_response,
    without_secrets,
)
from itwin_export_async._protocol.messages import Response
from itwin_export_async._redaction import Secret
from tests.support.samples import answer, json_values

SECRETS = "https://blobs.example.com/x?sig=planted&access_token=planted"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.planted-planted-planted.planted"


def refused(body: Any, status: int = 400, **headers: str) -> ResponseError:
    error = error_from_response(answer(body, status, **headers))
    assert isinstance(error, ResponseError)
    return error


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, AuthenticationFailed),
        (403, PermissionDenied),
        (404, NotFound),
        (408, ResponseError),
        (409, Conflict),
        (413, ResponseError),
        (418, ResponseError),
        (422, InvalidRequest),
        (429, RateLimited),
        *((status, ServerError) for status in (500, 501, 502, 503, 504, 521, 522, 524, 599)),
    ],
)
def test_status_decides_the_class(status: int, kind: type[ResponseError]) -> None:
    error = refused(b"", status)
    assert type(error) is kind
    assert error.status == status
    assert str(status) in str(error)


@pytest.mark.parametrize("status", [100, 200, 202, 204, 301, 302, 304])
def test_unexpected_success_is_a_protocol_error(status: int) -> None:
    error = error_from_response(answer(b"", status))
    assert type(error) is ProtocolError
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"code": "A", "message": "b"}}, "A", "b"),
        ({"code": "A", "message": "b"}, "A", "b"),
        ({"statusCode": 401, "message": "b"}, "", "b"),
        (
            {"error": {"code": None, "details": None}},
            "",
            '{"error": {"code": null, "details": null}}',
        ),
        ({"error": {"code": 7, "message": ["b"]}}, "", '{"error": {"code": 7, "message": ["b"]}}'),
        ({"error": "x", "error_description": "y"}, "", '{"error": "x", "error_description": "y"}'),
        ({"error": {}}, "", '{"error": {}}'),
        ({"error": None, "message": "b"}, "", "b"),
        ({}, "", "{}"),
        (b"", "", ""),
        (b"  \n", "", ""),
        (["boom"], "", '["boom"]'),
        ("boom", "", '"boom"'),
        (b"null", "", "null"),
        (b"<html>Bad Gateway</html>", "", "an HTML page: Bad Gateway"),
        ({"message": "<html>Bad Gateway</html>"}, "", "an HTML page: Bad Gateway"),
        (b"caf\xe9", "", "caf\ufffd"),
    ],
)
def test_body_of_any_shape_is_read(body: Any, code: str, message: str) -> None:
    error = refused(body)
    assert (error.code, error.message, error.details) == (code, message, ())


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<html><head><title>\n504 Gateway Time-out </title></head>", ": 504 Gateway Time-out"),
        ("<!DOCTYPE html><TITLE lang=en>A &amp; B</TITLE><body>more", ": A & B"),
        ("\ufeff <!-- x --><html><body><h1>No</h1><p>access</p>", ": No access"),
        ("<?xml version='1.0'?><!DOCTYPE html><body a='b'>Blocked", ": Blocked"),
        ("<html><title> </title><style>p > a {}</style><script>1 < 2</script>Text", ": Text"),
        ("<html><style>" + "a" * 9000 + "</style><title>Late</title>", ": Late"),
        ("<html><body>" + "word " * 9000, ": " + ("word " * 20).rstrip()),
        ("<html><a href='https://proxy.example/?sig=c2VjcmV0'>Sign in", ": Sign in"),
        ("<html>Bearer <b>c2VjcmV0</b>", ": Bearer ***"),
        ("<html>", ""),
        ("<html" + "<" * 9000, ""),
        ("<html>" + "<?xml" * 9000, ""),
        ("<html><script>" + "<script>" * 9000, ""),
        ("<center><h1>504 Gateway Time-out</h1></center>", ": 504 Gateway Time-out"),
    ],
)
def test_html_page_is_shown_by_its_title_or_the_start_of_its_text(page: str, text: str) -> None:
    assert refused(page.encode(), 504).message.rstrip() == f"an HTML page{text}"


def test_xml_error_of_the_blob_store_is_shown_as_it_is() -> None:
    body = "<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code></Error>"
    assert refused(body.encode(), 403).message == body


@pytest.mark.parametrize(
    ("body", "is_from_api"),
    [
        ({"error": {"code": "A", "message": "b"}}, True),
        ({"error": {"code": "A", "message": None}}, True),
        ({"error": {"message": "b"}}, False),
        ({"error": {"code": 403, "message": "b"}}, False),
        ({"code": "A", "message": "b"}, False),
        ({"error": "access_denied", "code": "A"}, False),
        ({"error": None, "code": "A"}, False),
        ({"statusCode": 403, "message": "b"}, False),
        (b"<html>", False),
        (b"", False),
    ],
)
def test_only_a_nested_error_with_a_code_is_from_the_api(body: Any, is_from_api: bool) -> None:
    error = refused(body, 403)
    assert error.is_from_api is is_from_api
    assert pickle.loads(pickle.dumps(error)).is_from_api is is_from_api


def test_404_of_the_gateway_is_not_from_the_api() -> None:
    detail = {"code": "OperationNotFound", "message": "Unable to match."}
    body = {"error": {"code": "ResourceNotFound", "message": "b", "details": [detail]}}
    assert not refused(body, 404).is_from_api
    assert refused({"error": {"code": "RunNotFound", "message": "b"}}, 404).is_from_api


@pytest.mark.parametrize("text", ["x" * 600, "é" * 600, "<p>" + "橋" * 10_000])
def test_body_that_is_no_json_is_cut_to_500_characters(text: str) -> None:
    assert refused(text.encode()).message == text[:500]


@pytest.mark.parametrize("header", ["ITwinPlatform-RateLimited-Tier", "iTwinPlatform-Tier"])
def test_rate_limited_error_names_the_tier(header: str) -> None:
    error = refused({"code": "RateLimitExceeded"}, 429, **{header: "Community"})
    assert isinstance(error, RateLimited)
    assert error.tier == "Community"
    assert str(error).endswith("the tier is Community")
    plain = refused({}, 429)
    assert isinstance(plain, RateLimited)
    assert plain.tier is None


def test_details_are_read_and_shown() -> None:
    body = {
        "error": {
            "code": "InvalidRun",
            "message": "Cannot perform operation.",
            "details": [
                {"code": "InvalidValue", "message": "is not valid.", "target": "connectionId"},
                {"code": "InvalidRequestBody", "message": "malformed.", "target": None},
                {"code": None, "message": None},
                None,
                "text",
            ],
        }
    }
    error = refused(body, 422)
    assert error.details == (
        ErrorDetail(code="InvalidValue", message="is not valid.", target="connectionId"),
        ErrorDetail(code="InvalidRequestBody", message="malformed."),
        ErrorDetail(code="", message=""),
    )
    assert "connectionId: is not valid." in str(error)
    assert "InvalidRun: Cannot perform operation." in str(error)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "ResourceNotFound", "details": [{"code": "OperationNotFound"}]}},
        {"error": {"code": "OperationNotFound", "message": "Unable to match."}},
    ],
)
def test_gateways_404_says_that_path_or_version_is_wrong(body: Any) -> None:
    error = refused(body, 404)
    assert isinstance(error, NotFound)
    assert error.is_gateway
    assert "path" in str(error)
    assert "version" in str(error)


def test_404_of_the_api_is_not_the_gateways() -> None:
    error = refused({"error": {"code": "ConnectionRunNotFound", "message": "x"}}, 404)
    assert isinstance(error, NotFound)
    assert not error.is_gateway


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry_After": "17"}, 17.0),
        ({"retry_after": "17"}, 17.0),
        (
            {"Retry_After": "Sat, 01 Mar 2025 12:00:30 GMT",
             "Date": "Sat, 01 Mar 2025 12:00:00 GMT"},
            30.0,
        ),
        ({"Retry_After": "soon"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_requested_wait_is_shown(headers: dict[str, str], wait: float | None) -> None:
    error = refused({}, 429, **headers)
    assert error.retry_after == wait
    assert ("17 s" in str(error)) == (wait == 17.0)


@pytest.mark.parametrize(
    "name", ["X-Correlation-Id", "x-request-id", "Request-Id", "X-MS-Request-Id"]
)
def test_request_id_is_read(name: str) -> None:
    assert refused({}, 500, **{name: "abc"}).request_id == "abc"
    assert refused({}, 500).request_id is None


def test_correlation_id_is_read_and_shown() -> None:
    error = refused({}, 500, X_Correlation_Id="k1", X_Request_Id="q1")
    assert (error.correlation_id, error.request_id) == ("k1", "q1")
    assert "correlation id k1" in str(error)
    assert refused({}, 500).correlation_id is None


def test_error_after_a_lost_response_may_have_been_processed() -> None:
    lost = Response(status=422, body=b"{}", uncertain_for=3.0)
    assert error_from_response(lost).may_have_been_processed
    assert not refused({}, 422).may_have_been_processed


ECHOED = Secret("opaque/token+7f3a91")


@pytest.mark.parametrize(
    "form", ["opaque/token+7f3a91", "opaque%2Ftoken%2B7f3a91", "opaque\\/token+7f3a91"]
)
def test_response_is_stripped_of_values_that_the_request_held(form: str) -> None:
    response = Response(
        status=200, body=f'{{"a": "x {form} y"}}'.encode(), headers={"X-Id": f"id-{form}"}
    )
    stripped = without_secrets(response, [Secret("short"), ECHOED])
    assert stripped.body == b'{"a": "x *** y"}'
    assert stripped.headers["x-id"] == "id-***"


def test_response_without_an_echo_stays_as_it_is() -> None:
    response = Response(status=200, body=b'{"a": "short"}', headers={"X-Id": "short"})
    assert without_secrets(response, [Secret("short"), ECHOED]) is response


def test_headers_of_an_error_are_bounded() -> None:
    many = {f"X-{number}": "y" * 9000 for number in range(1000)}
    headers = refused({}, 400, **many).headers
    assert len(headers) == 64
    assert max(map(len, headers.values())) == 500


def test_headers_of_the_response_are_kept() -> None:
    headers = {"ITwinPlatform_RateLimited_Tier": "Community", "Retry_After": "3"}
    error = refused({}, 429, **headers, Location="https://h/p?sig=planted")
    assert error.headers["itwinplatform-ratelimited-tier"] == "Community"
    assert error.headers.get("Retry-After") == error.headers.get("retry-after") == "3"
    assert error.headers["location"] == "https://h/p"
    assert list(error.headers) == ["ITwinPlatform-RateLimited-Tier", "Retry-After", "Location"]


def test_url_is_shown_without_its_query() -> None:
    error = error_from_response(Response(status=404, method="GET", url="https://h/p?sig=planted"))
    assert isinstance(error, ResponseError)
    assert (error.method, error.url) == ("GET", "https://h/p")
    assert "[GET https://h/p]" in str(error)


def everything_shown(error: ExportError) -> str:
    fields = {name: getattr(error, name) for name in ("headers", "args", "details")}
    pickled = pickle.dumps(error).decode("latin-1")
    return " ".join([str(error), repr(error), repr(fields), pickled])


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "X", "message": f"no access to {SECRETS}"}},
        {"error": {"code": TOKEN, "message": f"token {TOKEN} expired"}},
        {"error": {"details": [{"code": "X", "message": f"Bearer {TOKEN}", "target": SECRETS}]}},
        {"message": "client_secret=planted"},
        {"message": 'got {"refresh_token": "planted"}'},
        f"<html>Authorization: Bearer {TOKEN} {SECRETS}</html>".encode(),
        [f"access_token={TOKEN}"],
        ['got {"refresh_token": "planted"}'],
    ],
)
def test_no_secret_in_a_body_is_shown(body: Any) -> None:
    assert "planted" not in everything_shown(refused(body, 403))


@pytest.mark.parametrize(
    "headers",
    [
        {"Set-Cookie": "session=planted"},
        {"SET-COOKIE": "session=planted"},
        {"Authorization": f"Bearer {TOKEN}"},
        {"WWW-Authenticate": f"Bearer {TOKEN}"},
        {"Location": "https://blobs.example.com/x?sig=planted"},
        {"location": "https://blobs.example.com/x?token=planted"},
        {"Content-Location": "https://blobs.example.com/x?sig=planted"},
        {"X-Debug-Token": f"Bearer {TOKEN}"},
    ],
)
def test_no_secret_in_a_header_is_shown(headers: dict[str, str]) -> None:
    assert "planted" not in everything_shown(refused({}, 401, **headers))


@pytest.mark.parametrize(
    "text",
    [
        "Access denied due to invalid access_token. Make sure to provide a valid token.",
        "The password is wrong.",
        "Invalid signature, sig was not accepted.",
        "Header Authorization was not found in the request.",
    ],
)
def test_words_about_secrets_are_not_secrets(text: str) -> None:
    assert refused({"message": text}, 401).message == text


@pytest.mark.parametrize("location", ["https://[bad", "https://h:port/x", "\x00", ""])
def test_malformed_location_is_accepted(location: str) -> None:
    assert refused({"message": "b"}, 400, Location=location).message == "b"


def test_body_nested_too_deep_is_shown_as_it_is() -> None:
    assert refused(b"[" * 100_000, 502).message.startswith("[[[")


@given(st.binary(max_size=60) | json_values().map(lambda v: json.dumps(v).encode()),
       st.integers(400, 599), st.text())  # fmt: skip
def test_error_of_any_body_is_shown_and_pickles(body: bytes, status: int, header: str) -> None:
    error = refused(body, status, Retry_After=header, X_Request_Id=header)
    assert str(status) in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
