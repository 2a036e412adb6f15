"""Connections: they tie an iModel to its exports, or source files to their iModel."""

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from itwin_export_async._models.enums import AuthenticationType, ConnectorType
from itwin_export_async._models.reprs import short_repr
from itwin_export_async._models.validators import not_blank, parse_enum


def _connector_type(value: ConnectorType | str | None) -> ConnectorType | None:
    return None if value is None else parse_enum(ConnectorType, "connector_type", value)


@frozen(kw_only=True)
class Connection:
    """An export connection of one iModel; an iModel may have several.

    The service marks none of its members as required: a missing one is None. `last_run_url` is the
    link to the latest run, None without a run.
    """

    id: str
    display_name: str | None = None
    imodel_id: str | None = None
    itwin_id: str | None = None
    authentication_type: AuthenticationType | None = None
    last_run_url: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr


@frozen(kw_only=True)
class StorageConnection(Connection):
    """A synchronization connection: files in Storage that are brought into one iModel.

    Items of a list may have `id` and `display_name` only.
    """

    __repr__ = short_repr


@frozen(kw_only=True)
class SourceFile:
    """A file in Storage and the connector that reads it into the iModel.

    `id` is the service's own id of the mapping and `last_known_file_name` the name it last saw;
    both are None before the file is added. Items of a list may lack `connector_type`: then it is
    None.
    """

    storage_file_id: str = field(validator=not_blank)
    connector_type: ConnectorType | None = field(default=None, converter=_connector_type)
    id: str | None = None
    last_known_file_name: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr


@frozen(kw_only=True)
class AuthorizationInformation:
    """Whether the user has consented to background work in their name, and where they can.

    `authorization_url` is the page for the user's browser, None where the service names none.
    """

    is_user_authorized: bool
    authorization_url: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    __repr__ = short_repr
