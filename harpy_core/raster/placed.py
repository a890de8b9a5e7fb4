"""Labels of another resolution or place, on the pixels of an image as they are read.

A pixel of the image has the label that lies at its centre; where there is none, it is background.
Nothing is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harpy_core.raster.grown import LabelView
from harpy_core.tiles.grid import Region, regular_edges

_TILE = 2048
"""Side of the tiles where those of the labels have no counterpart."""


class PlacedLabels(LabelView):
    """Labels on the pixels of an image; `harpy_core.place_labels` makes them.

    Parameters
    ----------
    array, reader
        Labels, and a reader of them.
    shape
        Pixels of the image along the labels' axes.
    matrix : (4, 4) float64
        From places z, y and x in the labels to those in the image, where the first pixel of both
        reaches from 0 to 1.
    """

    def __init__(self, array: Any, reader: Any, shape: Sequence[int], matrix: np.ndarray) -> None:
        super().__init__([array], [reader])
        self.shape, self.matrix = tuple(int(n) for n in shape), np.asarray(matrix, np.float64)
        given = getattr(array, "chunks", None)
        sides = (_TILE,) * self.ndim
        if given is not None and self.upright:
            factors = np.diagonal(self.matrix)[3 - self.ndim : 3]
            sides = tuple(math.ceil(n * f) for n, f in zip(given, factors, strict=True))
        self.chunks = tuple(min(max(a, 1), n) for a, n in zip(sides, self.shape, strict=True))

    @property
    def upright(self) -> bool:
        """Whether each axis is scaled and shifted alone."""
        return is_upright(self.matrix)

    @property
    def working(self) -> int:
        """Bytes for each pixel of a tile while it is made."""
        if not self.upright:
            return 2 * self.dtype.itemsize + 7 * 8
        finer = max(1.0, 1 / abs(float(np.prod(np.diagonal(self.matrix)[:3]))))
        return math.ceil((1 + finer) * self.dtype.itemsize)

    def facts(self) -> list[Any]:
        """Return what makes these labels others than the array's."""
        return ["placed", list(self.shape), self.matrix.tolist()]

    def reader(self, *inner: Any) -> PlacedReader:
        """Return a reader of the labels, from one of those that are placed."""
        whole = self.shape if self.ndim == 3 else (1, *self.shape)
        chunks = self.chunks if self.ndim == 3 else (1, *self.chunks)
        return PlacedReader(inner[0], whole, chunks, self.matrix)


def is_upright(matrix: np.ndarray) -> bool:
    """Whether a matrix scales and shifts each axis alone."""
    linear = matrix[:3, :3]
    return bool((linear == np.diag(np.diagonal(linear))).all())


class PlacedReader:
    """Reader of labels of another resolution or place."""

    def __init__(
        self, inner: Any, shape: tuple[int, ...], chunks: tuple[int, ...], matrix: np.ndarray
    ) -> None:
        self._inner, self._chunks, self._matrix = inner, chunks, matrix
        self.shape, self.dtype = shape, inner.dtype
        self.edges = regular_edges(shape, chunks)

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the region itself."""
        return tuple(b - a for a, b in region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Any]:
        """Take the label at the centre of each pixel."""
        out[...] = 0
        places, there = self._places(region)
        covered = _covered(places, there)
        if covered is None:
            return ()
        # A buffer of its own: these may be labels that are made of others.
        buffer = np.empty(self._inner.layout(covered), self.dtype)
        gaps: Sequence[Any] = self._inner.read(covered, buffer)
        firsts = [first for first, _ in covered]
        if is_upright(self._matrix):
            here = np.ix_(*there)
            taken = np.ix_(*(p[t] - a for p, t, a in zip(places, there, firsts, strict=True)))
            out[here] = buffer[taken]
        else:
            taken = tuple(p[there[0]] - a for p, a in zip(places, firsts, strict=True))
            out[there[0]] = buffer[taken]
        return gaps

    def stored(self, region: Region) -> None:
        """Return None: nothing is stored."""

    def detach(self, region: Region) -> PlacedReader:
        """Return a reader of this region that is cheap to send to another process."""
        covered = _covered(*self._places(region)) or ((0, 1),) * 3
        inner = self._inner.detach(covered)
        return PlacedReader(inner, self.shape, self._chunks, self._matrix)

    def _places(self, region: Region) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Pixels of the labels at the centres of those of a region, and which of them are there.

        Along each axis alone or, where axes are mixed, of all pixels.
        """
        back = np.linalg.inv(self._matrix)
        sizes = self._inner.shape
        if is_upright(self._matrix):
            spans = zip(region, np.diagonal(self._matrix)[:3], self._matrix[:3, 3], strict=True)
            places = [_along(a, b, scale, shift) for (a, b), scale, shift in spans]
            return places, [(p >= 0) & (p < n) for p, n in zip(places, sizes, strict=True)]
        grid = np.ogrid[tuple(slice(a, b) for a, b in region)]
        centres = [axis + 0.5 for axis in grid]
        found = [
            np.floor(sum((row[k] * centres[k] for k in range(3)), row[3])).astype(np.int64)
            for row in back[:3]
        ]
        there = np.ones(found[0].shape, bool)
        for place, n in zip(found, sizes, strict=True):
            there &= (place >= 0) & (place < n)
        return found, [there]


def _along(first: int, last: int, scale: float, shift: float) -> np.ndarray:
    """Pixels of the labels at the centres of those of the image, along an axis."""
    pixels = np.arange(first, last)
    if scale >= 1 and scale == round(scale) and shift == round(shift):
        found: np.ndarray = (pixels - int(shift)) // int(scale)
        return found
    return np.floor((pixels + 0.5 - shift) / scale).astype(np.int64)


def _covered(places: Sequence[np.ndarray], there: Sequence[np.ndarray]) -> Region | None:
    """Region of the labels that pixels of a region lie in; None if they lie in none."""
    masks = there if len(there) == 3 else [there[0]] * 3
    if not all(mask.any() for mask in masks):
        return None
    found = [place[mask] for place, mask in zip(places, masks, strict=True)]
    return tuple((int(place.min()), int(place.max()) + 1) for place in found)
