"""Consent: requests out, values in."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from itwin_export_async._errors import AuthenticationFailed, InvalidRequest, NotFound, ProtocolError
from itwin_export_async._models import (
    AuthenticationType,
    AuthorizationInformation,
    Connection,
    StorageConnection,
)
from itwin_export_async._protocol.authorization import (
    get_authorization_request,
    needs_consent,
    parse_authorization,
    validate_redirect_url,
)
from itwin_export_async._protocol.runs import Service
from tests.support.samples import answer, example

PAGE = "https://portal.example.com/authenticate?redirect_url=https://myUrl.com"
PATHS = {
    Service.EXPORT: "/export/authorizationinformation",
    Service.SYNCHRONIZATION: "/synchronization/imodels/connections/authorizationinformation",
}


@pytest.mark.parametrize("service", Service)
def test_redirect_url_is_sent_whole(service: Service) -> None:
    page = "https://me.example.com/back?a=1&b=#ä"
    request = get_authorization_request(service, page)
    url = urlsplit(request.url)
    assert (request.method, url.path) == ("GET", PATHS[service])
    assert dict(parse_qsl(url.query)) == {"redirectUrl": page}
    assert "://" not in request.url  # it stays a reference to the service's own address
    assert (dict(request.headers), request.body, request.retryable) == ({}, None, True)


@pytest.mark.parametrize(
    "url",
    ["https://me.example.com", "http://localhost:8080/callback", "HTTPS://ME.example.com?x=1",
     "http://127.0.0.1:80#x", "http://[::1]:8080/callback", "https://[2001:db8::1]",
     "com.example.app://signed-in/"],
)  # fmt: skip
def test_absolute_redirect_url_is_accepted(url: str) -> None:
    assert validate_redirect_url(url) == url


@pytest.mark.parametrize(
    "url",
    ["", " ", "me.example.com", "/callback", "//me.example.com/callback", "https://", "https:///x",
     "https://me.example.com\n", "https://me.example.com/a b", " https://me.example.com",
     "https://[::1", "https://[]", "https://?x", "://me.example.com", "1x://me.example.com",
     "https://me.example.com/\r\nX-Evil: 1", "https://me.example.com/a\n",
     "https:\\\\me.example.com", "https://me.example.com\\x"],
)  # fmt: skip
def test_redirect_url_that_is_not_absolute_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="redirect_url"):
        get_authorization_request(Service.EXPORT, url)


@pytest.mark.parametrize("url", [None, 7, b"https://me.example.com"])
def test_redirect_url_is_a_string(url: str) -> None:
    with pytest.raises(TypeError, match="redirect_url"):
        get_authorization_request(Service.SYNCHRONIZATION, url)


@pytest.mark.parametrize("authorized", [True, False])
def test_authorization_information_is_read_wrapped_or_bare(authorized: bool) -> None:
    members = {"isUserAuthorized": authorized, "_links": {"authorizationUrl": {"href": PAGE}}}
    expected = AuthorizationInformation(is_user_authorized=authorized, authorization_url=PAGE)
    assert parse_authorization(answer(members)) == expected
    assert parse_authorization(answer({"authorizationInformation": members})) == expected


@pytest.mark.parametrize(
    "links",
    [{}, {"_links": None}, {"_links": {}}, {"_links": {"authorizationUrl": None}},
     {"_links": {"authorizationUrl": {"href": None}}}, {"authorizationUrl": PAGE}],
)  # fmt: skip
def test_missing_page_is_none(links: dict[str, object]) -> None:
    members = {"isUserAuthorized": True} | links
    for body in (members, {"authorizationInformation": members}):
        assert parse_authorization(answer(body)).authorization_url is None


@pytest.mark.parametrize(
    "body",
    [{}, {"authorizationInformation": None}, {"authorizationInformation": {}},
     {"authorizationInformation": {"isUserAuthorized": None}}, {"isUserAuthorized": None},
     {"isUserAuthorized": "true"}, {"authorizationInformation": {"isUserAuthorized": 1}}, [], b""],
)  # fmt: skip
def test_missing_consent_is_an_error(body: object) -> None:
    with pytest.raises(ProtocolError):
        parse_authorization(answer(body))


def test_error_response_to_a_request_for_consent_is_an_error() -> None:
    refused = example("sync.authorization_information.422.json")
    with pytest.raises(InvalidRequest) as caught:
        parse_authorization(answer(refused, 422))
    assert [detail.target for detail in caught.value.details] == ["redirectUrl"]
    with pytest.raises(AuthenticationFailed):
        parse_authorization(answer(example("platform.error.401.header_not_found.json"), 401))
    with pytest.raises(NotFound) as gateway:
        parse_authorization(answer(example("platform.error.404.operation_not_found.json"), 404))
    assert gateway.value.is_gateway
    with pytest.raises(ProtocolError):
        parse_authorization(answer({"isUserAuthorized": True}, 202))


@pytest.mark.parametrize(
    ("kind", "needs"),
    [(None, False), (AuthenticationType.USER, True), (AuthenticationType.SERVICE, False),
     (AuthenticationType("user"), True), (AuthenticationType("Robot"), False)],
)  # fmt: skip
def test_consent_is_needed_by_user_connections_only(
    kind: AuthenticationType | None, needs: bool
) -> None:
    for connection in (Connection, StorageConnection):
        assert needs_consent(connection(id="c1", authentication_type=kind)) is needs
