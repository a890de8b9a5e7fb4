"""Runs of polygons: the pixels whose centres lie inside, row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from harpy_core.kernels.compiled_order import jit as _jit
from harpy_core.kernels.layout import LONGEST_RUN


@_jit
def _crossings(x: Any, y: Any, ring: Any, first: Any, last: Any, row: Any, found: Any) -> Any:
    """Places where the edges of some rings cross the centres of a row; their number."""
    count = 0
    middle = row + 0.5
    for r in range(first, last):
        before = ring[r + 1] - 1
        for here in range(ring[r], ring[r + 1]):
            # An edge has its lower end but not its upper one, so that corners count once.
            if (y[before] <= middle) != (y[here] <= middle):
                share = (middle - y[before]) / (y[here] - y[before])
                found[count] = x[before] + share * (x[here] - x[before])
                count += 1
            before = here
    found[:count].sort()
    return count


@_jit
def _scan(
    x: Any,
    y: Any,
    ring: Any,
    begin: Any,
    rows: Any,
    columns: Any,
    longest: Any,
    found: Any,
    out: Any,
) -> Any:
    """Write (polygon, row, first, length) of each run if there is room; the number of runs."""
    runs = 0
    for p in range(begin.size - 1):
        low = np.inf
        high = -np.inf
        for v in range(ring[begin[p]], ring[begin[p + 1]]):
            low = min(low, y[v])
            high = max(high, y[v])
        if not low <= high:
            continue
        top = max(rows[0], np.int64(math.ceil(max(low, -1.0) - 0.5)))
        for row in range(top, min(rows[1], np.int64(math.ceil(min(high, 2.0**31) - 0.5)) + 1)):
            count = _crossings(x, y, ring, begin[p], begin[p + 1], row, found)
            for i in range(0, count - 1, 2):
                start = np.int64(math.ceil(max(found[i], -1.0) - 0.5))
                end = np.int64(math.ceil(min(found[i + 1], 2.0**31) - 0.5))
                start = max(start, columns[0])
                end = min(end, columns[1])
                while start < end:
                    length = min(end - start, longest)
                    if runs < out.shape[0]:
                        out[runs, 0] = p
                        out[runs, 1] = row
                        out[runs, 2] = start
                        out[runs, 3] = length
                    runs += 1
                    start += length
    return runs


def scanned(
    x: np.ndarray,
    y: np.ndarray,
    ring: np.ndarray,
    begin: np.ndarray,
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> np.ndarray:
    """Find the runs of polygons in a rectangle.

    A pixel belongs to a polygon if its centre, (column + 0.5, row + 0.5), is inside an odd number
    of its rings. What is found of a row does not depend on the rectangle.

    Parameters
    ----------
    x, y : (vertices,) float64
        Corners, ring after ring.
    ring : (rings + 1,) int64
        Index of each ring's first corner, and the end.
    begin : (polygons + 1,) int64
        Index of each polygon's first ring, and the end.
    rows, columns
        First one and end of the rectangle.

    Returns
    -------
    (runs, 4) int64
        Polygon, row, first column and length of each run, the length at most `LONGEST_RUN`; by
        polygon and row.
    """
    most = int(np.diff(ring[begin]).max(initial=0))
    crossings = np.empty(most, np.float64)
    arguments = (x, y, ring, begin, rows, columns, LONGEST_RUN, crossings)
    found = np.empty((4096, 4), np.int64)
    count = _scan(*arguments, found)
    if count > len(found):
        found = np.empty((count, 4), np.int64)
        count = _scan(*arguments, found)
    return found[:count]
