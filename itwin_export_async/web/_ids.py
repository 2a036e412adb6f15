"""Ids that belong to one owner: resume tokens with a signature."""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Iterable


class SignedIds:
    """Signs resume tokens for an owner, with HMAC-SHA256.

    `secret`: one secret, or several: the first signs, all of them verify, so that a new one can be
    put in front. An id of another owner, or of another secret, does not exist.
    """

    def __init__(self, secret: str | bytes | Iterable[str | bytes]) -> None:
        secrets = [secret] if isinstance(secret, str | bytes) else list(secret)
        keys = [item.encode() if isinstance(item, str) else item for item in secrets]
        if not keys or not all(isinstance(key, bytes) and key for key in keys):
            raise ValueError("secret is empty; give a long random text, the same to all processes")
        self._keys = tuple(_Key(key) for key in keys)

    def sign(self, resume_token: str, owner: str) -> str:
        """The id of a run for this owner: URL-safe text."""
        return f"{resume_token}.{self._keys[0].signature(resume_token, owner)}"

    def verify(self, id: str, owner: str) -> str:
        """The resume token of an id. Raises a `LookupError` unless it was signed for this owner."""
        resume_token, _, signature = id.rpartition(".")
        given = signature.encode(errors="replace")
        is_valid = False
        for key in self._keys:  # all of them, so that the time says nothing
            is_valid |= hmac.compare_digest(given, key.signature(resume_token, owner).encode())
        if not is_valid:
            raise LookupError("there is no such export")
        return resume_token


class _Key:
    """A secret that no traceback shows."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "<secret>"

    def signature(self, resume_token: str, owner: str) -> str:
        message = b"\0".join(part.encode(errors="surrogatepass") for part in (owner, resume_token))
        digest = hmac.new(self._key, message, hashlib.sha256).digest()
        return urlsafe_b64encode(digest).decode().rstrip("=")
