"""Decoding: JSON of any shape is a value or a `ProtocolError` with its path."""

import json
import logging
import pickle
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from itwin_export_async._errors import ProtocolError
from itwin_export_async._models import (
    AuthorizationInformation,
    Connection,
    ExecutionResult,
    ExecutionState,
    ExportOptions,
    Job,
    Run,
    RunErrorInfo,
    SourceFile,
    StorageConnection,
    StoredFile,
    Task,
    TaskErrorInfo,
)
from itwin_export_async._models.imodels import Changeset, IModel, NamedVersion
from itwin_export_async._protocol import codec
from itwin_export_async._protocol.authorization import parse_authorization
from itwin_export_async._protocol.codec import decode, decode_list, encode, json_object
from itwin_export_async._protocol.dates import structure_datetime
from itwin_export_async._protocol.model_hooks import check_shortcut
from tests.support.samples import NOW, answer, export_options, json_values

ODD_JSON = (  # accepted by the standard library, and maybe not by faster readers
    b'{"a": NaN, "b": -Infinity}',
    b'{"a": "\\ud800"}',
    b'\xef\xbb\xbf{"a": 1}',
    '{"a": "\u00e9"}'.encode("utf-16"),
    b'{"a": 1, "a": 2}',
    b"[" * 5000 + b"]" * 5000,
    b"",
)
MODELS = (
    AuthorizationInformation,
    Changeset,
    Connection,
    IModel,
    Job,
    NamedVersion,
    Run,
    RunErrorInfo,
    SourceFile,
    StorageConnection,
    StoredFile,
    Task,
    TaskErrorInfo,
)


def run_of(**members: Any) -> Run:
    return decode(answer({"run": {"id": "r1", "state": "Executing"} | members}), "run", Run)


@pytest.mark.parametrize("member", ["jobs", "result", "startDateTime", "connectionId", "error"])
def test_null_is_the_same_as_missing(member: str) -> None:
    assert run_of(**{member: None}) == run_of()


def test_null_lists_are_empty_tuples() -> None:
    assert run_of(jobs=None).jobs == ()
    assert decode_list(answer({"runs": None}), "runs", Run) == ()
    assert decode_list(answer({}), "runs", Run) == ()


def test_no_null_becomes_the_text_none() -> None:
    members = {"id": "f", "displayName": None, "description": None, "path": None}
    file = decode(answer({"file": members}), "file", StoredFile)
    assert file == StoredFile(id="f")
    assert "None" not in (file.display_name, file.description, file.path)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "run"),
        ({"run": None}, "run"),
        ({"run": []}, "run"),
        ({"run": "r1"}, "run"),
        ({"run": {"state": "Idle"}}, "run.id"),
        ({"run": {"id": None, "state": "Idle"}}, "run.id"),
        ({"run": {"id": 7, "state": "Idle"}}, "run.id"),
        ({"run": {"id": "r1"}}, "run.state"),
        ({"run": {"id": "r1", "state": 3}}, "run.state"),
        ({"run": {"id": "r1", "state": "Idle", "result": True}}, "run.result"),
        ({"run": {"id": "r1", "state": "Idle", "jobs": {}}}, "run.jobs"),
        ({"run": {"id": "r1", "state": "Idle", "jobs": [None]}}, "run.jobs[0]"),
        ({"run": {"id": "r1", "state": "Idle", "jobs": [{"id": "j1"}]}}, "run.jobs[0].state"),
        (
            {
                "run": {
                    "id": "r1",
                    "state": "Idle",
                    "jobs": [
                        {"id": "j1", "state": "Idle"},
                        {"id": "j2", "state": "Idle", "tasks": [{"id": None, "state": "Idle"}]},
                    ],
                }
            },
            "run.jobs[1].tasks[0].id",
        ),
    ],
)
def test_value_that_does_not_fit_is_named_by_its_path(body: Any, path: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(answer(body), "run", Run)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")


def test_item_that_does_not_fit_is_named_by_its_path() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_list(answer({"runs": [{"id": "a", "state": "Idle"}, {"id": "b"}]}), "runs", Run)
    assert caught.value.path == "runs[1].state"


@pytest.mark.parametrize("value", ["false", "true", 0, 1, "", [], None])
def test_boolean_is_true_or_false_only(value: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_authorization(answer({"authorizationInformation": {"isUserAuthorized": value}}))
    assert caught.value.path == "authorizationInformation.isUserAuthorized"


@pytest.mark.parametrize("value", ["3", 3.0, True])
def test_count_is_a_whole_number(value: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(answer({"task": {"id": "t", "state": "Idle", "retryAttempts": value}}), "task", Task)
    assert caught.value.path == "task.retryAttempts"


def test_unknown_members_are_kept_in_raw_at_every_level() -> None:
    jobs = [{"id": "j1", "state": "Idle", "tasks": [{"id": "t1", "state": "Idle", "x": [1]}]}]
    run = run_of(jobs=jobs, priority="high", error={"errorKey": "e", "y": 2})
    assert run.raw["priority"] == "high"
    assert run.error is not None
    assert run.error.raw["y"] == 2
    assert run.jobs[0].raw["tasks"] == jobs[0]["tasks"]
    assert run.tasks[0].raw["x"] == [1]


@pytest.mark.parametrize("member", ["raw", "lastRunUrl", "lastRun"])
def test_member_named_like_a_field_of_ours_is_unknown(member: str) -> None:
    body = {"connection": {"id": "c1", member: 5}}
    assert decode(answer(body), "connection", Connection) == Connection(id="c1")


def test_unchanged_snapshot_is_the_known_one() -> None:
    members = {"run": {"id": "r1", "state": "Executing", "jobs": [{"id": "j1", "state": "Queued"}]}}
    known = decode(answer(members), "run", Run)
    assert decode(answer(members), "run", Run, known=known) is known
    members["run"]["jobs"][0]["state"] = "Executing"  # type: ignore[index]
    assert decode(answer(members), "run", Run, known=known) == decode(answer(members), "run", Run)


def test_raw_is_no_part_of_what_makes_two_snapshots_equal() -> None:
    assert run_of(priority="high") == run_of(priority="low")


@pytest.mark.parametrize("links", [None, [], {}, {"lastRun": None}, {"lastRun": {"href": None}}])
def test_missing_link_is_none(links: object) -> None:
    connection = decode(
        answer({"connection": {"id": "c", "_links": links}}), "connection", Connection
    )
    assert connection.last_run_url is None


@pytest.mark.parametrize("wrapped", [True, False])
def test_authorization_information_is_read_wrapped_and_bare(wrapped: bool) -> None:
    members = {"isUserAuthorized": True, "_links": {"authorizationUrl": None}}
    body = {"authorizationInformation": members} if wrapped else members
    assert parse_authorization(answer(body)) == AuthorizationInformation(is_user_authorized=True)


def test_authorization_information_that_is_missing_is_an_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_authorization(answer({}))
    assert caught.value.path == "authorizationInformation"


def test_source_file_without_its_storage_id_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(answer({"sourceFile": {"id": "s1", "storageFileId": ""}}), "sourceFile", SourceFile)
    assert caught.value.path.startswith("sourceFile")


def test_empty_result_is_none() -> None:
    assert run_of(result="").result is None


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [("", 0), (".5", 500000), (".12", 120000), (".123", 123000), (".1234", 123400),
     (".12345", 123450), (".801086", 801086), (".8727565", 872756), (".99999999", 999999),
     (".123456789", 123456)],
)  # fmt: skip
@pytest.mark.parametrize("zone", ["Z", "+00:00", "", "+02:00", "-05:30"])
def test_dates_have_up_to_nine_digits_and_any_offset(
    text: str, microsecond: int, zone: str
) -> None:
    hours = {"+02:00": (10, 0), "-05:30": (17, 30)}.get(zone, (12, 0))
    time = structure_datetime(f"2023-09-14T12:00:06{text}{zone}", None)
    assert time == datetime(2023, 9, 14, *hours, 6, microsecond, tzinfo=UTC)
    assert time is not None
    assert time.tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00.0000000Z", "0001-01-01T00:00:00+05:00", "",
     "soon", "11/3/2023 8:07:01 PM", "2023-02-30T00:00:00Z", "9999-12-31T23:59:59-23:59"],
)  # fmt: skip
def test_unusable_date_is_none_and_stays_in_raw(text: str) -> None:
    run = run_of(startDateTime=text)
    assert run.start_date_time is None
    assert run.raw["startDateTime"] == text


@pytest.mark.parametrize("value", [20201024, 1.5, True, [], {"year": 2020}])
def test_date_that_is_no_text_is_none(value: object) -> None:
    assert run_of(startDateTime=value).start_date_time is None


def test_text_of_any_length_is_no_date(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert structure_datetime("2025-03-01T12:00:00Z" + "0" * 1_000_000, None) is None
    assert max(len(record.getMessage()) for record in caplog.records) < 100


def test_unreadable_date_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            run_of(startDateTime="the day before yesterday")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b"7", b'"run"', b'{"run": ', b"\xff\xfe", b'{"a":' * 100_000],
    ids=range(9),
)
def test_response_that_is_no_json_object_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        json_object(answer(body))
    assert caught.value.path == ""


def frames_of(error: BaseException | None) -> Iterator[object]:
    """The locals of all frames of the package that are reachable from an error."""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                yield from frame.f_locals.values()
        error = error.__cause__ or error.__context__


def test_model_that_does_not_fit_is_not_reachable_from_its_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        run_of(jobs=[{"id": "j1", "state": "Idle", "tasks": [{"id": "t1", "state": 5}]}])
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert not [local for local in frames_of(caught.value) if isinstance(local, Run | Job | Task)]


def test_body_that_is_no_json_is_not_reachable_from_its_error() -> None:
    with pytest.raises(ProtocolError) as caught:
        json_object(answer(b'{"access_token": "planted'))
    assert "planted" not in "".join(map(repr, frames_of(caught.value)))


@pytest.mark.parametrize("model", MODELS)
def test_half_built_model_has_a_repr(model: type[Any]) -> None:
    assert repr(object.__new__(model)) == f"{model.__name__}()"


@pytest.mark.parametrize("model", MODELS)
def test_shortcut_fits_every_model(model: type[Any]) -> None:
    check_shortcut(model)


@frozen(kw_only=True)
class _WithPostInit:
    raw: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None: ...


@frozen(kw_only=True)
class _WithConverter:
    name: str = field(default="", converter=str.strip)  # type: ignore[misc]
    raw: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True)
class _WithFactory:
    names: list[str] = field(factory=list)
    raw: Mapping[str, Any] = field(factory=dict)


@frozen(kw_only=True, slots=False)
class _WithoutSlots:
    name: str = ""
    raw: Mapping[str, Any] = field(factory=dict)


@pytest.mark.parametrize("model", [_WithPostInit, _WithConverter, _WithFactory, _WithoutSlots])
def test_shortcut_refuses_a_model_that_needs_its_init(model: type[Any]) -> None:
    with pytest.raises(TypeError, match=model.__name__):
        check_shortcut(model)


def test_imodels_are_decoded() -> None:
    members = {
        "id": "m1",
        "displayName": "Bridge",
        "name": "Bridge",
        "state": "initialized",
        "createdDateTime": "2025-03-01T12:00:00Z",
        "lastChangesetPushDateTime": None,
        "iTwinId": "t1",
        "dataCenterLocation": "East US",
    }
    imodel = decode(answer({"iModel": members}), "iModel", IModel)
    assert (imodel.itwin_id, imodel.created_date_time) == ("t1", NOW)
    assert (imodel.is_initialized, imodel.reports_last_push) == (True, True)
    brief = decode(answer({"iModel": {"id": "m1", "displayName": "Bridge"}}), "iModel", IModel)
    assert (brief.is_initialized, brief.reports_last_push) == (True, False)
    assert not IModel(id="m1", state="notInitialized").is_initialized


def test_named_versions_and_changesets_are_decoded() -> None:
    members = {"id": "v1", "displayName": "Issued", "changesetId": "a1", "changesetIndex": 3}
    version = decode(answer({"namedVersion": members}), "namedVersion", NamedVersion)
    assert (version.changeset_id, version.changeset_index) == ("a1", 3)
    assert not version.is_baseline
    assert NamedVersion(id="v1").is_baseline
    members = {"id": "a1", "index": 3, "pushDateTime": "2025-03-01T12:00:00Z", "parentId": ""}
    changeset = decode(answer({"changeset": members}), "changeset", Changeset)
    assert (changeset.index, changeset.push_date_time) == (3, NOW)


@given(st.sampled_from(MODELS), json_values())
def test_any_json_is_a_model_or_a_protocol_error(model: type[Any], value: Any) -> None:
    for members in ({"it": value}, {"it": [value]}):
        try:
            seen = decode(answer(members), "it", model)
        except ProtocolError as error:
            assert error.path.startswith("it")
        else:
            assert type(seen) is model
            assert pickle.loads(pickle.dumps(seen)) == seen
        try:
            assert all(type(m) is model for m in decode_list(answer(members), "it", model))
        except ProtocolError as error:
            assert error.path.startswith("it")


@given(st.binary(max_size=40))
def test_any_bytes_are_an_object_or_a_protocol_error(body: bytes) -> None:
    with suppress(ProtocolError):
        assert isinstance(json_object(answer(body)), dict)


@given(
    json_values(st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.none()).map(
        lambda value: json.dumps({"it": value}).encode()
    )
    | st.sampled_from(ODD_JSON)
)
def test_response_is_read_alike_with_and_without_orjson(body: bytes) -> None:
    def read() -> object:
        try:
            return json_object(answer(body))
        except ProtocolError as error:
            return str(error)

    with_extra = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "orjson", None)
        assert repr(read()) == repr(with_extra)  # NaN does not equal itself


@given(
    st.fixed_dictionaries(
        {"id": st.text(), "state": st.sampled_from(ExecutionState).map(str) | st.text()},
        optional={"result": st.none() | st.sampled_from(ExecutionResult).map(str) | st.text()},
    )
)
def test_any_state_and_result_survive(members: dict[str, Any]) -> None:
    seen = decode(answer({"run": members}), "run", Run)
    assert seen.state.casefold() == members["state"].casefold()
    assert not seen.is_final or seen.state is ExecutionState.COMPLETED


SENT_MEMBERS = {
    "exportType", "ifcVersion", "inputOptions", "outputOptions", "changesetId", "mappingFileId",
    "mappingfileBlobUrl", "savedViewId", "modelIds", "location", "outputSasUrl", "logsSasUrl",
    "folderId", "replaceOlderFile", "saveLogs",
}  # fmt: skip


@given(export_options())
def test_body_has_no_null_and_no_member_the_service_does_not_know(options: ExportOptions) -> None:
    body = json.loads(encode(options))
    parts = [body, body.get("inputOptions", {}), body.get("outputOptions", {})]
    assert {name for part in parts for name in part} <= SENT_MEMBERS
    assert None not in [value for part in parts for value in part.values()]
    assert body["exportType"] == options.export_type.value


@given(export_options())
def test_body_has_every_option_of_the_caller(options: ExportOptions) -> None:
    body = json.loads(encode(options))
    said = body.get("inputOptions", {}) | body.get("outputOptions", {})
    source, target = options.input, options.output
    models = None if source.model_ids is None else list(source.model_ids)
    assert body.get("ifcVersion") == options.ifc_version
    assert said.get("changesetId") == source.changeset_id
    assert said.get("mappingFileId") == source.mapping_file_id
    assert said.get("mappingfileBlobUrl") == source.mappingfile_blob_url
    assert said.get("savedViewId") == source.saved_view_id
    assert said.get("modelIds") == models
    assert said.get("location") == target.location
    assert said.get("outputSasUrl") == target.output_sas_url
    assert said.get("logsSasUrl") == target.logs_sas_url
    assert said.get("folderId") == target.folder_id
    assert said.get("replaceOlderFile") == target.replace_older_file
    assert said.get("saveLogs") == target.save_logs


def test_option_left_out_is_not_sent() -> None:
    assert json.loads(encode(ExportOptions())) == {"exportType": "IFC"}
