"""Histograms of narrow integers, compiled with Numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from harpy_core.kernels.compiled_order import jit


@jit
def _count_all(plane: Any, bias: Any, out: Any) -> None:
    for z in range(plane.shape[0]):
        for y in range(plane.shape[1]):
            for x in range(plane.shape[2]):
                out[np.int32(plane[z, y, x]) + bias] += 1


@jit
def _count_runs(plane: Any, start: Any, length: Any, bias: Any, out: Any) -> None:
    for i in range(start.size):
        first = start[i]
        for p in range(first, first + length[i]):
            out[np.int32(plane[p]) + bias] += 1


def count_all(plane: np.ndarray, bias: int, out: np.ndarray) -> None:
    """Count the values of a plane; see `reference.count_all`."""
    _count_all(plane, np.int32(bias), out)


def count_runs(
    plane: np.ndarray, start: np.ndarray, length: np.ndarray, bias: int, out: np.ndarray
) -> None:
    """Count the values inside runs; see `reference.count_runs`."""
    _count_runs(plane, start, length, np.int32(bias), out)
