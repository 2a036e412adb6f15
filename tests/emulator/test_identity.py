"""Tokens of the emulator: how they are had, and what they are refused for."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async.emulator import Emulator, run_virtual

Example = Callable[[str], Any]
Caller = Any

ANYWHERE = "/export/connections/x"


def ask(
    emulator: Emulator, *, method: str = "POST", basic: str | None = None, **form: str
) -> Response:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    if basic is not None:
        headers["authorization"] = f"Basic {basic}"
    return emulator.handle(
        Request(
            method=method,
            url="https://ims.bentley.com/connect/token",
            headers=headers,
            body=urlencode(form).encode() or None,
        )
    )


def test_a_token_for_id_and_secret_in_the_body(call: Caller, emulator: Emulator) -> None:
    answer = ask(
        emulator,
        grant_type="client_credentials",
        client_id=emulator.client_id,
        client_secret=emulator.client_secret,
        scope="itwin-platform",
    )
    assert answer.status == 200
    payload = json.loads(answer.body)
    token = payload.pop("access_token")
    assert payload == {"expires_in": 3600, "token_type": "Bearer", "scope": "itwin-platform"}
    assert call("GET", ANYWHERE, headers={"Authorization": f"Bearer {token}"}).status == 404


def test_a_token_for_id_and_secret_in_the_header(emulator: Emulator) -> None:
    both = f"{emulator.client_id.replace('-', '%2D')}:{emulator.client_secret}"
    basic = base64.b64encode(both.encode()).decode()
    assert ask(emulator, basic=basic, grant_type="client_credentials").status == 200


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "invalid_client"),
        ({"grant_type": "client_credentials", "client_id": "x"}, "invalid_client"),
        ({"grant_type": "client_credentials", "basic": "%%%"}, "invalid_client"),
        ({"grant_type": "client_credentials", "basic": "/w=="}, "invalid_client"),
        ({"grant_type": "client_credentials", "basic": "YTpi"}, "invalid_client"),
    ],
)
def test_wrong_grants_get_no_token(emulator: Emulator, form: dict[str, str], reason: str) -> None:
    answer = ask(emulator, **form)
    assert answer.status == 400
    assert json.loads(answer.body) == {"error": reason}


def test_service_tokens_have_no_user_scopes(emulator: Emulator) -> None:
    answer = ask(
        emulator,
        grant_type="client_credentials",
        client_id=emulator.client_id,
        client_secret=emulator.client_secret,
        scope="itwin-platform offline_access",
    )
    assert (answer.status, json.loads(answer.body)) == (400, {"error": "invalid_scope"})


@pytest.mark.parametrize("has_secret", [True, False])
def test_refresh_token_gives_a_token_and_the_next_refresh_token(
    call: Caller, emulator: Emulator, has_secret: bool
) -> None:
    secret = {"client_secret": emulator.client_secret} if has_secret else {}
    form = {"grant_type": "refresh_token", "client_id": emulator.client_id} | secret
    answer = ask(
        emulator,
        refresh_token=emulator.refresh_token(),
        scope="itwin-platform offline_access",
        **form,
    )
    assert answer.status == 200
    payload = json.loads(answer.body)
    token, following = payload.pop("access_token"), payload.pop("refresh_token")
    assert payload == {
        "expires_in": 3600,
        "token_type": "Bearer",
        "scope": "itwin-platform offline_access",
    }
    assert call("GET", ANYWHERE, headers={"Authorization": f"Bearer {token}"}).status == 404
    again = ask(emulator, refresh_token=following, **form)
    assert again.status == 200
    assert json.loads(again.body)["scope"] == "itwin-platform offline_access"


def test_refresh_token_can_be_used_once(emulator: Emulator) -> None:
    used = emulator.refresh_token()
    assert used != emulator.refresh_token()
    form = {"grant_type": "refresh_token", "client_id": emulator.client_id}
    assert ask(emulator, refresh_token=used, **form).status == 200
    for spent in {"refresh_token": used}, {"refresh_token": "stranger"}, {}:
        answer = ask(emulator, **form, **spent)
        assert (answer.status, json.loads(answer.body)) == (400, {"error": "invalid_grant"})


def test_refused_refresh_token_can_still_be_used(emulator: Emulator) -> None:
    token = emulator.refresh_token()
    form = {"grant_type": "refresh_token", "refresh_token": token}
    for wrong in (
        {},
        {"client_id": "x"},
        {"client_id": emulator.client_id, "client_secret": "x"},
        {"client_secret": emulator.client_secret},
    ):
        answer = ask(emulator, **form, **wrong)
        assert (answer.status, json.loads(answer.body)) == (400, {"error": "invalid_client"})
    assert ask(emulator, **form, client_id=emulator.client_id).status == 200


def test_token_endpoint_refuses_get(emulator: Emulator) -> None:
    assert ask(emulator, method="GET").status == 404


def test_a_request_without_a_token_is_denied(emulator: Emulator, example: Example) -> None:
    answer = emulator.handle(
        Request(
            method="GET",
            url=f"https://api.bentley.com{ANYWHERE}",
            headers={"accept": "application/vnd.bentley.itwin-platform.v1+json"},
        )
    )
    assert answer.status == 401
    assert json.loads(answer.body) == example("platform.error.401.header_not_found")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Basic abc", "InvalidAuthorizationScheme"),
        ("Bearer", "InvalidHeaderValue"),
        ("Bearer ", "InvalidHeaderValue"),
        ("Bearer a b", "InvalidHeaderValue"),
        ("Bearer a\t", "InvalidHeaderValue"),
        ("Bearer stranger", "Unauthorized"),
    ],
)
def test_a_request_with_a_wrong_token_is_denied(call: Caller, header: str, code: str) -> None:
    answer = call("GET", ANYWHERE, headers={"Authorization": header})
    assert answer.status == 401
    assert json.loads(answer.body)["error"]["code"] == code


def test_a_token_without_the_scope_is_denied(call: Caller, emulator: Emulator) -> None:
    token = emulator.token(scope="imodels:read")
    answer = call("GET", ANYWHERE, headers={"Authorization": f"Bearer {token}"})
    assert answer.status == 401
    assert json.loads(answer.body)["error"]["code"] == "RequiredScopeMissing"


def test_token_expires(call: Caller, emulator: Emulator) -> None:
    async def main() -> None:
        header = {"Authorization": f"Bearer {emulator.token(lifetime=10)}"}
        await asyncio.sleep(9.9)
        assert call("GET", ANYWHERE, headers=header).status == 404
        await asyncio.sleep(0.1)
        assert call("GET", ANYWHERE, headers=header).status == 401

    run_virtual(main())
