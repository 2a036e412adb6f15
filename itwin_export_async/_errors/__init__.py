"""What can go wrong, as one tree.

    ExportError
    ├── TransportError            no response was received
    │   └── RequestTimeout        ... in time (also a TimeoutError)
    ├── ResponseError             the service refused the request
    │   ├── InvalidRequest        400, 422
    │   ├── AuthenticationFailed  401
    │   ├── PermissionDenied      403
    │   ├── NotFound              404
    │   ├── Conflict              409, and 303 where joining was not wanted
    │   ├── RateLimited           429
    │   └── ServerError           5xx
    ├── ProtocolError             the service broke its own contract
    ├── TokenError                no token
    ├── AuthorizationRequired     the user has to consent first
    ├── DownloadError             a file could not be downloaded
    ├── UploadError               a file could not be uploaded
    ├── LedgerError               a ledger cannot be used, or does not fit the request
    ├── InvalidSignature          a webhook event is not signed correctly
    ├── NothingToExport           the iModel does not have the requested version
    ├── StartTimeout              no run was started in time (also a TimeoutError)
    └── RunError                  the run failed, or could not be followed
        ├── RunFailed             the run's outcome is not a success
        │   └── RunPartlyFailed   some of its tasks succeeded
        ├── RunTimeout            it took too long (also a TimeoutError)
        └── RunUnreachable        its state could not be read for too long

A caller's mistake is a `ValueError`, a `TypeError` or (for a client that is not open) a
`RuntimeError` instead. Every error pickles and copies with its fields and notes, has its sentence
in `args`, and has `is_transient`, `may_have_been_processed` and `public`. None shows a secret.
"""

from itwin_export_async._errors.http import (
    AuthenticationFailed,
    Conflict,
    ErrorDetail,
    ExportError,
    InvalidRequest,
    InvalidSignature,
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
    DownloadFailure,
    LedgerError,
    NothingToExport,
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
    "DownloadFailure",
    "ErrorDetail",
    "ExportError",
    "InvalidRequest",
    "InvalidSignature",
    "LedgerError",
    "NotFound",
    "NothingToExport",
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
