"""The blob store: contents over time, and the signatures that grant access to them.

The query of a signed URL states the rights and the expiry, and `sig` signs path and query. The URL
must be used unchanged, byte for byte. Only the parameters of an operation (`comp`, `blockid`) may
be added.
"""

import base64
import hmac
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from hashlib import md5, sha256
from itertools import count
from math import inf
from random import Random
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import parse_qs, quote

from attrs import define, evolve, field, frozen, validators

_EXPIRY = "%Y-%m-%dT%H:%M:%SZ"
_OPERATION_PARAMETERS = ("comp=", "blockid=")
_BLOCK = 4 * 1024
_CHUNK = 64 * 1024
_OFFSET_BYTES = 8


@frozen
class SparseContent:
    """A content of `size` bytes that takes no memory: its slices are generated on access.

    Equal seeds give equal bytes. Each block of 4 KiB begins with its own offset, so that no part
    equals another.
    """

    size: int = field(validator=validators.ge(0))
    seed: int = field(default=0, kw_only=True)
    _filling: bytes = field(init=False, repr=False, eq=False)

    @_filling.default
    def _from_seed(self) -> bytes:
        return Random(f"filling of {self.seed}").randbytes(_BLOCK - _OFFSET_BYTES)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        first, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError(f"a slice of a SparseContent has step 1, got {step}")
        start = first - first % _BLOCK
        blocks = (at.to_bytes(_OFFSET_BYTES) + self._filling for at in range(start, stop, _BLOCK))
        return b"".join(blocks)[first - start : max(stop - start, 0)]


Content: TypeAlias = bytes | SparseContent


def chunks(content: Content, first: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes from `first` up to `stop` in chunks of 64 KiB."""
    for start in range(first, stop, _CHUNK):
        yield content[start : min(start + _CHUNK, stop)]


def content_md5(content: bytes) -> str:
    """Return the MD5 of a content in base64, as in `Content-MD5`."""
    return base64.b64encode(md5(content, usedforsecurity=False).digest()).decode()


def _checksum(content: Content) -> str | None:
    return content_md5(content) if isinstance(content, bytes) else None  # sparse ones are too long


def _content_disposition(name: str) -> str:
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


@frozen(kw_only=True)
class Blob:
    """One version of a blob, current from the moment `since` on.

    `checksum` returns its MD5 or None. `blocks` maps block ids to their parts of the content,
    for a blob that was uploaded in blocks. `held` is the number of bytes it keeps in memory.
    """

    since: float
    etag: str
    write: Callable[[], Content]
    checksum: Callable[[Content], str | None]
    blocks: Mapping[str, slice]
    held: int


@define(kw_only=True, eq=False)
class BlobStore:
    """The blobs by the paths of their URLs, and the uploaded blocks that belong to no blob yet."""

    key: bytes
    uncommitted: dict[str, dict[str, bytes]] = field(factory=dict)
    _versions: dict[str, tuple[Blob, ...]] = field(factory=dict)
    _next_tag: int = 1

    def copied(self) -> "BlobStore":
        """Return a copy that later changes do not affect."""
        return evolve(self, uncommitted={}, versions=dict(self._versions))

    def put(
        self,
        path: str,
        write: Callable[[], Content],
        *,
        since: float,
        now: float = -inf,
        checksum: Callable[[Content], str | None] = _checksum,
        blocks: Mapping[str, slice] = MappingProxyType({}),
        held: int = 0,
    ) -> Blob:
        """Add the version of a blob that is current from `since` on.

        Versions that are outdated by `now` are deleted.
        """
        blob = Blob(
            since=since,
            etag=f'"0x8D{self._next_tag:013X}"',
            write=write,
            checksum=checksum,
            blocks=blocks,
            held=held,
        )
        self._next_tag += 1
        versions = sorted((*self._versions.get(path, ()), blob), key=lambda each: each.since)
        outdated = sum(each.since <= now for each in versions) - 1
        self._versions[path] = tuple(versions[max(outdated, 0) :])
        return blob

    def get(self, path: str, *, now: float) -> Blob | None:
        """Return the current version of a blob, None if there is none."""
        versions = [blob for blob in self._versions.get(path, ()) if blob.since <= now]
        return versions[-1] if versions else None

    def remove(self, path: str) -> None:
        """Delete a blob and its uncommitted blocks."""
        self._versions.pop(path, None)
        self.uncommitted.pop(path, None)

    def held_bytes(self) -> int:
        """Return how many uploaded bytes are in memory."""
        blobs = sum(blob.held for versions in self._versions.values() for blob in versions)
        return blobs + sum(
            len(block) for blocks in self.uncommitted.values() for block in blocks.values()
        )

    def sign(self, path: str, *, rights: str, expiry: datetime, name: str) -> str:
        """Return a query that grants access to a path until `expiry`.

        `rights` are any of create, read and write: `crw`. The signature always contains `%2F` and
        `%2B`, which break when a client decodes and encodes the URL again.
        """
        candidates = (
            f"sv=2020-08-04&sr=b&sp={rights}&se={quote(f'{expiry:{_EXPIRY}}', safe='')}"
            f"&skv={version}&rscd={quote(_content_disposition(name), safe='')}"
            for version in count(1)
        )
        signed = ((query, self._signature(path, query)) for query in candidates)
        return next(f"{query}&sig={sig}" for query, sig in signed if "%2F" in sig and "%2B" in sig)

    def rights(self, path: str, query: str, *, at: datetime) -> str:
        """Return what a signed query grants; nothing once it was changed or has expired."""
        terms = [term for term in query.split("&") if not term.startswith(_OPERATION_PARAMETERS)]
        signed, _, signature = "&".join(terms).rpartition("&sig=")
        if signature != self._signature(path, signed):
            return ""
        values = parse_qs(signed)
        expiry = datetime.strptime(values["se"][0], _EXPIRY).replace(tzinfo=UTC)
        return values["sp"][0] if at < expiry else ""

    def _signature(self, path: str, query: str) -> str:
        digest = hmac.digest(self.key, f"{path}?{query}".encode(errors="replace"), sha256)
        return quote(base64.b64encode(digest).decode(), safe="")
