"""Buffers that a thread keeps: fresh ones cost a page fault for every 4 KiB written to them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


def _pageable(size: int) -> np.ndarray:
    return np.empty(size, np.uint8)


@dataclass(slots=True)
class _Held:
    """The buffers of one thread by purpose, how often each was asked for, and their allocator."""

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
        Name of its use; buffers of different purposes never overlap.
    size
        Number of items. The buffer grows to the largest size asked for and is not given back.
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
    """Make this thread's buffers with `allocate`, which returns that many bytes as uint8.

    A GPU reads pinned memory several times as fast. Buffers made before are released, so that
    those asked for next are new.
    """
    held = _held()
    held.allocate = allocate
    held.buffers.clear()


def filling(array: np.ndarray) -> tuple[str, int] | None:
    """Name of this thread's buffer that an array lies in, and how often it has been asked for.

    Equal answers mean equal pixels: a buffer is filled once each time it is asked for. None where
    the array lies in other memory, about which nothing is known.
    """
    held = _held()
    address = array.__array_interface__["data"][0]
    for purpose, buffer in held.buffers.items():
        first = buffer.__array_interface__["data"][0]
        if first <= address < first + buffer.size:
            return purpose, held.asked[purpose]
    return None
