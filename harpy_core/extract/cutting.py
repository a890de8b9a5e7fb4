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
        Offset of the first pixel in the window's first channel, (z, y, x).
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
    size: tuple[int, int, int],
    origin: tuple[int, int, int],
) -> Copies:
    """Return the pixels of the instances themselves, clipped to their windows.

    Parameters
    ----------
    windows : (slots,) int64
        Window of each instance of the tile; -1 for none.
    corner : (windows, 3) int64
        First z, y and x of each window.
    size
        Planes, rows and columns of a window.
    origin
        (z, y, x) of the tile's first pixel.
    """
    window = windows[runs.slot]
    wanted = window >= 0
    window, start = window[wanted], runs.start[wanted]
    length = runs.length[wanted].astype(np.int64)
    z, rest = np.divmod(start, runs.plane_stride)
    y, x = np.divmod(rest, runs.row_stride)
    depth, height, width = size
    plane = z + origin[0] - corner[window, 0]
    row = y + origin[1] - corner[window, 1]
    column = x + origin[2] - corner[window, 2]
    first = np.maximum(column, 0)
    last = np.minimum(column + length, width)
    keep = (plane >= 0) & (plane < depth) & (row >= 0) & (row < height) & (last > first)
    inside = (plane * height + row) * width + first
    return _sorted(window[keep], (start + first - column)[keep], inside[keep], (last - first)[keep])


def copies_of_windows(
    windows: np.ndarray,
    corner: np.ndarray,
    size: tuple[int, int, int],
    region: Region,
    row_stride: int,
    plane_stride: int,
) -> Copies:
    """Return all pixels of the tile that lie in some windows, background included.

    Parameters
    ----------
    windows
        Numbers of the windows to fill, ascending.
    corner : (windows, 3) int64
        First z, y and x of every window.
    size
        Planes, rows and columns of a window.
    region
        The tile.
    row_stride, plane_stride
        Pixels of a plane of the tile from one row to the next, and from one z to the next.
    """
    first, end = np.asarray(region).T
    low = np.maximum(corner[windows], first)
    high = np.minimum(corner[windows] + np.asarray(size), end)
    hit = np.all(high > low, axis=1)
    windows, low, extent = windows[hit], low[hit], (high - low)[hit]
    rows = extent[:, 0] * extent[:, 1]
    which = np.repeat(np.arange(len(windows)), rows)
    step = np.arange(len(which)) - np.repeat(np.cumsum(rows) - rows, rows)
    z, y = np.divmod(step, extent[which, 1])
    place = low[which]
    place[:, 0] += z
    place[:, 1] += y
    z, y, x = (place - first).T
    source = z * plane_stride + y * row_stride + x
    z, y, x = (place - corner[windows[which]]).T
    inside = (z * size[1] + y) * size[2] + x
    return Copies(windows[which], source, inside, extent[which, 2])
