"""The blob store: what its addresses hold at which time, and the signatures that open them.

The query of a signed address names what it allows and until when, and `sig` seals path and query.
It is good only as it was given, byte for byte; the parameters of an operation (`comp`, `blockid`)
may stand beside it.
"""

import base64
import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import md5, sha256
from itertools import count
from types import MappingProxyType
from urllib.parse import parse_qs, quote, urlsplit

from attrs import define, field, frozen

from itwin_export_async.emulator._state.contents import Content

_EXPIRY = "%Y-%m-%dT%H:%M:%SZ"
_OPERATION = ("comp=", "blockid=")


def md5_of(content: bytes) -> str:
    """The MD5 of a content as headers have it."""
    return base64.b64encode(md5(content, usedforsecurity=False).digest()).decode()


def _checksum(content: Content) -> str | None:
    return md5_of(content) if isinstance(content, bytes) else None  # the other is nowhere held


def _disposition(name: str) -> str:
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"


@frozen(kw_only=True)
class Blob:
    """What an address holds from the moment `since` on.

    `checksum` gives its MD5, if it has one; `blocks` says where in it which block is, when it was
    put in blocks.
    """

    since: float
    tag: str
    write: Callable[[], Content]
    checksum: Callable[[Content], str | None]
    blocks: Mapping[str, slice]


@define(kw_only=True, eq=False)
class BlobStore:
    """The blobs by the paths of their addresses, and the blocks that wait to be made blobs."""

    key: bytes
    uncommitted: dict[str, dict[str, bytes]] = field(factory=dict)
    _versions: dict[str, tuple[Blob, ...]] = field(factory=dict)
    _tags: "count[int]" = field(factory=lambda: count(1))

    def put(
        self,
        path: str,
        write: Callable[[], Content],
        *,
        since: float,
        checksum: Callable[[Content], str | None] = _checksum,
        blocks: Mapping[str, slice] = MappingProxyType({}),
    ) -> Blob:
        """The blob that this address has from then on; what it has until then stays."""
        blob = Blob(
            since=since,
            tag=f'"0x8D{next(self._tags):013X}"',
            write=write,
            checksum=checksum,
            blocks=blocks,
        )
        versions = (*self._versions.get(path, ()), blob)
        self._versions[path] = tuple(sorted(versions, key=lambda version: version.since))
        return blob

    def get(self, path: str, *, now: float) -> Blob | None:
        """What an address holds now, or None."""
        there = [blob for blob in self._versions.get(path, ()) if blob.since <= now]
        return there[-1] if there else None

    def sign(self, path: str, *, rights: str, expiry: datetime, name: str) -> str:
        """A query that opens this path until then, for any of create, read and write: `crw`.

        It is the first whose signature has what careless clients break: `%2F` and `%2B`.
        """
        terms = (
            f"sv=2020-08-04&sr=b&sp={rights}&se={quote(f'{expiry:{_EXPIRY}}', safe='')}"
            f"&skv={version}&rscd={quote(_disposition(name), safe='')}"
            for version in count(1)
        )
        signed = ((said, self._seal(path, said)) for said in terms)
        return next(f"{said}&sig={sig}" for said, sig in signed if "%2F" in sig and "%2B" in sig)

    def rights(self, url: str, *, moment: datetime) -> str:
        """What a signed address allows then; nothing when it was tampered with or has expired."""
        address = urlsplit(url)
        kept = [term for term in address.query.split("&") if not term.startswith(_OPERATION)]
        said, _, sig = "&".join(kept).rpartition("&sig=")
        if sig != self._seal(address.path, said):
            return ""
        terms = parse_qs(said)
        ends = datetime.strptime(terms["se"][0], _EXPIRY).replace(tzinfo=UTC)
        return terms["sp"][0] if moment < ends else ""

    def _seal(self, path: str, said: str) -> str:
        seal = hmac.digest(self.key, f"{path}?{said}".encode(), sha256)
        return quote(base64.b64encode(seal).decode(), safe="")
