"""Responses of the iModels API and the Access Control API."""

from typing import Any

import pytest

from itwin_export_async import ProtocolError
from itwin_export_async._protocol.imodels import parse_permissions
from tests.support.samples import answer


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"permissions": ["imodels_read", "storage_read"]}, {"imodels_read", "storage_read"}),
        ({"permissions": []}, set()),
        ({"permissions": None}, set()),
        ({}, set()),
    ],
)
def test_permissions_are_names(body: Any, expected: set[str]) -> None:
    assert parse_permissions(answer(body, 200)) == expected


@pytest.mark.parametrize("value", [5, "imodels_read", {"imodels_read": True}, [5], [None]])
def test_permissions_of_another_type_break_the_contract(value: Any) -> None:
    with pytest.raises(ProtocolError, match="permissions"):
        parse_permissions(answer({"permissions": value}, 200))
