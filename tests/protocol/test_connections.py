"""Export connections: what is asked, and what the answers say."""

import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from itwin_export_async._errors import Conflict, InvalidRequest, NotFound, ProtocolError
from itwin_export_async._models import AuthenticationType
from itwin_export_async._protocol.export import (
    create_connection,
    delete_connection,
    get_authorization,
    read_authorization,
    read_connections,
    read_created_connection,
    read_deleted_connection,
)
from itwin_export_async._protocol.http import Request, Response

from .samples import answer


def test_making_a_connection_is_not_repeated() -> None:
    request = create_connection("i1", None, None)
    assert (request.method, request.url) == ("POST", "/export/connections")
    assert not request.repeatable


@pytest.mark.parametrize("kind", ["service", AuthenticationType.SERVICE])
def test_only_what_the_caller_said_is_sent(kind: AuthenticationType | str) -> None:
    plain, full = create_connection("i1", None, None), create_connection("i1", "nightly", kind)
    assert json.loads(plain.body or b"") == {"iModelId": "i1"}
    assert json.loads(full.body or b"") == {
        "iModelId": "i1",
        "displayName": "nightly",
        "authenticationType": "Service",
    }


def test_a_connection_that_was_not_made_is_an_error() -> None:
    with pytest.raises(InvalidRequest):
        read_created_connection(answer({}, 422))
    with pytest.raises(ProtocolError):
        read_created_connection(answer({"connection": {"id": "c1"}}, 200))
    with pytest.raises(NotFound):
        read_connections(answer({}, 404))


def test_deleting_is_repeated() -> None:
    request = delete_connection("c/1")
    assert (request.method, request.url) == ("DELETE", "/export/connections/c%2F1")
    assert request.repeatable


def test_a_deleted_connection_is_gone() -> None:
    read_deleted_connection(Response(status=204))
    with pytest.raises(NotFound):
        read_deleted_connection(Response(status=404))
    with pytest.raises(Conflict):
        read_deleted_connection(Response(status=409))
    with pytest.raises(ProtocolError):
        read_deleted_connection(Response(status=200))


def test_a_404_after_a_lost_answer_says_that_deleting_worked() -> None:
    read_deleted_connection(Response(status=404, doubt=3.0))
    with pytest.raises(Conflict):
        read_deleted_connection(Response(status=409, doubt=3.0))


def test_where_the_user_comes_back_to_is_told_whole() -> None:
    page = "https://me.example.com/back?a=1&b=#ä"
    url = urlsplit(get_authorization(page).url)
    assert url.path == "/export/authorizationinformation"
    assert dict(parse_qsl(url.query)) == {"redirectUrl": page}


def test_a_refused_question_for_consent_is_an_error() -> None:
    with pytest.raises(InvalidRequest):
        read_authorization(answer({}, 422))


@pytest.mark.parametrize(
    ("method", "repeatable"),
    [("GET", True), ("HEAD", True), ("PUT", True), ("DELETE", True), ("POST", False),
     ("PATCH", False)],
)  # fmt: skip
def test_what_may_be_repeated_follows_from_the_method(method: str, repeatable: bool) -> None:
    assert Request(method=method, url="/x").repeatable is repeatable
    assert Request(method=method, url="/x", repeatable=not repeatable).repeatable is not repeatable


def test_headers_have_no_letter_case() -> None:
    response = Response(status=200, headers={"RETRY-after": "3"})
    assert response.headers["Retry-After"] == "3"
    assert Response(status=200, headers=response.headers).headers["retry-AFTER"] == "3"


def test_no_secret_of_an_exchange_is_shown() -> None:
    secret = {"Authorization": "Bearer planted"}
    url = "https://h/p?sig=planted"
    request = Request(method="PUT", url=url, headers=secret, body=b"planted")
    response = Response(status=200, url=url, headers=secret, body=b"planted")
    assert "planted" not in repr(request) + repr(response)
    assert "https://h/p" in repr(request)
