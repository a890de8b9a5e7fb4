"""The nearest label of every pixel, up to a distance: exact, with ties decided.

Squares of distances are integers. The nearest label along x, then the nearest of those along y,
then of those along z, is the nearest of all; of several at one distance each step takes the
smallest label. This is the exact transform of Saito and Toriwaki (1994), cut off at a distance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harpy_core.kernels.compiled_order import jit as _jit

_FAR = np.int32(1 << 30)


@_jit
def _along_rows(labels: Any, reach: Any, far: Any, nearest: Any) -> None:
    for row in range(labels.shape[0]):
        last = -1
        for x in range(labels.shape[1]):
            if labels[row, x] != 0:
                last = x
            if last >= 0 and x - last <= reach:
                far[row, x] = (x - last) * (x - last)
                nearest[row, x] = labels[row, last]
        last = -1
        for x in range(labels.shape[1] - 1, -1, -1):
            if labels[row, x] != 0:
                last = x
            if last >= 0 and last - x <= reach:
                here = (last - x) * (last - x)
                if here < far[row, x] or (
                    here == far[row, x] and labels[row, last] < nearest[row, x]
                ):
                    far[row, x] = here
                    nearest[row, x] = labels[row, last]


@_jit
def _across_rows(far: Any, nearest: Any, reach: Any, wide_far: Any, wide_nearest: Any) -> None:
    """Take the nearest of the rows up to `reach` before and after; (planes, rows, x)."""
    planes, rows, width = far.shape
    for plane in range(planes):
        for row in range(rows):
            for step in range(-min(reach, row), min(reach, rows - 1 - row) + 1):
                square = step * step
                for x in range(width):
                    here = far[plane, row + step, x] + square
                    if here < wide_far[plane, row, x] or (
                        here == wide_far[plane, row, x]
                        and here < _FAR
                        and nearest[plane, row + step, x] < wide_nearest[plane, row, x]
                    ):
                        wide_far[plane, row, x] = here
                        wide_nearest[plane, row, x] = nearest[plane, row + step, x]


def grown(labels: np.ndarray, inner: float | None, outer: float) -> np.ndarray:
    """Labels of the pixels that are no farther than a distance from an instance.

    Parameters
    ----------
    labels
        (z, y, x), integer and non-negative; 0 is background.
    inner
        Distance that a pixel must be farther than; None keeps the instances themselves.
    outer
        Longest distance, in pixels.

    Returns
    -------
    Array like `labels`: the nearest label of each such pixel, the smallest of several; 0 elsewhere.
    """
    depth, height, width = labels.shape
    reach = math.floor(outer)
    own = labels.astype(np.uint32 if labels.itemsize <= 4 else np.uint64, copy=False)
    far: np.ndarray = np.full(own.shape, _FAR)
    nearest = np.zeros_like(own)
    rows = (depth * height, width)
    _along_rows(own.reshape(rows), reach, far.reshape(rows), nearest.reshape(rows))
    # Along y within each plane, then along z: there a plane is a row.
    for planes, lines, pixels in ((depth, height, width), (1, depth, height * width)):
        if lines > 1:
            shape = (planes, lines, pixels)
            wide_far, wide = np.full(shape, _FAR), np.zeros(shape, own.dtype)
            _across_rows(far.reshape(shape), nearest.reshape(shape), reach, wide_far, wide)
            far, nearest = wide_far, wide
    squares = far.reshape(labels.shape)
    kept = squares <= math.floor(outer * outer)
    if inner is not None:
        kept &= squares > math.floor(inner * inner)
    return np.where(kept, nearest.reshape(labels.shape), 0).astype(labels.dtype)
