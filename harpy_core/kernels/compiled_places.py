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
def _edge(offset: Any, begin: Any, flat: Any, out: Any) -> None:
    box = np.zeros(4096, np.bool_)
    for i in range(begin.size - 1):
        first = begin[i]
        last = begin[i + 1]
        depth = height = width = np.int64(0)
        for p in range(first, last):
            depth = max(depth, offset[0, p])
            height = max(height, offset[1, p])
            width = max(width, offset[2, p])
        # An empty border on all sides.
        width += 3
        plane = (height + 3) * width
        size = (depth + 3) * plane
        if size > box.size:
            box = np.zeros(2 * size, np.bool_)
        else:
            box[:size] = False
        for p in range(first, last):
            box[(offset[0, p] + 1) * plane + (offset[1, p] + 1) * width + offset[2, p] + 1] = True
        for p in range(first, last):
            at = (offset[0, p] + 1) * plane + (offset[1, p] + 1) * width + offset[2, p] + 1
            inside = box[at - 1] and box[at + 1] and box[at - width] and box[at + width]
            if not flat:
                inside = inside and box[at - plane] and box[at + plane]
            out[p] = not inside


def edge(offset: np.ndarray, begin: np.ndarray, flat: bool) -> np.ndarray:
    """Find the pixels that have a neighbour outside their instance; see `reference.edge`."""
    out = np.empty(offset.shape[1], np.bool_)
    _edge(offset, begin, flat, out)
    return out
