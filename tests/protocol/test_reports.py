"""The diagnostic reports of synchronization runs."""

import json
from typing import Any

import pytest

from itwin_export_async import DiagnosticReport, InvalidRequest
from itwin_export_async._protocol.reports import list_reports_request, parse_reports
from tests.support.fakes import answer

REPORT = {"id": "d1", "runId": "r1", "taskId": "t1", "sasUri": "https://blob.example/r?sig=x"}


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [({"imodelId": "m1"}, "m1"), ({"iModelId": "m1"}, "m1"), ({"imodelId": None}, None)],
)
def test_report_names_its_imodel_in_either_spelling(
    spelling: dict[str, Any], expected: str | None
) -> None:
    (report,) = parse_reports(answer(200, json.dumps({"reports": [REPORT | spelling]}))).items
    assert report == DiagnosticReport(
        id="d1", imodel_id=expected, run_id="r1", task_id="t1", sas_uri=REPORT["sasUri"]
    )
    assert "sig" not in repr(report)


def test_reports_are_requested_by_imodel_and_run() -> None:
    request = list_reports_request("m 1", "r/1")
    assert request.url == "/synchronization/reports?imodelId=m%201&runId=r%2F1"


def test_error_response_to_a_list_of_reports_is_raised() -> None:
    with pytest.raises(InvalidRequest, match="InvalidBadgersRequest"):
        parse_reports(answer(422, '{"error": {"code": "InvalidBadgersRequest"}}'))
