"""Places of the pixels of whole instances, and the pixels of one channel with them.

The pixels of an instance are in the order of the image, by z, y and x, wherever its parts were
read: sums over them are the same to the last bit for every chunking, engine and order, of floats
too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np

from harpy_core.statistics.calling import returned


@dataclass(frozen=True, slots=True)
class Stretches:
    """Runs of some instances, those of an instance side by side.

    Attributes
    ----------
    start : (runs, 3) int64
        z, y and x in the image of the first pixel of each run.
    length : (runs,) int64
        Pixels of each run.
    begin : (instances + 1,) int64
        Index of each instance's first pixel, and the end.
    """

    start: np.ndarray
    length: np.ndarray
    begin: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Index of the first pixel of each run, (runs,) int64."""
        return np.cumsum(self.length) - self.length

    @property
    def runs(self) -> np.ndarray:
        """Index of the first run of each instance, and the end, (instances + 1,) int64."""
        return np.searchsorted(self.first, self.begin)

    def merged(self) -> tuple[Stretches, np.ndarray]:
        """Return them by z, y and x within each instance, and the index of each pixel before."""
        owner = np.repeat(np.arange(len(self.begin) - 1), np.diff(self.runs))
        order = np.lexsort((*self.start.T[::-1], owner))
        found = Stretches(self.start[order], self.length[order], self.begin)
        index = np.repeat(self.first[order] - found.first, found.length)
        index += np.arange(len(index))
        return found, index


@dataclass(frozen=True, eq=False)
class Places:
    """Places of the pixels of some instances, of at least one pixel each.

    Attributes
    ----------
    stretches
        Their runs, ascending by z, y and x within an instance.
    flat
        Whether the image has one plane.
    kernels
        The engine's module.
    """

    stretches: Stretches
    flat: bool
    kernels: ModuleType
    _rings: dict[int, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.begin) - 1

    @property
    def begin(self) -> np.ndarray:
        """Index of each instance's first pixel, and the end, (instances + 1,) int64."""
        return self.stretches.begin

    @cached_property
    def low(self) -> np.ndarray:
        """Smallest z, y and x of each instance, (instances, 3) int64."""
        return np.minimum.reduceat(self.stretches.start, self.stretches.runs[:-1], axis=0)

    @cached_property
    def _start(self) -> np.ndarray:
        """First pixel of each run from the smallest of its instance, (runs, 3) int64."""
        runs = self.stretches
        return runs.start - np.repeat(self.low, np.diff(runs.runs), axis=0)

    @cached_property
    def owner(self) -> np.ndarray:
        """Instance of each pixel, (n,) int32."""
        return np.repeat(np.arange(len(self), dtype=np.int32), np.diff(self.begin))

    @cached_property
    def offset(self) -> np.ndarray:
        """z, y and x of each pixel, from the smallest of its instance, (3, n) int32."""
        runs = self.stretches
        found = np.repeat(self._start.T.astype(np.int32), runs.length, axis=1)
        step = np.arange(found.shape[1], dtype=np.int32)
        found[2] += step - np.repeat(runs.first.astype(np.int32), runs.length)
        return found

    @cached_property
    def _total(self) -> np.ndarray:
        """Sums of z, y and x over each instance, from its smallest, (instances, 3) int64."""
        length = self.stretches.length
        total = self._start * length[:, np.newaxis]
        total[:, 2] += length * (length - 1) // 2
        return np.add.reduceat(total, self.stretches.runs[:-1], axis=0)

    @property
    def centroid(self) -> np.ndarray:
        """Mean z, y and x of each instance from its smallest, (instances, 3) float64."""
        return self._total / np.diff(self.begin)[:, np.newaxis]

    @cached_property
    def edge(self) -> np.ndarray:
        """Indices of the pixels with a neighbour outside their instance, (edge pixels,) int64."""
        return np.flatnonzero(self.kernels.edge(self.offset, self.begin, self.flat))

    def rings(self, number: int) -> np.ndarray:
        """Ring of each pixel, counted through all instances, (n,) int32.

        Ring k of an instance holds the pixels with k <= number * r / R < k + 1: r is the distance
        to the centroid, R the largest of the instance; the last ring holds those at R too.
        """
        if number not in self._rings:
            size = np.diff(self.begin)
            square = np.zeros(self.offset.shape[1])
            for axis in range(3):
                # Times the number of pixels: whole numbers, so that no ring depends on rounding.
                far = self.offset[axis] * np.repeat(size.astype(np.float64), size)
                far -= np.repeat(self._total[:, axis], size)
                square += far * far
            largest = np.maximum.reduceat(square, self.begin[:-1])
            largest[largest == 0] = 1
            ring = np.sqrt(number**2 * square / np.repeat(largest, size)).astype(np.int32)
            self._rings[number] = np.minimum(ring, number - 1) + number * self.owner
        return self._rings[number]

    def coordinates(self, first: int, last: int) -> np.ndarray:
        """z, y and x in the image of the pixels of instances from first to last, (3, n) int64."""
        some = slice(self.begin[first], self.begin[last])
        if last - first == 1:
            return self.offset[:, some] + self.low[first][:, np.newaxis]
        sizes = np.diff(self.begin[first : last + 1])
        found = np.repeat(np.ascontiguousarray(self.low[first:last].T), sizes, axis=1)
        found += self.offset[:, some]
        return found


@dataclass(frozen=True, slots=True)
class Spread:
    """Sum, mean and standard deviation of some pixels, each (instances, 1) float64."""

    total: np.ndarray
    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True, eq=False)
class Placed:
    """The pixels of some instances in one channel, with their places.

    Attributes
    ----------
    values : (n,)
        Pixels in the order of `places`; NaN may be among them.
    places
        Their places.
    ignore_nan
        Leave NaN pixels out.
    ids : (instances,) uint64
        Labels of the instances, for errors.
    """

    values: np.ndarray
    places: Places
    ignore_nan: bool
    ids: np.ndarray
    _means: dict[int, np.ndarray] = field(default_factory=dict)
    _returned: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def _left_out(self) -> np.ndarray | None:
        """Pixels that do not count; None where all do."""
        if not self.ignore_nan or self.values.dtype.kind != "f":
            return None
        nan = np.isnan(self.values)
        return nan if nan.any() else None

    @cached_property
    def _weights(self) -> np.ndarray:
        weights = self.values.astype(np.float64)
        if self._left_out is not None:
            weights[self._left_out] = 0.0
        return weights

    @cached_property
    def _edge_spread(self) -> Spread:
        return self._spread(self.places.edge)

    def _sum(self, values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
        found: np.ndarray = self.places.kernels.sum_by(values, group, groups)
        return found

    def _number(self, some: np.ndarray | slice, group: np.ndarray, groups: int) -> np.ndarray:
        """Number of pixels of each group that count."""
        if self._left_out is None:
            return np.bincount(group, minlength=groups).astype(np.float64)
        return self._sum((~self._left_out[some]).astype(np.float64), group, groups)

    @cached_property
    def _weighted(self) -> np.ndarray:
        """Weighted centroid from the smallest z, y and x: sums of narrow integers are exact."""
        owner, number = self.places.owner, len(self.places)
        total = self._sum(self._weights, owner, number)
        found = np.empty((number, 3))
        for axis in range(3):
            moment = self._sum(self._weights * self.places.offset[axis], owner, number)
            found[:, axis] = np.where(total == 0, np.nan, moment / total)
        return found

    def centroid(self, axis: int) -> np.ndarray:
        """Mean z, y or x (axis 0 to 2) weighted by the pixels, (instances, 1)."""
        return (self._weighted + self.places.low)[:, axis : axis + 1]

    def displacement(self) -> np.ndarray:
        """Distance of the weighted centroid to the centroid, (instances, 1)."""
        far = self._weighted - self.places.centroid
        return np.sqrt((far**2).sum(axis=1))[:, np.newaxis]

    def edge(self) -> Spread:
        """Sum, mean and standard deviation of the pixels with a neighbour outside the instance."""
        return self._edge_spread

    def ring_mean(self, ring: int, rings: int) -> np.ndarray:
        """Mean of one of the rings of `Places.rings`, (instances, 1); NaN without pixels."""
        if rings not in self._means:
            group, groups = self.places.rings(rings), rings * len(self.places)
            total = self._sum(self._weights, group, groups)
            number = self._number(slice(None), group, groups)
            mean = np.where(number > 0, total / number, np.nan)
            self._means[rings] = mean.reshape(-1, rings)
        return self._means[rings][:, ring : ring + 1]

    def _spread(self, some: np.ndarray) -> Spread:
        number = len(self.places)
        group, values = self.places.owner[some], self._weights[some]
        pixels = self._number(some, group, number)
        pixels = np.where(pixels > 0, pixels, np.nan)
        total = np.where(pixels > 0, self._sum(values, group, number), np.nan)
        mean = total / pixels
        # About a whole number near the mean, so that the sums of integers are exact.
        far = values - np.rint(mean)[group]
        if self._left_out is not None:
            far[self._left_out[some]] = 0.0
        first = self._sum(far, group, number) / pixels
        second = self._sum(far * far, group, number) / pixels
        std = np.sqrt(np.maximum(second - first * first, 0.0))
        return Spread(*(found[:, np.newaxis] for found in (total, mean, std)))

    def each(
        self, function: Callable[..., Any], name: str, outputs: int, batched: bool
    ) -> np.ndarray:
        """Numbers that a function returns for each instance, (instances, outputs) float64."""
        if name not in self._returned:
            pixels = self.values[np.newaxis]
            self._returned[name] = returned(
                function,
                name,
                outputs,
                pixels,
                [0],
                self.places.begin,
                self.places.coordinates,
                self.ids,
                self.ignore_nan,
                batched,
            )
        return self._returned[name]
