"""What files and blobs hold: bytes, or a content of any length that is made while it is read."""

from collections.abc import Iterator
from random import Random
from typing import TypeAlias

from attrs import field, frozen, validators

_BLOCK = 4 * 1024
_PIECE = 64 * 1024
_NUMBER = 8


@frozen
class SparseContent:
    """A content of `size` bytes that is nowhere held: its slices are made when they are asked for.

    Equal seeds make equal bytes. Every 4 KiB begin with their own offset, so that no part can
    stand for another unnoticed.
    """

    size: int = field(validator=validators.ge(0))
    seed: int = field(default=0, kw_only=True)
    _filling: bytes = field(init=False, repr=False, eq=False)

    @_filling.default
    def _from_seed(self) -> bytes:
        return Random(f"filling of {self.seed}").randbytes(_BLOCK - _NUMBER)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        first, stop, step = part.indices(self.size)
        if step != 1:
            raise ValueError("a slice of it goes on byte by byte")
        start = first - first % _BLOCK
        blocks = (at.to_bytes(_NUMBER) + self._filling for at in range(start, stop, _BLOCK))
        return b"".join(blocks)[first - start : max(stop - start, 0)]


Content: TypeAlias = bytes | SparseContent


def pieces(content: Content, first: int, stop: int) -> Iterator[bytes]:
    """The bytes from `first` up to `stop`, some at a time."""
    for start in range(first, stop, _PIECE):
        yield content[start : min(start + _PIECE, stop)]
