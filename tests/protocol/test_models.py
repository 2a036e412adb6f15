"""Values: short reprs, access and health."""

import pickle
import typing
from inspect import getmembers, isclass, isfunction, ismethod
from typing import Any

import pytest

import itwin_export_async
from itwin_export_async import transport
from itwin_export_async._models import (
    AccessReport,
    ClientHealth,
    Connection,
    ExportOptions,
    ExportOutcome,
    ExportRequest,
    OutputOptions,
    RunUpdate,
    SourceFile,
    StateChange,
    TaskErrorInfo,
)
from itwin_export_async._models.enums import ExecutionState
from itwin_export_async._models.validators import validate_timeout
from tests.support.samples import NOW, job, run, task

LONG = "x" * 20_000
BIG = run(
    *(
        job(
            *(task(f"t{n}", "Error", error=TaskErrorInfo(details=LONG)) for n in range(50)),
            id=str(j),
        )
        for j in range(5)
    ),
    start_date_time=NOW,
)
REQUEST = ExportRequest(imodel_id="m1", destination="out/")


@pytest.mark.parametrize(
    "value",
    [
        BIG,
        BIG.jobs[0],
        BIG.tasks[0],
        BIG.tasks[0].error,
        Connection(id="c1", display_name=LONG),
        SourceFile(storage_file_id="f1", last_known_file_name=LONG),
        ExportOutcome(request=REQUEST, run=BIG, error=ValueError(LONG)),
        RunUpdate(run=BIG, request=REQUEST, trouble=ValueError(LONG)),
        ExportRequest(imodel_id=LONG, destination=LONG),
    ],
)
def test_repr_is_short(value: object) -> None:
    assert len(repr(value)) < 700
    assert repr(value).isprintable()


def test_repr_of_a_run_shows_ids_state_outcome_and_counts() -> None:
    assert repr(run(job(task("a"), task("b", "Error")))) == (
        "Run(id='r1', connection_id='c1', state='Completed', result='Success', jobs=<1>, "
        "outcome='PartialSuccess', tasks=<2>)"
    )
    assert repr(run(state="Queued", result=None)) == (
        "Run(id='r1', connection_id='c1', state='Queued')"
    )


def test_repr_shows_what_differs_from_the_defaults() -> None:
    assert repr(ExportOptions()) == "ExportOptions()"
    assert repr(ExportOptions(output=OutputOptions(folder_id="f"))) == (
        "ExportOptions(output=OutputOptions(folder_id='f'))"
    )
    change = StateChange(level="run", id="r1", old=None, new=ExecutionState.QUEUED)
    assert repr(change) == "StateChange(level='run', id='r1', old=None, new='Queued')"


def test_repr_shows_no_signature() -> None:
    url = "https://acct.blob.core.windows.net/c/o.ifc?sv=1&sig=planted7f3a91"
    for value in (OutputOptions(folder_id=url), Connection(id="c", last_run_url=url)):
        assert "planted" not in repr(value)


def test_update_carries_the_error_of_an_outage() -> None:
    error = TimeoutError()
    assert RunUpdate(run=BIG, trouble=error).trouble is error
    assert RunUpdate(run=BIG).trouble is None


def test_outcome_is_up_to_date_only_where_nothing_was_sent() -> None:
    assert not ExportOutcome(request=REQUEST).up_to_date
    assert ExportOutcome(request=REQUEST, up_to_date=True).ok


def test_request_has_a_revision() -> None:
    assert REQUEST.revision is None
    assert ExportRequest(imodel_id="m", destination="o/", revision="a1").revision == "a1"
    with pytest.raises(ValueError, match="revision"):
        ExportRequest(imodel_id="m", destination="o/", revision=" ")


@pytest.mark.parametrize(
    ("report", "missing"),
    [
        (AccessReport(imodel_id="m"), ("imodels_read", "storage_read", "storage_write")),
        (
            AccessReport(
                imodel_id="m", itwin_permissions=("imodels_read", "storage_read", "storage_write")
            ),
            (),
        ),
        (
            AccessReport(
                imodel_id="m",
                imodel_permissions=("imodels_webview",),
                itwin_permissions=("imodels_read", "storage_read", "storage_write"),
            ),
            ("imodels_read",),
        ),
        (
            AccessReport(
                imodel_id="m",
                imodel_permissions=("imodels_read",),
                itwin_permissions=("storage_read", "storage_write"),
                is_user_authorized=False,
            ),
            ("authorization",),
        ),
    ],
)
def test_access_report_names_what_is_missing(
    report: AccessReport, missing: tuple[str, ...]
) -> None:
    assert report.missing == missing
    assert report.ok is (not missing)
    assert pickle.loads(pickle.dumps(report)) == report


def test_health_of_a_closed_client_knows_nothing() -> None:
    health = ClientHealth(is_open=False)
    assert (health.token_expires_at, health.outage_since, health.runs_polled) == (None, None, 0)


@pytest.mark.parametrize("timeout", ["1", b"1", [1]])
def test_timeout_has_to_be_a_number(timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout"):
        validate_timeout(timeout)


PUBLIC = [getattr(itwin_export_async, name) for name in itwin_export_async.__all__]
WIRE = [getattr(transport, name) for name in transport.__all__]


@pytest.mark.parametrize("public", [c for c in [*PUBLIC, *WIRE] if isclass(c)])
def test_signatures_of_public_classes_have_type_hints(public: type[Any]) -> None:
    typing.get_type_hints(public)
    for name, member in getmembers(public):
        function = member.fget if isinstance(member, property) else member
        if (name == "__init__" or name[0] != "_") and (isfunction(function) or ismethod(function)):
            typing.get_type_hints(function)


@pytest.mark.parametrize("public", [c for c in PUBLIC if isclass(c)])
def test_public_classes_are_of_the_package(public: type[Any]) -> None:
    assert public.__module__ == "itwin_export_async"
