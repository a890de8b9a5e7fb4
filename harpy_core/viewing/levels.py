"""Tiles of an image or of labels as they are shown, near by and from further away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from threading import Lock
from typing import Any

import numpy as np

TILES = (256, 2048)
"""Sides of a tile, in pixels, at least and at most; each is a power of two."""

WHOLE = 2**28
"""Pixels of a plane that is read whole to be shown from further away."""

AT_ONCE = 2**26
"""Pixels of a channel that one tile of a larger plane stands for, at most."""

_BLOCK = 2**26
"""Bytes of a block, at most, where it holds several channels."""

_KEPT = 2**29
"""Bytes of blocks that are kept to be used again."""


class Levels:
    """Levels of the middle plane of an array: each has every second pixel of the one before.

    Pixels are read when a tile is asked for, and not again while they are kept.

    Parameters
    ----------
    array
        Image, (c, y, x) or (c, z, y, x), or labels, (y, x) or (z, y, x).
    chunks
        Its chunks: channels of one chunk are read together.
    channels
        Number of channels; None for labels.
    dtype
        Type to convert pixels to.

    Attributes
    ----------
    side
        Side of a tile, in pixels.
    shapes
        Rows and columns of each level; the last one is a single tile.
    """

    def __init__(
        self, array: Any, chunks: Sequence[int], channels: int | None, dtype: np.dtype
    ) -> None:
        self._array, self.channels, self.dtype = array, channels, np.dtype(dtype)
        at_least, at_most = TILES
        stored = min(max(min(chunks[-2:]), at_least), at_most)
        self.side = 2 ** (stored.bit_length() - 1)
        plane = self.side**2 * self.dtype.itemsize
        self._together = 1 if channels is None else min(chunks[0], max(_BLOCK // plane, 1))
        height, width = array.shape[-2:]
        self.shapes = [(height, width)]
        while max(height, width) > self.side:
            height, width = -(-height // 2), -(-width // 2)
            self.shapes.append((height, width))
        self._kept: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()
        self._size, self._lock = 0, Lock()

    def is_shown(self, level: int) -> bool:
        """Whether tiles of a level are made: not where one would take a large part of the image."""
        height, width = self.shapes[0]
        return height * width <= WHOLE or self.side**2 * 4**level <= AT_ONCE

    def tile(self, level: int, channel: int, row: int, column: int) -> np.ndarray | None:
        """Make a tile, (y, x), smaller at the image's edge; None if its level is not shown."""
        if not self.is_shown(level):
            return None
        with self._lock:
            group, place = divmod(channel, self._together)
            return self._block(level, group, row, column)[place]

    def window(self, channel: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Make a window of the first level; pixels outside the image are 0."""
        out = np.zeros((height, width), self.dtype)
        bottom, right = (
            min(a + n, m) for a, n, m in zip((top, left), out.shape, self.shapes[0], strict=True)
        )
        rows = range(max(top, 0) // self.side, -(-bottom // self.side))
        columns = range(max(left, 0) // self.side, -(-right // self.side))
        for row, column in product(rows, columns):
            pixels = self.tile(0, channel, row, column)
            assert pixels is not None
            y, x = row * self.side, column * self.side
            first, start = max(top, y), max(left, x)
            last, end = min(bottom, y + pixels.shape[0]), min(right, x + pixels.shape[1])
            out[first - top : last - top, start - left : end - left] = pixels[
                first - y : last - y, start - x : end - x
            ]
        return out

    def _block(self, level: int, group: int, row: int, column: int) -> np.ndarray:
        key = (level, group, row, column)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._read(group, row, column) if level == 0 else self._halved(*key)
        self._kept[key] = made
        self._size += made.nbytes
        while self._size > _KEPT and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1].nbytes
        return made

    def _read(self, group: int, row: int, column: int) -> np.ndarray:
        across: list[Any] = [
            slice(n * self.side, min((n + 1) * self.side, end))
            for n, end in zip((row, column), self.shapes[0], strict=True)
        ]
        before: list[Any] = []
        if self.channels is not None:
            first = group * self._together
            before = [slice(first, min(first + self._together, self.channels))]
        if self._array.ndim - len(before) == 3:
            before.append(self._array.shape[-3] // 2)
        found = np.asarray(self._array[tuple(before + across)]).astype(self.dtype)
        return found if self.channels is not None else found[np.newaxis]

    def _halved(self, level: int, group: int, row: int, column: int) -> np.ndarray:
        down, across = (
            min(self.side, n - at * self.side)
            for n, at in zip(self.shapes[level], (row, column), strict=True)
        )
        half, out = self.side // 2, None
        for i, j in product(range(2), range(2)):
            if i * half >= down or j * half >= across:
                continue
            part = self._block(level - 1, group, 2 * row + i, 2 * column + j)[:, ::2, ::2]
            if out is None:
                out = np.empty((len(part), down, across), self.dtype)
            out[:, i * half : i * half + half, j * half : j * half + half] = part
        assert out is not None
        return out
