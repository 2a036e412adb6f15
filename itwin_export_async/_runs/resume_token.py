"""ResumeToken: which run to resume, and until when to wait for it. It holds no secret.

The text is `1.<payload>.<checksum>`: letters, digits, `-`, `_` and `.` only, so that URLs and every
shell leave it alone. The payload is JSON in base64url; the checksum (CRC-32) finds a text that was
cut or mistyped. It is no signature: a token may be forged, as two ids may.
"""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

from attrs import frozen

from itwin_export_async._protocol.runs import Service
from itwin_export_async._protocol.urls import validate_id

VERSION = "1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_LENGTH, _MAX_SHOWN = 8192, 60


@frozen(kw_only=True)
class ResumeToken:
    """The content of a resume token.

    `deadline`: None for no such limit. `just_created`: the service has just named the run, and
    parts of it may not know the run yet.
    """

    service: Service
    connection_id: str
    run_id: str
    deadline: datetime | None = None
    just_created: bool = False

    def to_string(self) -> str:
        """Return the token's text."""
        fields: list[Any] = [self.service.value, self.connection_id, self.run_id]
        fields.append(None if self.deadline is None else self.deadline.timestamp())
        fields.append(self.just_created)
        payload = _encode(json.dumps(fields, separators=(",", ":")).encode())
        return f"{VERSION}.{payload}.{_checksum(payload)}"

    @classmethod
    def from_string(cls, text: str) -> "ResumeToken":
        """Read a token's text; `ValueError` if it is not one, or was changed."""
        try:
            return cls._parse(text)
        except (ValueError, TypeError, OverflowError, RecursionError) as exc:
            shown = repr(text)
            if len(shown) > _MAX_SHOWN:
                shown = f"{shown[:_MAX_SHOWN]}..."
            raise ValueError(
                f"not a valid resume token ({exc}): {shown}; pass run.resume_token unchanged"
            ) from exc

    @classmethod
    def _parse(cls, text: str) -> "ResumeToken":
        if not isinstance(text, str):
            raise TypeError(f"it must be a string, not {type(text).__name__}")
        if len(text) > _MAX_LENGTH or text.count(".") != 2:
            raise ValueError("it must have three parts")
        version, payload, checksum = text.strip().split(".")
        if version != VERSION:
            raise ValueError(f"its version {version!r} is unknown")
        if checksum != _checksum(payload):
            raise ValueError("its checksum does not match")
        service, connection_id, run_id, deadline, just_created = json.loads(_decode(payload))
        return cls(
            service=Service(service),
            connection_id=validate_id("connection_id", connection_id),
            run_id=validate_id("run_id", run_id),
            deadline=None if deadline is None else _EPOCH + timedelta(seconds=deadline),
            just_created=just_created is True,
        )


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _checksum(payload: str) -> str:
    return _encode(crc32(payload.encode()).to_bytes(4, "big"))
