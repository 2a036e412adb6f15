"""Every documented payload is read, sent, used as a schema, or listed as not used."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from itwin_export_async._errors import (
    AuthenticationFailed,
    Conflict,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    RateLimited,
    ResponseError,
)
from itwin_export_async._models import ExportOptions, InputOptions, OutputOptions, SourceFile
from itwin_export_async._protocol.codec import encode
from itwin_export_async._protocol.connections import (
    create_connection_request,
    create_storage_connection_request,
    update_connection_request,
)
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.files import create_file_request
from itwin_export_async._protocol.runs import create_run_request
from itwin_export_async._protocol.source_files import (
    add_source_file_request,
    update_source_file_request,
)
from tests.protocol.test_examples_read import READ
from tests.support.samples import EXAMPLES, answer, example

REFUSED: dict[str, tuple[int, type[ResponseError], str, tuple[tuple[str, str | None], ...]]] = {
    "export.authorization_information.422.json": (
        422, InvalidRequest, "InvalidAuthorizationInformationRequest",
        (("InvalidValue", "$redirectUrl"),),
    ),
    "export.create_connection.422.json": (
        422, InvalidRequest, "InvalidExportConnectionRequest",
        (("InvalidRequestBody", None), ("MissingRequiredProperty", "imodelId"),
         ("InvalidValue", "imodelId")),
    ),
    "export.create_run.403.json": (403, PermissionDenied, "InsufficientPermissions", ()),
    "export.create_run.404.json": (404, NotFound, "ConnectionNotFound", ()),
    "export.create_run.409.json": (409, Conflict, "ConflictWithAnotherIModelRequest", ()),
    "export.create_run.422.json": (
        422, InvalidRequest, "InvalidConnectionRunRequest",
        (("MissingRequiredParameter", "imodelId"), ("InvalidValue", "imodelId"),
         ("InvalidValue", "connectionId")),
    ),
    "export.create_run.429.json": (429, RateLimited, "RateLimitExceeded", ()),
    "export.delete_connection.404.json": (404, NotFound, "ConnectionNotFound", ()),
    "export.delete_connection.409.json": (409, Conflict, "ConnectionAlreadyInUse", ()),
    "export.delete_connection.422.json": (
        422, InvalidRequest, "InvalidExportConnectionRequest", (("InvalidValue", "connectionId"),),
    ),
    "export.get_connection.403.json": (403, PermissionDenied, "InsufficientPermissions", ()),
    "export.get_connection.404.json": (404, NotFound, "ConnectionNotFound", ()),
    "export.get_runs.403.json": (403, PermissionDenied, "InsufficientPermissions", ()),
    "export.get_runs.422.json": (
        422, InvalidRequest, "InvalidConnectionRunsRequest",
        (("MissingRequiredParameter", "imodelId"), ("InvalidValue", "$top"),
         ("InvalidValue", "imodelId")),
    ),
    "platform.error.401.header_not_found.json": (401, AuthenticationFailed, "HeaderNotFound", ()),
    "platform.error.401.legacy.json": (401, AuthenticationFailed, "", ()),
    "platform.error.401.unknown_client.json": (
        401, AuthenticationFailed, "Unauthorized", (("UnknownClient", None),),
    ),
    "platform.error.403.json": (403, PermissionDenied, "InsufficientPermissions", ()),
    "platform.error.404.operation_not_found.json": (
        404, NotFound, "ResourceNotFound", (("OperationNotFound", None),),
    ),
    "platform.error.429.legacy_unnested.json": (429, RateLimited, "TooManyRequests", ()),
    "platform.error.429.rate_limit_exceeded.json": (429, RateLimited, "RateLimitExceeded", ()),
    "platform.error.429.too_many_requests.json": (429, RateLimited, "TooManyRequests", ()),
    "storage.create_file.422.json": (422, InvalidRequest, "InvalidStorageRequest", ()),
    "storage.get_file.404.json": (404, NotFound, "FileNotFound", ()),
    "storage.get_folder.404.json": (404, NotFound, "FolderNotFound", ()),
    "storage.list_folder.422.json": (422, InvalidRequest, "InvalidStorageRequest", ()),
    "sync.authorization_information.422.json": (
        422, InvalidRequest, "InvalidAuthorizationInformationRequest",
        (("InvalidValue", "redirectUrl"),),
    ),
    "sync.create_storage_connection.409.json": (
        409, Conflict, "FileMappingToTheIModelAlreadyExists", (),
    ),
    "sync.create_storage_connection.422.json": (
        422, InvalidRequest, "InvalidStorageConnectionRequest",
        (("InvalidRequestBody", None), ("MissingRequiredProperty", "sourceFiles"),
         ("MissingRequiredProperty", "sourceFiles"), ("MissingRequiredProperty", "connectorType"),
         ("MissingRequiredProperty", "storageFileId"), ("MissingRequiredProperty", "imodelId"),
         ("InvalidValue", "connectorType"), ("InvalidValue", "imodelId"),
         ("InvalidValue", "storageFileId")),
    ),
    "sync.get_run.older.404.json": (404, NotFound, "ConnectionRunNotFound", ()),
    "sync.get_storage_connection.404.json": (404, NotFound, "StorageConnectionNotFound", ()),
    "sync.get_storage_connection.older.404.json": (404, NotFound, "ConnectionNotFound", ()),
    "sync.run_storage_connection.older.409.json": (
        409, Conflict, "IModelAlreadyProcessingRequest", (),
    ),
    "sync.update_manifest_source_file.404.json": (
        404, NotFound, "ManifestConnectionSourceFileNotFound", (),
    ),
}  # fmt: skip

_ZEROS = "0" * 40
_IMODEL = "7dbd531d-6967-47b2-8945-a722a437ad7a"
_MAPPED = SourceFile(
    storage_file_id="t5bDFuN4qUa9ojVw1E5FGtldp8BgSbNCiJ2XMdiT-cA", connector_type="MSTN"
)

EVERYTHING = ExportOptions(
    export_type="IFC",
    ifc_version="IFC4.3",
    input=InputOptions(
        mapping_file_id=_ZEROS,
        changeset_id=_ZEROS,
        saved_view_id=_ZEROS,
        mappingfile_blob_url="https://example.com",
    ),
    output=OutputOptions(
        location="USER_BLOB_STORAGE",
        output_sas_url="https://abc.com",
        logs_sas_url="https://abc.com",
        folder_id=_ZEROS,
        replace_older_file=True,
        save_logs=True,
    ),
)

SENT: dict[str, bytes | None] = {
    "export.create_connection.request.json": create_connection_request(_IMODEL, "30", "User").body,
    "export.create_run.request.json": create_run_request("c1", EVERYTHING).body,
    "storage.create_file.request.json": create_file_request("f1", "test.txt", "test file").body,
    "sync.add_source_file.request.json": add_source_file_request("c1", _MAPPED).body,
    "sync.create_storage_connection.request.json": create_storage_connection_request(
        _IMODEL, [_MAPPED], "30", "User"
    ).body,
    "sync.update_source_file.request.json": update_source_file_request(
        "c1",
        SourceFile(
            id="297c8ab9-53a3-4fe5-adf8-79b4c1a95cbb",
            storage_file_id="u9E_00ckVU6sdWnH_vnk-bPJEu3c_VVItnIkNDWlTy0",
            connector_type="MSTN",
            last_known_file_name="samplefile",
        ),
    ).body,
    "sync.update_storage_connection.request.json": update_connection_request(
        "c1", "30", "User"
    ).body,
}

SCHEMAS = {
    "export.schema.create_run.json": "create-run",
    "export.schema.error.json": "error",
    "export.schema.export_type.json": "export-type",
    "export.schema.ifc_version.json": "ifc-version",
    "export.schema.input_options.json": "export-run-input-options",
    "export.schema.location.json": "location",
    "export.schema.output_options.json": "export-run-output-options",
}

NOT_OURS = {
    "mesh_export.get.200.json": "another API of another design",
    "mesh_export.start.202.json": "another API of another design",
    "mesh_export.start.request.json": "another API of another design",
    "storage.create_folder.request.json": "no folder is made by this library",
    "sync.create_manifest_connection.request.json": "manifest connections are not offered",
    "sync.create_manifest_run.request.json": "manifest connections are not offered",
    "webhook.synchronization_job_completed.event.json": "webhooks are for servers, not clients",
}


def test_every_example_has_exactly_one_place() -> None:
    placed = [*READ, *REFUSED, *SENT, *SCHEMAS, *NOT_OURS]
    assert sorted(placed) == sorted(path.name for path in EXAMPLES.glob("*.json"))


@pytest.mark.parametrize("name", REFUSED)
def test_documented_error_response_becomes_its_error(name: str) -> None:
    status, kind, code, details = REFUSED[name]
    body = example(name)
    error = error_from_response(answer(body, status))
    assert type(error) is kind
    assert isinstance(error, ResponseError)
    assert (error.status, error.code) == (status, code)
    assert error.message == body.get("error", body)["message"]
    assert tuple((detail.code, detail.target) for detail in error.details) == details
    assert error.message in str(error)


@pytest.mark.parametrize("name", SENT)
def test_documented_request_is_sent_to_the_letter(name: str) -> None:
    body = SENT[name]
    assert body is not None
    assert json.loads(body) == example(name)


def fits(value: Any, schema: Mapping[str, Any]) -> list[str]:
    """What of `value` the documented schema forbids."""
    schema = _named(schema["$ref"]) if "$ref" in schema else schema
    kinds = {"object": dict, "string": str, "boolean": bool}
    if not isinstance(value, kinds[schema["type"]]):
        return [f"{value!r} is no {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{value!r} is none of {schema['enum']}"]
    if not isinstance(value, dict):
        return []
    known = schema["properties"]
    problems = [f"{name} is missing" for name in schema.get("required", ()) if name not in value]
    if schema.get("additionalProperties") is False:
        problems += [f"{name} is unknown" for name in value if name not in known]
    return problems + [p for name in value if name in known for p in fits(value[name], known[name])]


def _named(reference: str) -> Any:
    wanted = reference.rpartition("/")[2]
    return example(next(name for name, called in SCHEMAS.items() if called == wanted))


@pytest.mark.parametrize(
    "options",
    [
        ExportOptions(),
        EVERYTHING,
        *(
            ExportOptions(ifc_version=version)
            for version in example("export.schema.ifc_version.json")["enum"]
        ),
        ExportOptions(output=OutputOptions(location="STORAGE", save_logs=False)),
        ExportOptions(input=InputOptions(changeset_id=_ZEROS)),
    ],
)
def test_request_body_fits_the_documented_schema(options: ExportOptions) -> None:
    assert fits(json.loads(encode(options)), example("export.schema.create_run.json")) == []


def test_schema_check_finds_errors() -> None:
    wrong = {"ifcVersion": "IFC9", "surplus": 1, "inputOptions": {"mappingFileBlobUrl": "x"}}
    assert len(fits(wrong, example("export.schema.create_run.json"))) == 4


@pytest.mark.parametrize("name", [name for name in REFUSED if "legacy" not in name])
def test_documented_error_responses_fit_their_schema(name: str) -> None:
    assert fits(example(name)["error"], example("export.schema.error.json")) == []
