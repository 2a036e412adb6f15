"""Enumerations are open: a value this release does not know survives as itself."""

import copy
import logging
import pickle
from typing import Any

import pytest

from itwin_export_async._models import (
    AuthenticationType,
    ConnectorType,
    ExecutionResult,
    ExecutionState,
    ExportType,
    IfcVersion,
    OpenEnum,
    OutputLocation,
)

ENUMS = (
    AuthenticationType,
    ConnectorType,
    ExecutionResult,
    ExecutionState,
    ExportType,
    IfcVersion,
    OutputLocation,
)
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize("enum", ENUMS)
def test_unknown_value_survives_as_itself(enum: type[OpenEnum]) -> None:
    unknown = enum("Paused")
    assert type(unknown) is enum
    assert unknown.value == "Paused"
    assert not unknown.is_known
    assert str(unknown) == f"{unknown}" == "Paused"
    assert "Paused" in repr(unknown)


def test_unknown_value_compares_and_hashes_like_a_member() -> None:
    one, same, other = (ExecutionState(v) for v in ("Paused", "Paused", "Halted"))
    assert one == same
    assert one == "Paused"
    assert one != other
    assert one != ExecutionState.COMPLETED
    assert len({one, same, other}) == 2


def test_unknown_value_is_no_member() -> None:
    ExecutionState("Paused")
    assert "Paused" not in [state.value for state in ExecutionState]
    assert len(ExecutionState) == 8


def test_name_of_a_member_is_not_its_value() -> None:
    assert not ExecutionState("NOT_STARTED").is_known


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("enum", ENUMS)
def test_every_value_pickles(enum: type[OpenEnum], protocol: int) -> None:
    for member in enum:
        assert pickle.loads(pickle.dumps(member, protocol)) is member
    unknown = pickle.loads(pickle.dumps(enum("Paused"), protocol))
    assert (type(unknown), unknown.value, unknown.is_known) == (enum, "Paused", False)


def test_unknown_value_copies() -> None:
    unknown = ExecutionState("Paused")
    assert copy.copy(unknown) == copy.deepcopy(unknown) == unknown


@pytest.mark.parametrize("enum", ENUMS)
def test_letter_case_does_not_matter(enum: type[OpenEnum]) -> None:
    for member in enum:
        assert member.is_known
        assert enum(member.value.upper()) is member
        assert enum(member.value.lower()) is member


@pytest.mark.parametrize("text", ["Canceled", "Cancelled", "canceled", "CANCELLED"])
def test_canceled_and_cancelled_are_one_member(text: str) -> None:
    assert ExecutionResult(text) is ExecutionResult.CANCELED
    assert ExecutionResult(text) is ExecutionResult["CANCELLED"]


@pytest.mark.parametrize("value", [None, 3, True, b"Success"])
def test_value_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="is not a valid ExecutionResult"):
        ExecutionResult(value)


def test_unknown_value_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ExecutionState("SeenByThisTestOnly")
    (record,) = caplog.records
    assert "SeenByThisTestOnly" in record.getMessage()


@pytest.mark.parametrize(
    ("result", "failure"),
    [("Error", True), ("Canceled", True), ("TimedOut", True), ("Success", False),
     ("PartialSuccess", False), ("Skipped", False), ("Undetermined", False), ("New", False)],
)  # fmt: skip
def test_lost_work_is_a_failure(result: str, failure: bool) -> None:
    assert ExecutionResult(result).is_failure is failure
