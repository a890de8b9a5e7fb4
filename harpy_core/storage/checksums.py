"""CRC-32C, of any buffer and without a copy of it (11 ms for 100 MB; with one, 160 ms)."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np

SIZE = 4
"""Bytes that a checksum takes behind what it is of, as Zarr's codec ``crc32c`` has it."""


def crc32c(content: Any, before: int = 0) -> int:
    """Checksum of the bytes of a buffer.

    Parameters
    ----------
    content
        Bytes, or a C-contiguous buffer.
    before
        Checksum of what stands before them.
    """
    flat = np.frombuffer(content, np.uint8)
    found: int = google_crc32c.extend(before, flat)
    return found


def trailer(content: Any) -> bytes:
    """Checksum of a buffer as it stands behind it: four bytes, little-endian."""
    return crc32c(content).to_bytes(SIZE, "little")


def verified(content: Any) -> memoryview:
    """What stands before a trailing checksum.

    Raises
    ------
    ValueError
        It is not what the checksum was made of, or there is none.
    """
    whole = memoryview(content)
    if len(whole) < SIZE:
        raise ValueError("it is cut off")
    inside, found = whole[:-SIZE], whole[-SIZE:]
    if trailer(inside) != found:
        raise ValueError("its checksum does not match")
    return inside
