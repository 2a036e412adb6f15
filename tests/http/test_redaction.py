"""Nothing secret in any text: planted secrets are looked for wherever they may be seen."""

import asyncio
import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from itwin_export_async import (
    AccessToken,
    ClientCredentials,
    ExportClient,
    ExportError,
    ExportOptions,
    OutputOptions,
    RefreshTokenCredentials,
    RetryPolicy,
    RunHandle,
    TransportError,
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
TROUBLES: list[list[Answer]] = [
    [answer(status, QUOTING, Location=SIGNED, X_Echo=f"Bearer {TOKEN}", Set_Cookie=TOKEN)]
    for status in (302, 400, 401, 403, 404, 409, 422, 418, 429, 500)
]
TROUBLES += [
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
    """All that a person or a file may get to see of it."""
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


@pytest.mark.parametrize("answers", TROUBLES)
async def test_no_trouble_brings_a_secret_to_light(
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
    assert TOKEN in str(transport.requests[0].headers)  # or nothing was tried at all


@pytest.mark.parametrize(
    "auth",
    [
        ClientCredentials("app", SECRET),
        RefreshTokenCredentials("app", REFRESH, client_secret=SECRET),
    ],
)
@pytest.mark.parametrize(
    "told",
    [
        answer(400, f'{{"error": "invalid", "error_description": "client_secret={SECRET}"}}'),
        answer(200, f'{{"access_token": "{TOKEN} {TOKEN}"}}'),
        answer(500, f'"refresh_token": "{REFRESH}"'),
        TransportError(message="reset"),
    ],
)
async def test_no_credentials_come_to_light(
    auth: ClientCredentials | RefreshTokenCredentials,
    told: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    assert_nothing_planted(shown(auth) + shown(AccessToken(TOKEN)))
    async with ExportClient(auth, transport=Answers(told)) as client:
        with pytest.raises(ExportError) as caught:
            await client.get_connection("c1")
    assert_nothing_planted(shown(caught.value))
    assert_nothing_planted(caplog.text)


def test_values_show_no_signature_and_keep_it_for_workers() -> None:
    assert_nothing_planted(f"{OPTIONS!r} {OPTIONS!s}")
    assert pickle.loads(pickle.dumps(OPTIONS)) == OPTIONS
    assert_nothing_planted(repr(Request(method="GET", url=SIGNED)))
    assert_nothing_planted(repr(Response(status=200, url=SIGNED, body=TOKEN.encode())))


async def test_the_token_goes_to_the_api_alone(tmp_path: Path) -> None:
    transport = Answers(answer(302, Location=SIGNED), answer(200, "content", Content_Length="7"))
    async with ExportClient(TOKEN, transport=transport) as client:
        await client.storage.download("f1", tmp_path / "x")
    blob = transport.requests[1]
    assert blob.url == SIGNED
    assert TOKEN not in str(dict(blob.headers))
    await asyncio.sleep(0)
