"""Options: an unusable value is refused before anything is sent, with the name of the field."""

import json
import pickle
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given

from itwin_export_async._http.rate_limit import RateLimit
from itwin_export_async._http.retry import RetryPolicy
from itwin_export_async._models import (
    AuthenticationType,
    ExportOptions,
    ExportType,
    IfcVersion,
    InputOptions,
    OutputLocation,
    OutputOptions,
    SourceFile,
)
from itwin_export_async._polling.schedule import (
    AdaptiveSchedule,
    ExponentialSchedule,
    FixedSchedule,
)
from itwin_export_async._protocol.authorization import get_authorization_request
from itwin_export_async._protocol.codec import encode
from itwin_export_async._protocol.connections import create_connection_request
from itwin_export_async._protocol.runs import Service
from tests.support.samples import export_options

SAS = "https://blobs.example.com/out.ifc?sv=2024&sig=planted"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ExportOptions(export_type="PDF", ifc_version="IFC4.3"), "ifc_version"),
        (lambda: ExportOptions(export_type="LandXML", ifc_version="IFC2x3"), "ifc_version"),
        (lambda: ExportOptions(ifc_version=" "), "ifc_version"),
        (lambda: ExportOptions(ifc_version=SAS), "ifc_version"),
        (lambda: ExportOptions(export_type="DGN"), "export_type"),
        (lambda: OutputOptions(location="USER_BLOBS_STORAGE"), "location"),
        (lambda: OutputOptions(location="USER_BLOB_STORAGE"), "output_sas_url"),
        (lambda: OutputOptions(location="user_blob_storage", logs_sas_url=SAS), "output_sas_url"),
        (
            lambda: OutputOptions(location="USER_BLOB_STORAGE", output_sas_url=SAS, save_logs=True),
            "logs_sas_url",
        ),
        (lambda: InputOptions(model_ids=[]), "model_ids"),
        (lambda: InputOptions(model_ids=["0x1", ""]), "model_ids"),
        (lambda: InputOptions(changeset_id=""), "changeset_id"),
        (lambda: InputOptions(mapping_file_id=" "), "mapping_file_id"),
        (lambda: InputOptions(mappingfile_blob_url=""), "mappingfile_blob_url"),
        (lambda: InputOptions(saved_view_id=""), "saved_view_id"),
        (lambda: OutputOptions(folder_id=""), "folder_id"),
        (lambda: OutputOptions(output_sas_url=""), "output_sas_url"),
        (lambda: SourceFile(storage_file_id=""), "storage_file_id"),
        (lambda: SourceFile(storage_file_id="f", connector_type="CATIA"), "connector_type"),
        (lambda: create_connection_request("i1", None, "Robot"), "authentication_type"),
        (lambda: create_connection_request("", None, None), "imodel_id"),
        (
            lambda: get_authorization_request(Service.EXPORT, "developer.bentley.com"),
            "redirect_url",
        ),
        (lambda: get_authorization_request(Service.EXPORT, ""), "redirect_url"),
        (lambda: get_authorization_request(Service.EXPORT, "https://[bad"), "redirect_url"),
    ],
)
def test_unusable_value_is_refused_by_name(make: Callable[[], object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        make()


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (ExportOptions, "export_type", None),
        (ExportOptions, "ifc_version", 4),
        (ExportOptions, "input", {"changeset_id": "a"}),
        (ExportOptions, "output", None),
        (InputOptions, "model_ids", "0x1"),
        (InputOptions, "model_ids", 1),
        (InputOptions, "changeset_id", 7),
        (OutputOptions, "location", True),
        (OutputOptions, "replace_older_file", "yes"),
        (OutputOptions, "save_logs", 1),
        (SourceFile, "connector_type", 3),
    ],
)
def test_value_of_the_wrong_type_is_refused_by_name(cls: Any, field: str, value: object) -> None:
    more = {"storage_file_id": "f"} if cls is SourceFile else {}
    with pytest.raises(TypeError, match=field):
        cls(**{field: value}, **more)


@pytest.mark.parametrize(
    ("cls", "field", "value", "sentence"),
    [
        (ExportOptions, "input", 5, "input must be InputOptions, not int"),
        (ExportOptions, "output", None, "output must be OutputOptions, not NoneType"),
        (OutputOptions, "save_logs", "yes", "save_logs must be True or False, not str"),
        (RetryPolicy, "attempts", "x", "attempts must be a whole number, not str"),
        (RetryPolicy, "initial", "x", "initial must be a number, not str"),
        (RetryPolicy, "maximum", None, "maximum must be a number, not NoneType"),
        (RetryPolicy, "max_retry_after", "x", "max_retry_after must be a number, not str"),
        (RateLimit, "per_minute", "x", "per_minute must be a whole number, not str"),
        (RateLimit, "per_hour", 1.5, "per_hour must be a whole number, not float"),
        (AdaptiveSchedule, "poll_cost", "x", "poll_cost must be a number, not str"),
        (AdaptiveSchedule, "minimum", "x", "minimum must be a number, not str"),
        (AdaptiveSchedule, "maximum", None, "maximum must be a number, not NoneType"),
        (FixedSchedule, "seconds", timedelta(1), "seconds must be a number, not timedelta"),
        (ExponentialSchedule, "initial", "x", "initial must be a number, not str"),
        (ExponentialSchedule, "factor", "x", "factor must be a number, not str"),
        (ExponentialSchedule, "maximum", "x", "maximum must be a number, not str"),
    ],
)
def test_error_of_a_wrong_type_is_one_sentence(
    cls: Any, field: str, value: object, sentence: str
) -> None:
    with pytest.raises(TypeError) as caught:
        cls(**{field: value})
    assert str(caught.value) == sentence


def test_number_of_any_type_is_accepted() -> None:
    assert FixedSchedule(seconds=10).seconds == 10
    assert FixedSchedule(seconds=Fraction(1, 2)).seconds == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [b"30", 30, ["30"]])
def test_display_name_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="display_name"):
        create_connection_request("i1", value, None)


@pytest.mark.parametrize("value", [None, 5, b"https://me.example.com"])
def test_redirect_url_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="redirect_url"):
        get_authorization_request(Service.EXPORT, value)


def test_plain_string_stands_for_a_known_value() -> None:
    options = ExportOptions(
        export_type="ifc", ifc_version="IFC2X3", output=OutputOptions(location="storage")
    )
    assert options.export_type is ExportType.IFC
    assert options.ifc_version is IfcVersion.IFC2X3
    assert options.output.location is OutputLocation.STORAGE


def test_newer_value_passes_as_its_enumeration() -> None:
    options = ExportOptions(ifc_version=IfcVersion("IFC5"))
    assert options.ifc_version == "IFC5"


def test_ifc_version_is_any_text() -> None:
    assert ExportOptions(ifc_version="IFC4.3 ABV").ifc_version == "IFC4.3 ABV"
    assert ExportOptions(ifc_version="ifc4.3").ifc_version is IfcVersion.IFC4_3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *[(version.name, version.value) for version in IfcVersion if version != "IFC2x3"],
        ("ifc4x3", "IFC4.3"),
        ("IFC-2x3", "IFC2x3"),
        ("IFC4", "IFC4 RV 1.2"),
    ],
)
def test_other_spelling_of_an_ifc_version_is_refused_with_its_name(text: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"^'{text}' is called '{name}' here; use one of 'IFC4.3'"):
        IfcVersion.parse(text)


def test_ifc_version_is_parsed_in_any_case_and_unlisted_ones_pass() -> None:
    for version in IfcVersion:
        assert IfcVersion.parse(f" {version.value.swapcase()} ") is version
    assert IfcVersion.parse("IFC4.3 ABV") == "IFC4.3 ABV"


def test_error_of_an_unknown_value_says_how_it_passes() -> None:
    with pytest.raises(ValueError, match=r"ExportType\('DGN'\)"):
        ExportOptions(export_type="DGN")


def test_logs_sas_url_implies_save_logs() -> None:
    assert OutputOptions(logs_sas_url=SAS).save_logs is True
    assert OutputOptions(logs_sas_url=SAS, save_logs=False).save_logs is False
    assert OutputOptions().save_logs is None
    assert json.loads(encode(ExportOptions(output=OutputOptions(logs_sas_url=SAS))))[
        "outputOptions"
    ] == {"logsSasUrl": SAS, "saveLogs": True}


def test_logs_need_their_own_address_only_in_the_callers_blobs() -> None:
    assert OutputOptions(save_logs=True).logs_sas_url is None
    assert OutputOptions(
        location="USER_BLOB_STORAGE", output_sas_url=SAS, save_logs=True, logs_sas_url=SAS
    ).save_logs


def test_ids_are_opaque() -> None:
    odd = "anything goes/here?#%"
    assert InputOptions(changeset_id=odd, model_ids=[odd]).model_ids == (odd,)
    assert AuthenticationType("user") is AuthenticationType.USER


def test_signed_url_is_in_no_repr() -> None:
    options = ExportOptions(
        input=InputOptions(mappingfile_blob_url=SAS),
        output=OutputOptions(output_sas_url=SAS, logs_sas_url=SAS),
    )
    assert "planted" not in repr(options)


@pytest.mark.parametrize("field", ["output_sas_url", "logs_sas_url"])
def test_signed_url_of_the_wrong_type_is_not_shown(field: str) -> None:
    wrong: Any = {field: SAS.encode()}
    with pytest.raises(TypeError) as caught:
        OutputOptions(**wrong)
    assert "planted" not in str(caught.value)


@given(export_options())
def test_options_pickle_whole(options: ExportOptions) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(options, protocol)) == options


@given(export_options())
def test_equal_options_are_one_in_a_set(options: ExportOptions) -> None:
    assert len({options, pickle.loads(pickle.dumps(options))}) == 1
