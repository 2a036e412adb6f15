"""The diagnostic reports of synchronization runs.

https://developer.bentley.com/apis/synchronization/operations/get-diagnostic-reports/
"""

from attrs import evolve

from itwin_export_async._models import DiagnosticReport
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import Page, page_of, page_query
from itwin_export_async._protocol.urls import validate_id


def list_reports_request(imodel_id: str, run_id: str) -> Request:
    """Read the reports of a run's tasks. The list has one page."""
    parameters = {
        "imodelId": validate_id("imodel_id", imodel_id),
        "runId": validate_id("run_id", run_id),
    }
    return Request(method="GET", url=f"/synchronization/reports{page_query(parameters, None, 0)}")


def parse_reports(response: Response) -> Page[DiagnosticReport]:
    """The reports. Only here the service spells the iModel's id `imodelId`."""
    page = page_of(response, "reports", DiagnosticReport)
    return evolve(page, items=tuple(map(_with_imodel_id, page.items)))


def _with_imodel_id(report: DiagnosticReport) -> DiagnosticReport:
    imodel_id = report.raw.get("imodelId")
    return evolve(report, imodel_id=imodel_id) if isinstance(imodel_id, str) else report
