"""Several encoded pieces in one file, behind an index: the layout of a Zarr shard.

The index holds the offset and length of each piece as little-endian unsigned 64-bit integers, with
all bits set where a piece is missing, and is followed by its own CRC-32C (Zarr v3 specification,
``sharding_indexed`` codec with the index at the end).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harpy_core.storage.checksums import SIZE, trailer, verified

Parts = Sequence[bytes]
_MISSING = np.uint64(2**64 - 1)
_ENTRY = 16


def packed(pieces: Sequence[Parts | None]) -> Iterator[bytes]:
    """The parts of a file that holds pieces, each of several parts; None is a missing piece."""
    index = np.full((len(pieces), 2), _MISSING, "<u8")
    offset = 0
    for entry, piece in zip(index, pieces, strict=True):
        if piece is not None:
            size = sum(map(len, piece))
            entry[:] = offset, size
            offset += size
            yield from piece
    content = index.tobytes()
    yield content
    yield trailer(content)


def index_bytes(count: int) -> int:
    """Bytes of the index of `count` pieces."""
    return count * _ENTRY + SIZE


def span_of(file: Any, number: int, count: int, at_start: bool = False) -> tuple[int, int] | None:
    """Return the first byte and the size of a piece of a file; None where it is missing.

    Parameters
    ----------
    file
        Bytes of the whole file, or a map of it.
    number
        Number of the piece, from 0.
    count
        Number of pieces that the file has room for.
    at_start
        Whether the index comes before the pieces.

    Raises
    ------
    ValueError
        The file is cut off, or its index is damaged.
    """
    size = index_bytes(count)
    if len(file) < size:
        raise ValueError("it is cut off")
    index = file[:size] if at_start else file[-size:]
    try:
        entries = verified(index)
    except ValueError as error:
        raise ValueError("the checksum of its index does not match") from error
    offset, length = np.frombuffer(entries, "<u8")[2 * number : 2 * number + 2].tolist()
    if offset == length == int(_MISSING):
        return None
    if offset + length > len(file):
        raise ValueError("it is cut off")
    return offset, length


def piece_of(file: Any, number: int, count: int, at_start: bool = False) -> memoryview | None:
    """Return one of the pieces of a file, like `span_of`, as a view of it."""
    span = span_of(file, number, count, at_start)
    return None if span is None else memoryview(file)[span[0] : sum(span)]
