"""Labels made of other labels as they are read: grown, rings around them, without others.

Nothing is stored. A tile of grown labels is made of a tile that is larger by the distance.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from harpy_core.raster.views import window
from harpy_core.tiles.grid import Region
from harpy_core.tiles.runs import refuse_negative


class LabelView(ABC):
    """An array of labels that are made of others as they are read.

    Parameters
    ----------
    arrays
        The others, of one shape.
    readers
        Reader of each of them.
    """

    def __init__(self, arrays: Sequence[Any], readers: Sequence[Any]) -> None:
        self.arrays, self._readers = tuple(arrays), tuple(readers)
        self.shape: tuple[int, ...] = tuple(arrays[0].shape)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(readers[0].dtype)
        if getattr(arrays[0], "chunks", None) is not None:
            self.chunks: tuple[int, ...] = tuple(arrays[0].chunks)

    @abstractmethod
    def facts(self) -> list[Any]:
        """Return what makes these labels others than the arrays'."""

    @abstractmethod
    def reader(self, *inner: Any) -> Any:
        """Return a reader of these labels, from one of each array."""

    @property
    def origin(self) -> Any:
        """Labels whose instances these are: themselves, unless they keep those of others."""
        return self

    def __getitem__(self, key: Any) -> np.ndarray:
        return window(self.reader(*self._readers), key, self.shape)


def origin_of(labels: Any) -> Any:
    """Return the labels whose instances some labels have."""
    return labels.origin if isinstance(labels, LabelView) else labels


def grown(labels: np.ndarray, inner: float | None, outer: float) -> np.ndarray:
    """Grow the labels of a tile; see `kernels.growth.grown`.

    Raises
    ------
    InputError
        A label is negative.
    """
    from harpy_core.kernels import growth

    refuse_negative(labels)
    return growth.grown(np.ascontiguousarray(labels), inner, outer)


class GrownLabels(LabelView):
    """Labels that reach up to a distance, and from another one on.

    Parameters
    ----------
    array, reader
        Labels, and a reader of them.
    inner, outer
        Distances; None keeps the instances themselves.
    """

    def __init__(self, array: Any, reader: Any, inner: float | None, outer: float) -> None:
        super().__init__([array], [reader])
        self.inner, self.outer = inner, outer

    @property
    def origin(self) -> Any:
        """Labels whose instances have grown."""
        return origin_of(self.arrays[0])

    def facts(self) -> list[Any]:
        """Return the distances."""
        return ["grown", self.inner, self.outer]

    def reader(self, *inner: Any) -> GrownReader:
        """Return a reader of grown labels."""
        return GrownReader(inner[0], self.inner, self.outer)


class GrownReader:
    """Reader of grown labels: each region is made of a larger one."""

    def __init__(self, reader: Any, inner: float | None, outer: float) -> None:
        self._reader, self._inner, self._outer = reader, inner, outer
        self.shape, self.dtype, self.edges = reader.shape, reader.dtype, reader.edges

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the region itself."""
        return tuple(b - a for a, b in region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Any]:
        """Read a region and what surrounds it, and grow its labels."""
        larger = self._around(region)
        shape = self._reader.layout(larger)
        # A buffer of its own: these may be grown labels of others.
        buffer = np.empty(shape, self.dtype)
        gaps = self._reader.read(larger, buffer)
        inside = buffer[tuple(slice(0, b - a) for a, b in larger)]
        found = grown(inside, self._inner, self._outer)
        own = zip(region, larger, strict=True)
        out[...] = found[tuple(slice(a - first, b - first) for (a, b), (first, _) in own)]
        return gaps

    def stored(self, region: Region) -> None:
        """Return None: nothing is stored."""

    def detach(self, region: Region) -> GrownReader:
        """Return a reader of this region that is cheap to send to another process."""
        return GrownReader(self._reader.detach(self._around(region)), self._inner, self._outer)

    def _around(self, region: Region) -> Region:
        reach = math.floor(self._outer)
        spans = zip(region, self.shape, strict=True)
        return tuple((max(a - reach, 0), min(b + reach, n)) for (a, b), n in spans)


class LabelsWithout(LabelView):
    """Labels without the pixels of others."""

    @property
    def origin(self) -> Any:
        """Labels whose instances are left."""
        return origin_of(self.arrays[0])

    def facts(self) -> list[Any]:
        """Return what is done with the arrays."""
        return ["without"]

    def reader(self, *inner: Any) -> WithoutReader:
        """Return a reader of what is left."""
        return WithoutReader(*inner)


class WithoutReader:
    """Reader of labels without the pixels of others."""

    def __init__(self, reader: Any, others: Any) -> None:
        self._reader, self._others = reader, others
        self.shape, self.dtype, self.edges = reader.shape, reader.dtype, reader.edges

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the buffer of the labels."""
        return self._reader.layout(region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Any]:
        """Read both, and keep what the others do not have."""
        gaps = self._reader.read(region, out)
        shape = self._others.layout(region)
        others = np.empty(shape, self._others.dtype)
        also = self._others.read(region, others)
        inside = tuple(slice(0, b - a) for a, b in region)
        out[inside][others[inside] != 0] = 0
        return [*gaps, *also]

    def stored(self, region: Region) -> None:
        """Return None: nothing is stored."""

    def detach(self, region: Region) -> WithoutReader:
        """Return a reader of this region that is cheap to send to another process."""
        return WithoutReader(self._reader.detach(region), self._others.detach(region))
