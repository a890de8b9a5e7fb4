"""Several encoded pieces in one file, behind an index: the layout of a Zarr shard.

The index holds the offset and length of each piece as little-endian unsigned 64-bit integers, all
bits set where a piece is missing, and is followed by its own CRC-32C (Zarr v3 specification,
``sharding_indexed`` codec with the index at the end).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import google_crc32c
import numpy as np

Piece = bytes | memoryview | None
_MISSING = np.uint64(2**64 - 1)
_ENTRY = 16
_CHECKSUM = 4


def packed(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The parts of a file that holds some pieces, in order; None is a piece that is missing."""
    index = np.full((len(pieces), 2), _MISSING, "<u8")
    offset = 0
    for entry, piece in zip(index, pieces, strict=True):
        if piece is not None:
            entry[:] = offset, len(piece)
            offset += len(piece)
            yield piece
    content = index.tobytes()
    yield content
    yield int(google_crc32c.value(content)).to_bytes(_CHECKSUM, "little")


def index_bytes(count: int) -> int:
    """Size of the index of so many pieces."""
    return count * _ENTRY + _CHECKSUM


def piece_of(file: Any, number: int, count: int, at_start: bool = False) -> memoryview | None:
    """One of the pieces of a file; None where it is missing.

    Parameters
    ----------
    file
        Bytes of the whole file, or a map of it.
    number
        Which piece.
    count
        Pieces that the file has room for.
    at_start
        Whether the index stands before the pieces.

    Raises
    ------
    ValueError
        The file is cut off, or its index is damaged.
    """
    content = memoryview(file)
    size = index_bytes(count)
    if len(content) < size:
        raise ValueError("it is cut off")
    index = content[:size] if at_start else content[-size:]
    entries, checksum = index[:-_CHECKSUM], index[-_CHECKSUM:]
    if google_crc32c.value(bytes(entries)) != int.from_bytes(checksum, "little"):
        raise ValueError("the checksum of its index does not match")
    offset, length = np.frombuffer(entries, "<u8")[2 * number : 2 * number + 2].tolist()
    if offset == length == int(_MISSING):
        return None
    if offset + length > len(content):
        raise ValueError("it is cut off")
    return content[offset : offset + length]
