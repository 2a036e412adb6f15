"""What a client reports about access and about itself."""

from datetime import datetime

from attrs import frozen

from itwin_export_async._models.reprs import short_repr

_READ_IMODEL = "imodels_read"
_STORAGE = ("storage_read", "storage_write")
_CONSENT = "authorization"


@frozen(kw_only=True)
class AccessReport:
    """The caller's rights to export an iModel.

    `imodel_permissions` and `itwin_permissions` are as the service lists them; rights of the iModel
    override those of its iTwin. `is_user_authorized` is the user's consent to background work, None
    where it is not needed or not known.
    """

    imodel_id: str
    itwin_id: str | None = None
    imodel_permissions: tuple[str, ...] = ()
    itwin_permissions: tuple[str, ...] = ()
    is_user_authorized: bool | None = None

    __repr__ = short_repr

    @property
    def missing(self) -> tuple[str, ...]:
        """What an export would lack: names of permissions, and `authorization` for the consent."""
        on_imodel = self.imodel_permissions or self.itwin_permissions
        missing = [] if _READ_IMODEL in on_imodel else [_READ_IMODEL]
        missing += [name for name in _STORAGE if name not in self.itwin_permissions]
        if self.is_user_authorized is False:
            missing.append(_CONSENT)
        return tuple(missing)

    @property
    def ok(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing


@frozen(kw_only=True)
class ClientHealth:
    """The state of a client, without a request.

    Times are None where there is none. `outage_since` is the beginning of an outage that lasts.
    `remaining_calls` is None without a rate limit. `runs_polled` is the number of runs that are
    polled now.
    """

    is_open: bool
    token_expires_at: datetime | None = None
    last_response_at: datetime | None = None
    outage_since: datetime | None = None
    remaining_calls: int | None = None
    runs_polled: int = 0

    __repr__ = short_repr
