"""Chunks in the format of Blosc 1, for an engine that decodes them itself.

A chunk is a header, the place of each block, and the blocks. A block is one stream, or as many as
an item has bytes; a stream is preceded by its size, and is uncompressed if that is its length. This
follows Blosc's README_CHUNK_FORMAT.rst. Nothing is decoded here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import numpy as np

_HEADER = struct.Struct("<4B3i")
"""Version, version of the codec, flags, bytes of an item; bytes decoded, of a block, in all."""

_VERSION = 2
_BYTES_SHUFFLED, _COPIED, _BITS_SHUFFLED, _WHOLE_BLOCKS = 0x1, 0x2, 0x4, 0x10
_CODEC = 5
"""Bit of the flags from which on the codec is named."""
_LZ4 = 1
_MOST_STREAMS, _SHORTEST_STREAM = 16, 128
"""Limits of streams: a block is one stream if it would be cut into more, or into shorter ones."""
_ITEM_SIZES = (1, 2, 4, 8)
BITS_TOGETHER = 32
"""Items whose bits are reassembled together: blocks of other lengths are left to Blosc."""

_COPIED_BLOCK = 2**17
"""Bytes of the streams into which uncompressed content is cut, to be copied side by side."""

COLUMNS = 4


def decodes(kernels: ModuleType) -> bool:
    """Whether an engine's functions take encoded chunks in place of planes."""
    return bool(getattr(kernels, "DECODES", False))


def most_stored(size: int) -> int:
    """Bytes of a chunk of `size` decoded bytes, at most: Blosc adds no more than its header."""
    return size + _HEADER.size


def most_streams(size: int) -> int:
    """Streams of a chunk of `size` decoded bytes, at most; one with more is left to Blosc."""
    return 64 + size // 1024


class Encoded:
    """Pixels of some channels that are still encoded, in place of an array (c, plane).

    Parameters
    ----------
    content
        Encoded chunk, uint8.
    shape
        Shape (c, plane) of the pixels asked for; the chunk may hold more channels after them.
    dtype
        Type of the pixels.
    size
        Bytes of the whole chunk once it is decoded.
    decode
        Function that returns the pixels, decoded by the CPU, or raises what is wrong with them.
    """

    def __init__(
        self,
        content: np.ndarray,
        shape: tuple[int, int],
        dtype: np.dtype,
        size: int,
        decode: Callable[[], np.ndarray],
    ) -> None:
        self.content, self.shape, self.dtype, self.size = content, shape, dtype, size
        self._decode = decode

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Pixels (c, plane), decoded by the CPU, once."""
        return self._decode()


@dataclass(frozen=True, slots=True)
class Streams:
    """Streams of a chunk.

    Attributes
    ----------
    table : (streams, 4) uint32
        Offset and bytes of each stream in the chunk, then offset and bytes of its content among
        the decoded bytes. All of it is inside the chunk.
    shuffle
        Unit that was shuffled in every block: ``bits``, ``bytes`` or nothing.
    item
        Bytes of an item.
    block
        Bytes of a block; the last may be shorter.
    """

    table: np.ndarray
    shuffle: Literal["bits", "bytes", ""]
    item: int
    block: int


def streams_of(content: np.ndarray, size: int) -> Streams | None:
    """Find the streams of a chunk whose codec is LZ4; None for any other, or a damaged one.

    Parameters
    ----------
    content
        Encoded chunk, uint8: nothing in it is trusted.
    size
        Bytes that it must decode to.
    """
    if len(content) < _HEADER.size:
        return None
    version, _, flags, item, decoded, block, stored = _HEADER.unpack(
        content[: _HEADER.size].tobytes()
    )
    told = version == _VERSION and decoded == size and stored == len(content)
    if not told or stored > most_stored(size) or block < 1 or item < 1:
        return None
    if flags & _COPIED:
        return _copied(size) if stored == _HEADER.size + size else None
    shuffle = _shuffle_of(flags, item)
    if flags >> _CODEC != _LZ4 or not _fits(shuffle, item, block, size):
        return None
    table = _table(content, size, block, 1 if flags & _WHOLE_BLOCKS else item)
    return None if table is None else Streams(table, shuffle, item, block)


def _shuffle_of(flags: int, item: int) -> Literal["bits", "bytes", ""]:
    if flags & _BYTES_SHUFFLED and item > 1:
        return "bytes"
    return "bits" if flags & _BITS_SHUFFLED else ""


def _fits(shuffle: str, item: int, block: int, size: int) -> bool:
    """Whether a kernel can undo the shuffling of every block, including the last."""
    if not shuffle:
        return True
    unit = item * (BITS_TOGETHER if shuffle == "bits" else 1)
    return item in _ITEM_SIZES and block % unit == size % unit == 0


def _copied(size: int) -> Streams:
    target = np.arange(0, size, _COPIED_BLOCK)
    length = np.minimum(_COPIED_BLOCK, size - target)
    table = np.stack([_HEADER.size + target, length, target, length], axis=1)
    return Streams(table.astype(np.uint32), "", 1, size)


def _table(content: np.ndarray, size: int, block: int, item: int) -> np.ndarray | None:
    """Make the table of the streams of all blocks; None if one is not inside the chunk."""
    blocks, rest = -(-size // block), size % block
    split = item if item <= _MOST_STREAMS and block // item >= _SHORTEST_STREAM else 1
    end = _HEADER.size + 4 * blocks
    if end > len(content) or block % split or blocks * split > most_streams(size):
        return None
    begin = content[_HEADER.size : end].view("<i4").astype(np.int64)
    target = np.arange(blocks) * block
    whole = size // block
    parts = [_rows(content, begin[:whole], target[:whole], block // split, split)]
    if rest:
        # A shorter last block is one stream.
        parts.append(_rows(content, begin[whole:], target[whole:], rest, 1))
    found = [part for part in parts if part is not None]
    return np.concatenate(found).astype(np.uint32) if len(found) == len(parts) else None


def _rows(
    content: np.ndarray, begin: np.ndarray, target: np.ndarray, length: int, split: int
) -> np.ndarray | None:
    """Find the streams of blocks that are cut into `split`, each of `length` bytes."""
    rows = np.empty((len(begin), split, COLUMNS), np.int64)
    for number in range(split):
        if np.any((begin < 0) | (begin > len(content) - 4)):
            return None
        size = content[begin[:, np.newaxis] + np.arange(4)].view("<i4")[:, 0].astype(np.int64)
        begin = begin + 4
        if np.any((size < 1) | (size > len(content) - begin)):
            return None
        columns: tuple[Any, ...] = (begin, size, target + number * length, length)
        for column, values in enumerate(columns):
            rows[:, number, column] = values
        begin = begin + size
    return rows.reshape(-1, COLUMNS)
