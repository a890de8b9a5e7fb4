"""Hash tables of labels compiled with Numba: rows of labels, and numbers of keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from harpy_core.kernels.compiled_order import jit as _jit

_32 = np.uint64(32)


@_jit
def slot_of(key: Any, keys: Any, slots: Any, fresh: Any) -> Any:
    """Slot of a label in an open-addressing table of 2^n places; a new label gets `fresh`."""
    mask = keys.size - 1
    # Fold first: labels that differ in their high bits alone would all fall on one place.
    mixed = (key ^ (key >> _32)) * np.uint64(0x9E3779B97F4A7C15)
    place = np.int64(mixed >> _32) & mask
    while slots[place] >= 0 and keys[place] != key:
        place = (place + 1) & mask
    if slots[place] < 0:
        keys[place] = key
        slots[place] = fresh
    return slots[place]


@_jit
def rehash(ids: Any, count: Any, size: Any) -> Any:
    """Build a table of `size` places (a power of two) for the first `count` labels."""
    keys = np.zeros(size, np.uint64)
    slots = np.full(size, -1, np.int64)
    for slot in range(count):
        slot_of(ids[slot], keys, slots, slot)
    return keys, slots


@_jit
def rows_of(ids: Any, keys: Any, rows: Any, known: Any, count: Any) -> Any:
    """Row of each label; new ones are appended to `known`, which has room for them."""
    found = np.empty(ids.size, np.int64)
    for i in range(ids.size):
        found[i] = slot_of(ids[i], keys, rows, count)
        if found[i] == count:
            known[count] = ids[i]
            count += 1
    return found, count


class LabelIndex:
    """Rows of labels, in the order in which they are first met; see `reference.LabelIndex`."""

    def __init__(self) -> None:
        self._keys, self._rows = rehash(np.empty(0, np.uint64), 0, 1024)
        self._ids = np.empty(512, np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def ids(self) -> np.ndarray:
        """Label of each row, (rows,) uint64."""
        return self._ids[: self._count]

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Row of each label; labels met for the first time get the next ones.

        Parameters
        ----------
        ids
            uint64, each at most once.
        """
        needed = self._count + len(ids)
        if needed > len(self._ids):
            self._ids = np.concatenate([self.ids, np.empty(max(needed, self._count), np.uint64)])
        if 2 * needed > len(self._keys):
            size = 1 << int(4 * needed - 1).bit_length()
            self._keys, self._rows = rehash(self._ids, self._count, size)
        rows, self._count = rows_of(ids, self._keys, self._rows, self._ids, self._count)
        return rows


@_jit
def _number_runs(
    value: Any, begin: Any, keys: Any, slots: Any, ids: Any, count: Any, slot: Any
) -> Any:
    """Number runs by label from `begin` on, until all have one or the table is half full."""
    for i in range(begin, value.size):
        if 2 * count >= keys.size:
            return i, count
        slot[i] = slot_of(value[i], keys, slots, count)
        if slot[i] == count:
            ids[count] = value[i]
            count += 1
    return value.size, count


@_jit
def number(value: Any) -> Any:
    """Number labels in the order of runs: the slot of each run, and the label of each slot."""
    slot = np.empty(value.size, np.int32)
    ids = np.empty(2048, np.uint64)
    keys, slots = rehash(ids, 0, 4096)
    done, count = _number_runs(value, 0, keys, slots, ids, 0, slot)
    while done < value.size:
        wider = np.empty(4 * ids.size, np.uint64)
        wider[:count] = ids[:count]
        ids = wider
        keys, slots = rehash(ids, count, 4 * keys.size)
        done, count = _number_runs(value, done, keys, slots, ids, count, slot)
    return slot, ids[:count].copy()
