"""Buffers a thread keeps: fresh ones cost a page fault for every 4 KiB they are written to."""

from __future__ import annotations

import threading

import numpy as np

_local = threading.local()


def scratch(purpose: str, size: int, dtype: np.dtype) -> np.ndarray:
    """A flat buffer of this thread, valid until the thread asks for the same purpose again.

    Parameters
    ----------
    purpose
        What it is for; buffers of different purposes never overlap.
    size
        Items. The buffer grows to the largest size asked for and is not given back.
    dtype
        Type of the items.
    """
    held: dict[str, np.ndarray] = _local.__dict__.setdefault("held", {})
    wanted = size * dtype.itemsize
    buffer = held.get(purpose)
    if buffer is None or buffer.size < wanted:
        buffer = np.empty(wanted, np.uint8)
        held[purpose] = buffer
    return buffer[:wanted].view(dtype)
