"""Buffers a thread keeps: fresh ones cost a page fault for every 4 KiB they are written to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


def _pageable(size: int) -> np.ndarray:
    return np.empty(size, np.uint8)


@dataclass(slots=True)
class _Held:
    """What one thread keeps: its buffers by purpose, how often each was asked for, their maker."""

    buffers: dict[str, np.ndarray] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    allocate: Callable[[int], np.ndarray] = _pageable


_local = threading.local()


def _held() -> _Held:
    held: _Held = _local.__dict__.setdefault("held", _Held())
    return held


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
    held = _held()
    wanted = size * dtype.itemsize
    buffer = held.buffers.get(purpose)
    if buffer is None or buffer.size < wanted:
        buffer = held.allocate(wanted)
        held.buffers[purpose] = buffer
    held.asked[purpose] = held.asked.get(purpose, 0) + 1
    return buffer[:wanted].view(dtype)


def allocate_with(allocate: Callable[[int], np.ndarray]) -> None:
    """Have this thread's buffers made by `allocate`, from bytes to a uint8 array of as many.

    A GPU reads memory that is pinned several times as fast. Buffers made before are let go, so
    that the next to be asked for are new.
    """
    held = _held()
    held.allocate = allocate
    held.buffers.clear()


def filling(array: np.ndarray) -> tuple[str, int] | None:
    """Which of this thread's buffers an array lies in, and the how manieth use of it that is.

    Pixels of the same filling are the same pixels: a buffer is filled once each time it is asked
    for. None where the array lies in other memory, of which nothing is known.
    """
    held = _held()
    address = array.__array_interface__["data"][0]
    for purpose, buffer in held.buffers.items():
        first = buffer.__array_interface__["data"][0]
        if first <= address < first + buffer.size:
            return purpose, held.asked[purpose]
    return None
