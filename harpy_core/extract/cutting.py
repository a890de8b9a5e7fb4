"""Stretches of a tile's pixels, and their places in its windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harpy_core.tiles.grid import Region
from harpy_core.tiles.runs import RunTable


@dataclass(frozen=True, slots=True)
class Copies:
    """Stretches of pixels to copy, each within one row.

    Attributes
    ----------
    window : (n,) int64
        Window that each goes to; ascending.
    source : (n,) int64
        Offset of the first pixel in a plane of the tile.
    inside : (n,) int64
        Offset of the first pixel in the window's first channel, (z, diameter, diameter).
    length : (n,) int64
        Number of pixels.
    """

    window: np.ndarray
    source: np.ndarray
    inside: np.ndarray
    length: np.ndarray

    @property
    def size(self) -> int:
        """Number of stretches."""
        return len(self.length)

    def among(self, first: int, last: int) -> Copies:
        """Return those of the windows from `first` up to `last`."""
        a, b = np.searchsorted(self.window, [first, last])
        return Copies(self.window[a:b], self.source[a:b], self.inside[a:b], self.length[a:b])


def _sorted(window: np.ndarray, *columns: np.ndarray) -> Copies:
    order = np.argsort(window, kind="stable")
    return Copies(window[order], *(column[order] for column in columns))


def copies_of_runs(
    runs: RunTable,
    windows: np.ndarray,
    corner: np.ndarray,
    diameter: int,
    origin: tuple[int, int, int],
) -> Copies:
    """Return the pixels of the instances themselves, clipped to their windows.

    Parameters
    ----------
    windows : (slots,) int64
        Window of each instance of the tile; -1 for none.
    corner : (windows, 2) int64
        First y and x of each window.
    origin
        (z, y, x) of the tile's first pixel.
    """
    window = windows[runs.slot]
    wanted = window >= 0
    window, start = window[wanted], runs.start[wanted]
    length = runs.length[wanted].astype(np.int64)
    z, rest = np.divmod(start, runs.plane_stride)
    y, x = np.divmod(rest, runs.row_stride)
    row = y + origin[1] - corner[window, 0]
    column = x + origin[2] - corner[window, 1]
    first = np.maximum(column, 0)
    last = np.minimum(column + length, diameter)
    keep = (row >= 0) & (row < diameter) & (last > first)
    inside = ((z + origin[0]) * diameter + row) * diameter + first
    return _sorted(window[keep], (start + first - column)[keep], inside[keep], (last - first)[keep])


def copies_of_windows(
    windows: np.ndarray,
    corner: np.ndarray,
    diameter: int,
    region: Region,
    row_stride: int,
    plane_stride: int,
) -> Copies:
    """Return all pixels of the tile that lie in some windows, background included.

    Parameters
    ----------
    windows
        Numbers of the windows to fill, ascending.
    corner : (windows, 2) int64
        First y and x of every window.
    region
        The tile.
    row_stride, plane_stride
        Pixels of a plane of the tile from one row to the next, and from one z to the next.
    """
    (z0, z1), (y0, y1), (x0, x1) = region
    top, left = corner[windows, 0], corner[windows, 1]
    low_y, high_y = np.maximum(top, y0), np.minimum(top + diameter, y1)
    low_x, high_x = np.maximum(left, x0), np.minimum(left + diameter, x1)
    hit = (high_y > low_y) & (high_x > low_x)
    windows, top, left = windows[hit], top[hit], left[hit]
    low_y, high_y, low_x, high_x = low_y[hit], high_y[hit], low_x[hit], high_x[hit]
    rows = (high_y - low_y) * (z1 - z0)
    which = np.repeat(np.arange(len(windows)), rows)
    step = np.arange(len(which)) - np.repeat(np.cumsum(rows) - rows, rows)
    z, y = np.divmod(step, (high_y - low_y)[which])
    y = y + low_y[which]
    x = low_x[which]
    source = z * plane_stride + (y - y0) * row_stride + (x - x0)
    inside = ((z + z0) * diameter + y - top[which]) * diameter + x - left[which]
    return Copies(windows[which], source, inside, (high_x - low_x)[which])
