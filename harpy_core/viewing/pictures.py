"""Small pictures of instances in the colours of the channels that are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from harpy_core.extract.crops import Crops
from harpy_core.viewing.fields import Measured, as_bytes
from harpy_core.viewing.levels import Levels
from harpy_core.viewing.thumbnails import thumbnails

_ROWS = 256
"""Crops that are read together: neighbours are asked for together."""


class Pictures:
    """Pictures of instances, from their crops or, without any, from windows of the image.

    Parameters
    ----------
    measured
        Labels and centroids of the instances.
    levels
        The image.
    names
        Names of its channels.
    windows
        Values shown black and white of the channels that are drawn, by number.
    colours
        Red, green and blue of each of them.
    crops
        Crops of the image; None takes windows.
    window
        Side of such a window, in pixels.

    Attributes
    ----------
    side
        Rows and columns of a picture.
    """

    def __init__(
        self,
        measured: Measured,
        levels: Levels,
        names: Sequence[str],
        windows: Mapping[int, tuple[float, float]],
        colours: Sequence[tuple[int, int, int]],
        crops: Crops | None,
        window: int,
    ) -> None:
        self._measured, self._levels, self._crops = measured, levels, crops
        drawn = list(zip(windows.items(), colours, strict=False))
        if crops is not None:
            drawn = [one for one in drawn if names[one[0][0]] in crops.channels]
            self._in_crops = [crops.channels.index(names[number]) for (number, _), _ in drawn]
        self._drawn = drawn
        self._read = lru_cache(maxsize=16)(self._thumbnails)
        self.side = (window, window) if crops is None else self._read(0)[1].shape[2:]

    def of(self, label: int) -> bytes | None:
        """Make the picture of an instance: rows of red, green, blue and 255; None without one."""
        planes = self._window(label) if self._crops is None else self._crop(label)
        if planes is None:
            return None
        picture = np.zeros((*self.side, 4), np.float64)
        for plane, ((_, ends), colour) in zip(planes, self._drawn, strict=True):
            picture[..., :3] += as_bytes(plane, ends)[..., np.newaxis] / 255 * np.array(colour)
        picture[..., 3] = 255
        return np.minimum(picture, 255).astype(np.uint8).tobytes()

    def _window(self, label: int) -> list[np.ndarray] | None:
        place = np.searchsorted(self._measured.ids, label)
        if place == len(self._measured.ids) or self._measured.ids[place] != label:
            return None
        x, y = np.rint(self._measured.centroids[place]).astype(int).tolist()
        height, width = self.side
        corner = y - height // 2, x - width // 2
        return [self._levels.window(number, *corner, *self.side) for (number, _), _ in self._drawn]

    def _crop(self, label: int) -> np.ndarray | None:
        assert self._crops is not None
        found = np.flatnonzero(self._crops.instance_id == label)
        if not len(found):
            return None
        ids, pixels = self._read(int(found[0]) // _ROWS)
        return pixels[np.searchsorted(ids, label)]

    def _thumbnails(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        assert self._crops is not None
        ids = self._crops.instance_id[number * _ROWS : (number + 1) * _ROWS]
        small = thumbnails(self._crops, ids, self._in_crops)
        return small.ids, small.pixels
