"""The JSON of iModels, their named versions and their changesets."""

from typing import Any

from itwin_export_async.emulator._state.ids import USER_ID
from itwin_export_async.emulator._state.imodels import Changeset, IModel, NamedVersion
from itwin_export_async.emulator._state.platform import Platform, RequestContext

JSON = dict[str, Any]

_APPLICATION = {"id": "emulator", "name": "Emulator"}
_EXTENT = {
    "southWest": {"latitude": 46.13, "longitude": 7.67},
    "northEast": {"latitude": 46.31, "longitude": 7.89},
}


def imodel_item(
    platform: Platform, context: RequestContext, imodel: IModel, *, is_full: bool
) -> JSON:
    """Return an iModel in its minimal or full form."""
    summary = {"id": imodel.id, "displayName": imodel.name}
    if not is_full:
        return summary
    url = f"{context.endpoints.api}/imodels/{imodel.id}"
    item: JSON = {
        **summary,
        "name": imodel.name,
        "description": imodel.description,
        "state": imodel.state,
        "createdDateTime": platform.clock.stamp(imodel.created_at),
        "lastChangesetPushDateTime": None,
        "iTwinId": imodel.itwin_id,
        "extent": _EXTENT,
        "containersEnabled": 0,
        "dataCenterLocation": "East US",
        "_links": {
            "creator": {"href": f"{url}/users/{USER_ID}"},
            "changesets": {"href": f"{url}/changesets"},
            "namedVersions": {"href": f"{url}/namedversions"},
        },
    }
    changesets = imodel.changesets(context.now)
    if imodel.push_date == "missing":
        del item["lastChangesetPushDateTime"]
    elif imodel.push_date == "reported" and changesets:
        item["lastChangesetPushDateTime"] = platform.clock.stamp(changesets[-1].pushed_at)
    return item


def named_version_item(
    platform: Platform,
    context: RequestContext,
    imodel: IModel,
    version: NamedVersion,
    *,
    is_full: bool,
) -> JSON:
    """Return a named version in its minimal or full form."""
    summary = {
        "id": version.id,
        "displayName": version.name,
        "changesetId": version.changeset_id,
        "changesetIndex": version.changeset_index,
    }
    if not is_full:
        return summary
    url = f"{context.endpoints.api}/imodels/{imodel.id}"
    changeset = version.changeset_id
    return {
        **summary,
        "name": version.name,
        "description": version.description,
        "createdDateTime": platform.clock.stamp(version.created_at),
        "state": version.state,
        "application": _APPLICATION,
        "_links": {
            "creator": {"href": f"{url}/users/{USER_ID}"},
            "changeset": changeset and {"href": f"{url}/changesets/{changeset}"},
        },
    }


def changeset_item(
    platform: Platform,
    context: RequestContext,
    imodel: IModel,
    changeset: Changeset,
    *,
    is_full: bool,
) -> JSON:
    """Return a changeset in its minimal or full form."""
    url = f"{context.endpoints.api}/imodels/{imodel.id}"
    links: JSON = {
        "self": {"href": f"{url}/changesets/{changeset.id}"},
        "creator": {"href": f"{url}/users/{USER_ID}"},
    }
    summary = {
        "id": changeset.id,
        "displayName": str(changeset.index),
        "description": changeset.description,
        "index": changeset.index,
        "parentId": changeset.parent_id,
        "creatorId": USER_ID,
        "pushDateTime": platform.clock.stamp(changeset.pushed_at),
        "state": "fileUploaded",
        "containingChanges": 0,
        "fileSize": 1024,
        "briefcaseId": 2,
        "groupId": None,
        "_links": links,
    }
    if not is_full:
        return summary
    version = next((v for v in imodel.named_versions if v.changeset_id == changeset.id), None)
    information = None
    if changeset.task_id is not None:
        files = list(changeset.changed_files)
        information = {"taskId": changeset.task_id, "changedFiles": files or None}
    links["namedVersion"] = version and {"href": f"{url}/namedversions/{version.id}"}
    links["currentOrPrecedingCheckpoint"] = None
    links["download"] = None
    return {**summary, "application": _APPLICATION, "synchronizationInfo": information}
