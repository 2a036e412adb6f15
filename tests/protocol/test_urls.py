"""URLs: which may get the token, and how ids become segments of a path."""

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._protocol.messages import Response
from itwin_export_async._protocol.runs import (
    Service,
    get_run_request,
)
from itwin_export_async._protocol.urls import (
    is_secure_url,
    operation_name,
    origin,
    quote_segment,
    validate_base_url,
    validate_id,
)
from itwin_export_async._redaction import without_query


@pytest.mark.parametrize("start", ["eyJ", "EYj", "-eyJ"])
def test_id_that_begins_as_a_token_does_is_accepted(start: str) -> None:
    value = f"{start}yeiZMUE690xC6qCpxKGZmAxbyRfxDAQ"
    assert validate_id("connection_id", value) == value
    assert quote_segment("connection_id", value) == value


@pytest.mark.parametrize("value", ["eyJhbGciOiJSUzI1NiJ9.cGxhbnRlZA.c2ln", "https://x/y?sig=1"])
def test_id_that_is_a_token_or_a_signed_url_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="connection_id"):
        validate_id("connection_id", value)


@pytest.mark.parametrize(
    "value", ["a/../b", "a?b=c", "a#b", "50%", "%2e%2e", "a b", "ä橋", "...", "a\\b"]
)
def test_id_is_one_path_segment(value: str) -> None:
    url = get_run_request(Service.EXPORT, "c1", value).url
    path = urlsplit(url).path
    assert url == path
    assert path.split("/")[:5] == ["", "export", "connections", "c1", "runs"]
    assert [unquote(word) for word in path.split("/")[5:]] == [value]


@given(st.text())
def test_any_id_is_one_segment_or_refused(value: str) -> None:
    try:
        text = quote_segment("run_id", value)
    except ValueError as error:
        assert "run_id" in str(error)
    else:
        assert unquote(text) == value
        assert text.isascii()
        assert text not in (".", "..")
        assert not set(text) & set("/?#\\ ")


@pytest.mark.parametrize("value", ["", " ", "\t", ".", "..", "a\n", " a", "a\x00b", "a\x7fb"])
def test_invalid_id_is_refused_by_name(value: str) -> None:
    with pytest.raises(ValueError, match="connection_id"):
        quote_segment("connection_id", value)


@pytest.mark.parametrize("value", [None, 5, b"c1", ["c1"]])
def test_id_that_is_no_string_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match="connection_id"):
        quote_segment("connection_id", value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://api.bentley.com", "https://api.bentley.com"),
        ("https://api.bentley.com/", "https://api.bentley.com"),
        ("https://proxy.example.com/bentley/", "https://proxy.example.com/bentley"),
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://127.8.9.10", "http://127.8.9.10"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("http://api.localhost", "http://api.localhost"),
    ],
)
def test_secure_base_url_is_accepted(url: str, base: str) -> None:
    assert validate_base_url("base_url", url) == base


@pytest.mark.parametrize(
    "url",
    [
        "http://api.bentley.com",
        "http://128.0.0.1",
        "http://[::2]",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://notlocalhost",
        "ftp://api.bentley.com",
        "api.bentley.com",
        "//api.bentley.com",
        "https://",
        "",
        "https://[bad",
        "https://api.bentley.com:99999",
        "https://user@api.bentley.com",
        "https://user:planted@api.bentley.com",
        "https://:planted@api.bentley.com",
        "https://localhost@example.com",
        "https://api.bentley.com?sig=planted",
        "https://api.bentley.com/#planted",
        "https://api.bentley.com?",
        "https://api.bentley.com#",
    ],
)
def test_insecure_base_url_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        validate_base_url("base_url", url)
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("url", [" https://api.bentley.com", "https://api.bentley.com\n"])
def test_white_space_around_a_base_url_is_never_sent(url: str) -> None:
    try:
        base = validate_base_url("base_url", url)
    except ValueError as error:
        assert "base_url" in str(error)
    else:
        assert base == "https://api.bentley.com"


def test_base_url_that_is_no_string_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match="base_url"):
        validate_base_url("base_url", None)


@pytest.mark.parametrize(
    "url",
    ["https://API.bentley.com", "HTTPS://api.bentley.com/a?b", "https://api.bentley.com:443"],
)
def test_origin_is_scheme_host_and_port(url: str) -> None:
    assert origin(url) == ("https", "api.bentley.com", 443)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://blobs.example.com/x?sig=1", True),
        ("http://blobs.example.com/x", False),
        ("http://localhost:1/x", True),
        ("/x", False),
        ("", False),
    ],
)
def test_secure_url_is_https_or_loopback(url: str, safe: bool) -> None:
    assert is_secure_url(url) is safe


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:planted@h/p?sig=planted#planted", "https://h/p"),
        ("https://u:p@planted@h/p", "https://h/p"),
        ("/p?planted", "/p"),
        ("", ""),
    ],
)
def test_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert without_query(url) == shown


@given(st.text() | st.text("htps:/[]@?#").map("https://".__add__))
def test_text_of_any_kind_can_be_shown_as_a_url(url: str) -> None:
    assert "?" not in without_query(url)
    assert repr(Response(status=200, url=url))


def test_plain_http_to_loopback_can_be_disallowed() -> None:
    assert is_secure_url("http://127.0.0.1/x")
    assert not is_secure_url("http://127.0.0.1/x", allow_loopback=False)
    assert is_secure_url("https://127.0.0.1/x", allow_loopback=False)


@pytest.mark.parametrize(
    ("url", "operation"),
    [
        ("/export/connections", "GET /export/connections"),
        ("/export/connections?imodelId=m", "GET /export/connections"),
        ("https://h/export/connections/c1/runs/r1/", "GET /export/connections/{id}/runs/{id}"),
        (
            "/synchronization/imodels/storageConnections/c1/sourceFiles/f1",
            "GET /synchronization/imodels/storageconnections/{id}/sourcefiles/{id}",
        ),
        ("/storage/files/f1/download", "GET /storage/files/{id}/download"),
        ("/somewhere/else", "GET /{id}/{id}"),
        ("", "GET /"),
    ],
)
def test_operation_name_holds_no_id(url: str, operation: str) -> None:
    assert operation_name("GET", url) == operation


@given(st.text("a1-%/ä", min_size=1), st.text("a1-%/ä", min_size=1))
def test_operation_name_is_the_same_for_all_ids(connection_id: str, run_id: str) -> None:
    try:
        request = get_run_request(Service.EXPORT, connection_id, run_id)
    except ValueError:
        return
    name = operation_name(request.method, request.url)
    assert name == "GET /export/connections/{id}/runs/{id}"
