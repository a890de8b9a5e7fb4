"""Interpolation of the pixels of a window, compiled with Numba: the sums of `reference_sampling`.

Every product and sum is that of the reference, in its order: a pixel is the same to the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harpy_core.kernels.compiled_order import jit

Sides = tuple[int, int]


@jit
def _nearest(along: Any, side: Any) -> Any:
    return min(max(np.int64(math.floor(along)), 0), side - 1)


@jit
def _place(
    size: Any, span: Any, step: Any, inside: Any, turn: Any, nearest: Any, pixel: Any, weight: Any
) -> Any:
    """Fill the terms of all samples; return whether each has a weight."""
    rows, columns = size
    height, width = span
    sine, cosine = turn
    used = np.zeros(len(weight), np.bool_)
    share = np.empty(4)
    at = np.empty(4, np.int64)
    for i in range(rows):
        for j in range(columns):
            y, x = np.float64(i - rows // 2), np.float64(j - columns // 2)
            along_y = (x * sine + y * cosine) * step[0] + height // 2
            along_x = (x * cosine - y * sine) * step[1] + width // 2
            row, column = _nearest(along_y + 0.5, height), _nearest(along_x + 0.5, width)
            here = i * columns + j
            nearest[here] = row * width + column
            for sample in range(inside * inside):
                down = (sample // inside + 0.5) / inside - 0.5
                right = (sample % inside + 0.5) / inside - 0.5
                y, x = i - rows // 2 + down, j - columns // 2 + right
                along_y = (x * sine + y * cosine) * step[0] + height // 2
                along_x = (x * cosine - y * sine) * step[1] + width // 2
                row, column = _nearest(along_y, height), _nearest(along_x, width)
                below, beside = min(row + 1, height - 1), min(column + 1, width - 1)
                part_y, part_x = along_y - row, along_x - column
                at[0], share[0] = row * width + column, (1 - part_y) * (1 - part_x)
                at[1], share[1] = row * width + beside, (1 - part_y) * part_x
                at[2], share[2] = below * width + column, part_y * (1 - part_x)
                at[3], share[3] = below * width + beside, part_y * part_x
                for corner in range(4):
                    term = 4 * sample + corner
                    used[term] |= share[corner] != 0
                    pixel[term, here] = at[corner]
                    weight[term, here] = share[corner] / (inside * inside)
    return used


def samples(
    size: Sides,
    span: Sides,
    step: tuple[float, float],
    inside: int,
    turn: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Place the samples of a crop in the window that it is made of; see `reference_sampling`."""
    terms, pixels = 4 * inside**2, size[0] * size[1]
    nearest = np.empty(pixels, np.int64)
    pixel, weight = np.empty((terms, pixels), np.int64), np.empty((terms, pixels))
    used = _place(size, span, step, inside, turn, nearest, pixel, weight)
    return (nearest, pixel, weight) if used.all() else (nearest, pixel[used], weight[used])


@jit
def _interpolate(planes: Any, pixel: Any, weight: Any, out: Any) -> None:
    for plane in range(planes.shape[0]):
        for term in range(pixel.shape[0]):
            for i in range(pixel.shape[1]):
                out[plane, i] += np.float64(planes[plane, pixel[term, i]]) * weight[term, i]


def interpolate(planes: np.ndarray, pixel: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate planes of a window, (planes, pixels), in float64; see `reference_sampling`."""
    out = np.zeros((len(planes), pixel.shape[1]))
    _interpolate(planes, pixel, weight, out)
    return out
