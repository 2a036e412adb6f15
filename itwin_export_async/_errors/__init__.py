"""What can go wrong, as one tree.

    ExportError
    ├── TransportError            no answer came
    │   └── RequestTimeout        ... in time (also a TimeoutError)
    ├── ResponseError             the service refused
    │   ├── InvalidRequest        400, 422
    │   ├── AuthenticationFailed  401
    │   ├── PermissionDenied      403
    │   ├── NotFound              404
    │   ├── Conflict              409, and 303 where joining was not wanted
    │   ├── RateLimited           429
    │   └── ServerError    5xx
    ├── ProtocolError             the service broke its own contract
    ├── TokenError                no token could be had
    ├── AuthorizationRequired     the user has to consent first
    ├── DownloadError             a file could not be fetched whole
    ├── UploadError               a file could not be sent whole
    ├── LedgerError               a ledger cannot be used, or does not fit the request
    ├── StartTimeout              there was no run in time (also a TimeoutError)
    └── RunError                  the run, or the following of it, ended badly
        ├── RunFailed             the run's outcome is not a success
        │   └── RunPartlyFailed   some of its tasks succeeded
        ├── RunTimeout            it took too long (also a TimeoutError)
        └── RunUnreachable        its state could not be read for too long

A caller's mistake is a `ValueError`, a `TypeError` or (for a client that is not open) a
`RuntimeError` instead. Every error pickles with its fields, and none shows a secret: addresses
appear without their query.
"""

from itwin_export_async._errors.http import (
    AuthenticationFailed,
    Conflict,
    ErrorDetail,
    ExportError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    ProtocolError,
    RateLimited,
    RequestTimeout,
    ResponseError,
    ServerError,
    TokenError,
    TransportError,
)
from itwin_export_async._errors.workflow import (
    AuthorizationRequired,
    DownloadError,
    LedgerError,
    RunError,
    RunFailed,
    RunPartlyFailed,
    RunTimeout,
    RunUnreachable,
    StartTimeout,
    UploadError,
)

__all__ = [
    "AuthenticationFailed",
    "AuthorizationRequired",
    "Conflict",
    "DownloadError",
    "ErrorDetail",
    "ExportError",
    "InvalidRequest",
    "LedgerError",
    "NotFound",
    "PermissionDenied",
    "ProtocolError",
    "RateLimited",
    "RequestTimeout",
    "ResponseError",
    "RunError",
    "RunFailed",
    "RunPartlyFailed",
    "RunTimeout",
    "RunUnreachable",
    "ServerError",
    "StartTimeout",
    "TokenError",
    "TransportError",
    "UploadError",
]
