"""CRC-32C of any buffer, without a copy of it (11 ms for 100 MB; with a copy, 160 ms)."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np

SIZE = 4
"""Bytes of a checksum, which follows its content as in Zarr's codec ``crc32c``."""


def crc32c(content: Any, before: int = 0) -> int:
    """Checksum of the bytes of a buffer.

    Parameters
    ----------
    content
        Bytes, or a C-contiguous buffer.
    before
        Checksum of the bytes before them.
    """
    flat = np.frombuffer(content, np.uint8)
    found: int = google_crc32c.extend(before, flat)
    return found


def trailer(content: Any) -> bytes:
    """Checksum of a buffer as it is stored after it: four bytes, little-endian."""
    return crc32c(content).to_bytes(SIZE, "little")


def verified(content: Any) -> memoryview:
    """Return the content before a trailing checksum.

    Raises
    ------
    ValueError
        The checksum does not match, or there is none.
    """
    whole = memoryview(content)
    if len(whole) < SIZE:
        raise ValueError("it is cut off")
    inside, found = whole[:-SIZE], whole[-SIZE:]
    if trailer(inside) != found:
        raise ValueError("its checksum does not match")
    return inside
