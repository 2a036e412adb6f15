"""The source files of a synchronization connection: files in Storage and their connectors.

https://developer.bentley.com/apis/synchronization/operations/
"""

from itwin_export_async._errors import ProtocolError
from itwin_export_async._models import SourceFile
from itwin_export_async._protocol.codec import decode, encode
from itwin_export_async._protocol.error_responses import error_from_response
from itwin_export_async._protocol.headers import JSON_BODY
from itwin_export_async._protocol.messages import Request, Response
from itwin_export_async._protocol.paging import Page, page_of, page_query
from itwin_export_async._protocol.runs import FULL_REPRESENTATION, Service, connection_path
from itwin_export_async._protocol.urls import quote_segment, validate_id


def mapping(source_file: SourceFile) -> dict[str, str]:
    """The JSON of a source file in a request: the file and its connector, nothing else."""
    if not isinstance(source_file, SourceFile):
        raise TypeError(f"a source file must be a SourceFile, not {type(source_file).__name__}")
    if source_file.connector_type is None:
        raise ValueError(f"source file {source_file.storage_file_id} has no connector_type")
    return {
        "storageFileId": validate_id("storage_file_id", source_file.storage_file_id),
        "connectorType": source_file.connector_type.value,
    }


def _path(connection_id: str) -> str:
    return f"{connection_path(Service.SYNCHRONIZATION, connection_id)}/sourcefiles"


def _file_path(connection_id: str, source_file_id: str) -> str:
    return f"{_path(connection_id)}/{quote_segment('source_file_id', source_file_id)}"


def add_source_file_request(connection_id: str, source_file: SourceFile) -> Request:
    """Add a file. Not repeatable: the second request finds the file mapped already."""
    return Request(
        method="POST",
        url=_path(connection_id),
        headers=JSON_BODY,
        body=encode(mapping(source_file)),
        retryable=False,
    )


def get_source_file_request(connection_id: str, source_file_id: str) -> Request:
    """Read one file's mapping."""
    return Request(method="GET", url=_file_path(connection_id, source_file_id))


def list_source_files_request(connection_id: str, *, page_size: int | None, offset: int) -> Request:
    """One page of a connection's files."""
    return Request(
        method="GET",
        url=f"{_path(connection_id)}{page_query({}, page_size, offset)}",
        headers=FULL_REPRESENTATION[Service.SYNCHRONIZATION],
    )


def update_source_file_request(connection_id: str, source_file: SourceFile) -> Request:
    """Change the file or the connector of a mapping."""
    body = encode(mapping(source_file))
    if source_file.id is None:
        raise ValueError(
            f"source file {source_file.storage_file_id} has no id; add it to the connection first"
        )
    return Request(
        method="PUT",
        url=_file_path(connection_id, source_file.id),
        headers=JSON_BODY,
        body=body,
    )


def delete_source_file_request(connection_id: str, source_file_id: str) -> Request:
    """Remove a file. Repeatable: removing it twice has the same effect."""
    return Request(method="DELETE", url=_file_path(connection_id, source_file_id))


def parse_source_file(response: Response) -> SourceFile:
    """The mapping of a file."""
    if response.status not in (200, 201):
        raise error_from_response(response)
    return _require_id(response, "sourceFile", decode(response, "sourceFile", SourceFile))


def parse_source_files(response: Response) -> Page[SourceFile]:
    """One page of files."""
    page = page_of(response, "sourceFiles", SourceFile)
    for number, source_file in enumerate(page.items):
        _require_id(response, f"sourceFiles[{number}]", source_file)
    return page


def _require_id(response: Response, path: str, source_file: SourceFile) -> SourceFile:
    """The file itself, or a `ProtocolError` where the service sent no id."""
    if source_file.id is None:
        raise ProtocolError(
            message="is missing", method=response.method, url=response.url, path=f"{path}.id"
        )
    return source_file
