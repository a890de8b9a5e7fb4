"""Sums by group and edges of instances, compiled with Numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from harpy_core.kernels.compiled_order import jit


@jit
def _sum_by(values: Any, group: Any, out: Any) -> None:
    for i in range(values.size):
        out[group[i]] += values[i]


def sum_by(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sum float64 values by group; see `reference.sum_by`."""
    out = np.zeros(groups)
    _sum_by(values, group, out)
    return out


@jit
def _before(offset: Any, p: Any, z: Any, y: Any, x: Any) -> Any:
    """Whether a pixel comes before a place, by z, y and x."""
    if offset[0, p] != z:
        return offset[0, p] < z
    if offset[1, p] != y:
        return offset[1, p] < y
    return offset[2, p] < x


@jit
def _count_neighbors(
    offset: Any, begin: Any, down: Any, along: Any, right: Any, found: Any
) -> None:
    """Count the neighbours of each pixel a step before it and behind it, in its instance."""
    for i in range(begin.size - 1):
        last = begin[i + 1]
        # The place behind the next pixel comes later, as the pixels do.
        q = begin[i]
        for p in range(begin[i], last):
            z = offset[0, p] + down
            y = offset[1, p] + along
            x = offset[2, p] + right
            while q < last and _before(offset, q, z, y, x):
                q += 1
            if q < last and offset[0, q] == z and offset[1, q] == y and offset[2, q] == x:
                found[p] += 1
                found[q] += 1


def edge(offset: np.ndarray, begin: np.ndarray, flat: bool) -> np.ndarray:
    """Find the pixels that have a neighbour outside their instance; see `reference.edge`."""
    steps = [(0, 0, 1), (0, 1, 0), *([] if flat else [(1, 0, 0)])]
    found = np.zeros(offset.shape[1], np.uint8)
    for step in steps:
        _count_neighbors(offset, begin, *step, found)
    return found < 2 * len(steps)
