"""Ids that belong to one owner: resume tokens with a signature."""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable

from itwin_export_async.web._problems import UnknownExport

MIN_SECRET = 16  # characters or bytes
_REMEDY = "give a long random text, the same to all processes"


class SignedIds:
    """Signs resume tokens for an owner, with HMAC-SHA256.

    `secret`: one secret of at least 16 characters, or several: the first signs, all of them verify,
    so that a new one can be put in front. An id of another owner, or of another secret, does not
    exist.
    """

    def __init__(self, secret: str | bytes | Iterable[str | bytes]) -> None:
        secrets = (secret,) if isinstance(secret, str | bytes) else tuple(secret)
        if not secrets or not all(isinstance(item, str | bytes) and item for item in secrets):
            raise ValueError(f"secret is empty or not a text; {_REMEDY}")
        if any(len(item) < MIN_SECRET for item in secrets):
            raise ValueError(f"secret is shorter than {MIN_SECRET} characters; {_REMEDY}")
        self._keys = tuple(_Key(item) for item in secrets)

    def sign(self, resume_token: str, owner: str) -> str:
        """The id of a run for this owner: URL-safe text."""
        return f"{resume_token}.{self._keys[0].signature(resume_token, owner)}"

    def verify(self, id: str, owner: str) -> str:
        """The resume token of an id. Raises a `LookupError` unless it was signed for this owner."""
        resume_token, _, signature = id.rpartition(".")
        given = signature.encode(errors="replace")
        is_valid = False
        for key in self._keys:  # all of them, so that the time does not show which one fits
            is_valid |= hmac.compare_digest(given, key.signature(resume_token, owner).encode())
        if not is_valid:
            raise UnknownExport
        return resume_token


class _Key:
    """A secret that no traceback shows."""

    __slots__ = ("_key",)

    def __init__(self, secret: str | bytes) -> None:
        self._key = secret.encode() if isinstance(secret, str) else secret

    def __repr__(self) -> str:
        return "<secret>"

    def signature(self, resume_token: str, owner: str) -> str:
        if not isinstance(owner, str):
            raise TypeError(f"the owner must be a string, not {type(owner).__name__}")
        # the length keeps owner and token apart, whatever they contain
        message = f"{len(owner)}:{owner}{resume_token}".encode(errors="surrogatepass")
        digest = hmac.new(self._key, message, hashlib.sha256).digest()
        return urlsafe_b64encode(digest).decode().rstrip("=")
