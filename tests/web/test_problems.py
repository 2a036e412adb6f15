"""http_error: the status, the headers and the text of every error."""

import pickle
from typing import Any, get_args

import pytest

import itwin_export_async
from itwin_export_async import (
    AuthenticationFailed,
    AuthorizationRequired,
    Conflict,
    DownloadError,
    DownloadFailure,
    ExportError,
    InvalidRequest,
    InvalidSignature,
    LedgerError,
    NotFound,
    NothingToExport,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseError,
    RunError,
    RunFailed,
    RunPartlyFailed,
    RunTimeout,
    RunUnreachable,
    ServerError,
    StartTimeout,
    TokenError,
    TransportError,
    UploadError,
)
from itwin_export_async.web import InvalidBody, StartPending, UnknownExport, http_error

URL, PATH = "https://host.example/export/runs/r-17", "/srv/exports/bridge.ifc"
_RESPONSE: dict[str, Any] = {"code": "C", "message": f"see {URL}", "method": "GET", "url": URL}
_RUN: dict[str, Any] = {
    "message": f"see {URL}",
    "connection_id": "c-17",
    "run_id": "r-17",
    "resume_token": "t-17",
}
ERRORS: list[tuple[ExportError, int]] = [
    (ExportError(), 502),
    (TransportError(message=URL, method="GET", url=URL), 503),
    (RequestTimeout(message=URL, method="GET", url=URL), 504),
    (ResponseError(status=418, **_RESPONSE), 502),
    (InvalidRequest(status=422, **_RESPONSE), 422),
    (AuthenticationFailed(status=401, **_RESPONSE), 502),
    (PermissionDenied(status=403, **_RESPONSE), 403),
    (NotFound(status=404, **_RESPONSE), 404),
    (Conflict(status=409, **_RESPONSE), 409),
    (RateLimited(status=429, **_RESPONSE), 503),
    (ServerError(status=500, **_RESPONSE), 503),
    (ProtocolError(message=URL, method="GET", url=URL), 502),
    (TokenError(message=URL), 503),
    (AuthorizationRequired(url=URL), 403),
    (UploadError(message=PATH, source=PATH), 502),
    (LedgerError(message=PATH, path=PATH), 502),
    (InvalidSignature(), 502),
    (NothingToExport(imodel_id="m-17"), 502),
    (StartTimeout(seconds=5.0, imodel_id="m-17"), 504),
    (RunError(**_RUN), 502),
    (RunFailed(**_RUN), 502),
    (RunPartlyFailed(**_RUN), 502),
    (RunTimeout(**_RUN), 504),
    (RunUnreachable(**_RUN), 503),
]
REASONS: dict[DownloadFailure, int] = {
    "not_finished": 409,
    "no_output": 404,
    "not_available": 404,
    "refused": 502,
    "incomplete": 502,
    "mismatch": 502,
    "disk": 507,
}


def test_the_lists_of_errors_are_complete() -> None:
    values = [getattr(itwin_export_async, name) for name in itwin_export_async.__all__]
    classes = {v for v in values if isinstance(v, type) and issubclass(v, ExportError)}
    assert {type(error) for error, _ in ERRORS} == classes - {DownloadError}
    assert set(REASONS) == set(get_args(DownloadFailure))


@pytest.mark.parametrize(("error", "status"), ERRORS, ids=lambda value: type(value).__name__)
def test_error_has_its_status_and_shows_nothing_internal(error: ExportError, status: int) -> None:
    answer = http_error(error)
    assert answer.status == status
    assert set(answer.body) == {"type", "title", "status", "detail"}
    assert answer.body["status"] == status
    assert answer.body["detail"] == error.public
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert ("Retry-After" in answer.headers) == (status == 503)
    for internal in (URL, PATH, "host.example", "-17"):
        assert internal not in str(answer)


@pytest.mark.parametrize(("reason", "status"), REASONS.items())
def test_failed_download_has_the_status_of_its_reason(reason: DownloadFailure, status: int) -> None:
    error = DownloadError(message=PATH, reason=reason, file_id="f-17", destination=PATH)
    answer = http_error(error)
    assert (answer.status, answer.body["detail"]) == (status, error.public)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RateLimited(status=429, retry_after=17.2), "18"),
        (RateLimited(status=429, retry_after=0.0), "1"),
        (ServerError(status=503), "5"),
        (TokenError(message="", retry_after=30.0), "30"),
        (TransportError(message=""), "5"),
        (StartPending(), "2"),
    ],
)
def test_retry_after_is_never_shortened(error: ExportError, expected: str) -> None:
    assert http_error(error).headers["Retry-After"] == expected


def test_wrong_arguments_and_unknown_ids_have_answers() -> None:
    answer = http_error(ValueError(f"ifc_version is wrong, see {PATH} and {URL}"))
    assert answer.status == 422
    assert answer.body["detail"] == "ifc_version is wrong, see [...] and [...]"
    assert http_error(TypeError("model_ids must be a list")).status == 422
    answer = http_error(KeyError(PATH))
    assert (answer.status, answer.body["detail"]) == (404, "there is no such export")
    assert http_error(TimeoutError()).status == 504


def test_another_exception_is_a_502_without_its_text() -> None:
    answer = http_error(RuntimeError(PATH))
    assert (answer.status, answer.body["detail"]) == (502, "the export failed")


def test_errors_of_requests_have_answers_and_pickle() -> None:
    errors = [UnknownExport(), InvalidBody("options.x is no option"), StartPending()]
    assert [http_error(error).status for error in errors] == [404, 422, 503]
    assert isinstance(errors[0], LookupError)
    assert isinstance(errors[1], ValueError)
    for error in errors:
        assert str(pickle.loads(pickle.dumps(error))) == error.public
        assert http_error(error).body["detail"] == str(error)
