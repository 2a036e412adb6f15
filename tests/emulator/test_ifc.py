"""The files of the emulator are real: independent software opens and validates them."""

import importlib
import json
import os
from functools import partial
from typing import Any

import pytest

from itwin_export_async.emulator import Emulator
from tests.emulator.conftest import Caller

IN_CI = os.environ.get("CI") == "true"

found = partial(pytest.importorskip, reason="ifcopenshell, which validates these files, is missing")
load = importlib.import_module if IN_CI else found
ifcopenshell: Any = load("ifcopenshell")
validate: Any = load("ifcopenshell.validate")

SCHEMAS = {
    "IFC4.3": "IFC4X3_ADD2",
    "IFC2x3": "IFC2X3",
    "IFC2x3 CV 2.0": "IFC2X3",
    "IFC4 RV 1.2": "IFC4",
}
NAME = "Brücke 'A' \\ 東 \N{BRIDGE AT NIGHT}"


def exported(name: str, version: str) -> bytes:
    """The output of an export in this version."""
    emulator = Emulator(run_seconds=0)
    call = Caller(emulator, emulator.token())
    location = call.start(call.connect(emulator.add_imodel(name)), ifcVersion=version)
    run = json.loads(call("GET", location).body)["run"]
    return emulator.read_file(run["jobs"][0]["tasks"][0]["exportOutputFileId"])


def opened(version: str, name: str = NAME) -> Any:
    return ifcopenshell.file.from_string(exported(name, version).decode("ascii"))


def test_every_version_has_its_schema() -> None:
    assert {version: opened(version).schema_identifier for version in SCHEMAS} == SCHEMAS


@pytest.mark.parametrize("version", sorted(SCHEMAS))
def test_the_model_is_a_bridge_in_a_project_of_its_name(version: str) -> None:
    model = opened(version)
    (project,) = model.by_type("IfcProject")
    assert project.Name == NAME
    assert len(model.by_type("IfcSite")) == len(model.by_type("IfcBuilding")) == 1
    names = {element.Name for element in model.by_type("IfcBuildingElementProxy")}
    assert {"Deck", "Pier 1"} < names
    assert len(model.by_type("IfcExtrudedAreaSolid")) == len(names)
    ids = [root.GlobalId for root in model.by_type("IfcRoot")]
    assert len(set(ids)) == len(ids)
    assert all(len(global_id) == 22 and global_id[0] in "0123" for global_id in ids)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the validator leaves its own files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("version", sorted(SCHEMAS))
def test_the_model_is_valid(version: str) -> None:
    """By the rules of its schema too, where there is time to load them."""
    logger = validate.json_logger()
    validate.validate(opened(version), logger, express_rules=IN_CI)
    assert logger.statements == []


def test_equal_names_make_equal_files() -> None:
    assert exported("a", "IFC2x3") == exported("a", "IFC2x3")
    assert exported("a", "IFC2x3") != exported("b", "IFC2x3")
