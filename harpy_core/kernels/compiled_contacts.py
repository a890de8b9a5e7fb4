"""The kernels of contacts and overlaps compiled with Numba: see `reference_contacts`."""

from __future__ import annotations

from typing import Any

import numpy as np

from harpy_core.kernels.compiled_index import number
from harpy_core.kernels.compiled_order import jit as _jit

_32 = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@_jit
def _begin_of_rows(start: Any, height: Any, row_stride: Any, plane_stride: Any, begin: Any) -> None:
    """Index of the first run of each row, and the end."""
    for r in range(start.size):
        z = start[r] // plane_stride
        begin[z * height + (start[r] - z * plane_stride) // row_stride + 1] += 1
    for row in range(begin.size - 1):
        begin[row + 1] += begin[row]


@_jit
def _add(found: Any, key: Any, axis: Any, size: Any, a: Any, b: Any, along: Any, sides: Any) -> Any:
    key[found] = np.uint64(min(a, b)) << _32 | np.uint64(max(a, b))
    axis[found] = along
    size[found] = sides
    return found + 1


@_jit
def _between_rows(
    one: Any,
    other: Any,
    begin: Any,
    start: Any,
    length: Any,
    slot: Any,
    row_stride: Any,
    along: Any,
    found: Any,
    key: Any,
    axis: Any,
    size: Any,
) -> Any:
    """Find the contacts of the runs of two rows that lie side by side."""
    a = begin[one]
    b = begin[other]
    while a < begin[one + 1] and b < begin[other + 1]:
        first_a = start[a] % row_stride
        first_b = start[b] % row_stride
        last_a = first_a + length[a]
        last_b = first_b + length[b]
        sides = min(last_a, last_b) - max(first_a, first_b)
        if sides > 0 and slot[a] != slot[b]:
            found = _add(found, key, axis, size, slot[a], slot[b], along, sides)
        if last_a < last_b:
            a += 1
        else:
            b += 1
    return found


@_jit
def _find(
    start: Any,
    length: Any,
    slot: Any,
    begin: Any,
    height: Any,
    row_stride: Any,
    key: Any,
    axis: Any,
    size: Any,
) -> Any:
    found = 0
    rows = begin.size - 1
    for row in range(rows):
        for r in range(begin[row] + 1, begin[row + 1]):
            if start[r - 1] + length[r - 1] == start[r] and slot[r - 1] != slot[r]:
                found = _add(found, key, axis, size, slot[r - 1], slot[r], 2, 1)
        if row % height:
            found = _between_rows(
                row - 1, row, begin, start, length, slot, row_stride, 1, found, key, axis, size
            )
        if row >= height:
            found = _between_rows(
                row - height, row, begin, start, length, slot, row_stride, 0, found, key, axis, size
            )
    return found


@_jit
def _summed(place: Any, axis: Any, size: Any, out: Any) -> None:
    for i in range(place.size):
        out[place[i], axis[i]] += size[i]


def contacts(
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    rows: tuple[int, int],
    row_stride: int,
    plane_stride: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Sides of pixels that two instances share; see `reference_contacts.contacts`."""
    depth, height = rows
    begin = np.zeros(depth * height + 1, np.int64)
    _begin_of_rows(start, height, row_stride, plane_stride, begin)
    # A run ends at one other in its row, and each step along two rows ends a run of one of them.
    room = (3 if depth == 1 else 5) * len(start)
    key, axis, size = np.empty(room, np.uint64), np.empty(room, np.int8), np.empty(room, np.int32)
    found = _find(start, length, slot, begin, height, row_stride, key, axis, size)
    place, keys = number(key[:found])
    sides = np.zeros((len(keys), 3), np.int64)
    _summed(place, axis, size, sides)
    return np.stack([keys >> _32, keys & _LOW], axis=1).astype(np.int64), sides


@_jit
def _shared(
    start: Any,
    length: Any,
    slot: Any,
    other_start: Any,
    other_length: Any,
    other_slot: Any,
    longest: Any,
    key: Any,
    size: Any,
) -> Any:
    """Write the common pixels of all runs that have some, if there is room; their number."""
    found = 0
    begin = 0
    for a in range(start.size):
        last = start[a] + length[a]
        # Those of polygons overlap each other, so that a later one may end first.
        while begin < other_start.size and other_start[begin] + longest <= start[a]:
            begin += 1
        b = begin
        while b < other_start.size and other_start[b] < last:
            pixels = min(last, other_start[b] + other_length[b]) - max(start[a], other_start[b])
            if pixels > 0:
                if found < key.size:
                    key[found] = np.uint64(slot[a]) << _32 | np.uint64(other_slot[b])
                    size[found] = pixels
                found += 1
            b += 1
    return found


def overlaps(
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    other_start: np.ndarray,
    other_length: np.ndarray,
    other_slot: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that instances of two layers share; see `reference_contacts.overlaps`."""
    longest = int(other_length.max(initial=0))
    runs = (start, length, slot, other_start, other_length, other_slot, longest)
    room = len(start) + len(other_start)
    key, size = np.empty(room, np.uint64), np.empty(room, np.int64)
    found = _shared(*runs, key, size)
    if found > room:
        key, size = np.empty(found, np.uint64), np.empty(found, np.int64)
        _shared(*runs, key, size)
    place, keys = number(key[:found])
    pixels = np.bincount(place, size[:found], len(keys)).astype(np.int64)
    return np.stack([keys >> _32, keys & _LOW], axis=1).astype(np.int64), pixels
