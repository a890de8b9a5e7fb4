"""The partial ``pixels``: the pixels of an instance in one channel, for order statistics.

It cannot be merged in a bounded number of words, so what needs it is finished where an instance is
whole: in its tile, or where its pieces from several tiles come together. There a large instance of
narrow integers is counted value by value, and takes no more than its histogram.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np

from harpy_core.kernels.layout import bias_of, family_of
from harpy_core.statistics.places import Stretches
from harpy_core.tiles.runs import RunTable
from harpy_core.tiles.scratch import scratch


@dataclass(frozen=True, slots=True)
class Pixels:
    """All pixels of some instances in one channel.

    Attributes
    ----------
    values : (n,)
        Pixels, those of an instance side by side, in any order; no NaN.
    begin : (instances + 1,) int64
        Index of each instance's first pixel, and the end.
    spoiled : (instances,) bool
        Whether there was a NaN among them that must not be left out.
    kernels
        The engine's module.
    """

    values: np.ndarray
    begin: np.ndarray
    spoiled: np.ndarray
    kernels: ModuleType

    @classmethod
    def of(
        cls, values: np.ndarray, begin: np.ndarray, kernels: ModuleType, ignore_nan: bool
    ) -> Pixels:
        """Take pixels that may include NaN; the order of `values` may change later."""
        missing = np.zeros(len(begin) - 1, np.int64)
        nan = np.isnan(values) if values.dtype.kind == "f" else np.zeros(0, bool)
        if not nan.any():
            return cls(values, begin, missing > 0, kernels)
        owner = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
        np.add.at(missing, owner[nan], 1)
        if not ignore_nan:
            return cls(np.where(nan, 0, values), begin, missing > 0, kernels)
        left = begin - np.concatenate([[0], np.cumsum(missing)])
        return cls(values[~nan], left, np.zeros(len(missing), bool), kernels)

    def quantile(self, q: float) -> np.ndarray:
        """Return `numpy.quantile` of the pixels as float64, (instances, 1); NaN without any.

        Parameters
        ----------
        q
            Between 0 and 1; linear interpolation between two pixels.
        """
        number = np.diff(self.begin)
        ranks, share = _between(number, q)
        pair = self.kernels.order_statistics(self.values, self.begin, ranks).astype(np.float64)
        found = _interpolated(pair[:, 0], pair[:, 1], share)
        return np.where((number == 0) | self.spoiled, np.nan, found)[:, np.newaxis]

    def distances(self, centre: np.ndarray) -> Pixels:
        """Distance of each pixel to its instance's `centre`, (instances, 1) float64."""
        owner = np.repeat(centre[:, 0], np.diff(self.begin))
        with np.errstate(invalid="ignore"):
            far = np.abs(self.values.astype(np.float64) - owner)
        # Distances to a centre that is no number are NaN: the instance is spoiled, or was before.
        lost = np.isnan(far)
        again = Pixels.of(far, self.begin, self.kernels, ignore_nan=False) if lost.any() else None
        spoiled = self.spoiled if again is None else self.spoiled | again.spoiled
        values = far if again is None else again.values
        return replace(self, values=values, spoiled=spoiled)


@dataclass(frozen=True, slots=True)
class Counted:
    """The pixels of one instance in one channel as a histogram.

    Attributes
    ----------
    values : (n,) float64
        Distinct values, ascending.
    counts : (n,) int64
        Pixels of each value.
    """

    values: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, histogram: np.ndarray, dtype: np.dtype) -> Counted:
        """Take the counts of all values of a narrow integer type, ascending."""
        there = np.flatnonzero(histogram)
        return cls(there.astype(np.float64) - bias_of(dtype), histogram[there])

    def quantile(self, q: float) -> np.ndarray:
        """Return the same as `Pixels.quantile`."""
        over = np.cumsum(self.counts)
        ranks, share = _between(over[-1:], q)
        low, high = self.values[np.searchsorted(over, ranks[0], "right")]
        return _interpolated(np.array([low]), np.array([high]), share)[:, np.newaxis]

    def distances(self, centre: np.ndarray) -> Counted:
        """Return the same as `Pixels.distances`."""
        far = np.abs(self.values - centre[0, 0])
        order = np.argsort(far, kind="stable")
        return Counted(far[order], self.counts[order])


def _between(number: np.ndarray, q: float) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the two pixels that a quantile lies between, and the fraction of the way."""
    place = (number - 1) * q
    low = np.clip(np.floor(place), 0, None).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(number - 1, 0))
    return np.stack([low, high], axis=1), place - low


def _interpolated(low: np.ndarray, high: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Interpolate between two values, from the nearer of them, so as never to go beyond either."""
    with np.errstate(invalid="ignore", over="ignore"):
        step = high - low
        found = np.where(share >= 0.5, high - step * (1 - share), low + step * share)
        # One is infinite, or their distance is.
        found = np.where(np.isfinite(step), found, low * (1 - share) + high * share)
        # Nothing lies between a pixel and its like. No negative zero: which comes first is open.
        return np.where((share == 0) | (low == high), low, found) + 0.0


def histogram(values: np.ndarray) -> np.ndarray:
    """Count each value of a narrow integer type, from the smallest: int64."""
    places = values.astype(np.int64) + bias_of(values.dtype)
    return np.bincount(places, minlength=1 << (8 * values.itemsize))


COUNTED = 1 << 17
"""Pixels from which an instance of narrow integers that lies in several tiles is counted."""


def is_counted(dtype: np.dtype, pixels: int) -> bool:
    """Whether an instance of that many pixels is kept as a histogram."""
    return family_of(dtype) == "narrow" and pixels > COUNTED


class Gathering:
    """Placement of the pixels of a tile's instances side by side, whole instances first.

    Parameters
    ----------
    runs
        Runs of the tile.
    pixels : (slots,) int64
        Number of each instance's pixels.
    split : (slots,) bool
        Whether an instance has pixels in other tiles too.
    kernels
        The engine's module.
    """

    def __init__(
        self, runs: RunTable, pixels: np.ndarray, split: np.ndarray, kernels: ModuleType
    ) -> None:
        self._kernels = kernels
        self.slots = np.argsort(split, kind="stable")
        """Order of the instances, (slots,)."""
        self.whole = int((~split).sum())
        """Number of whole instances."""
        self.begin = np.concatenate([[0], np.cumsum(pixels[self.slots])])
        """Index of the first pixel of each, in that order, and the end, (slots + 1,)."""
        place = np.empty(len(split), np.int32)
        place[self.slots] = np.arange(len(split), dtype=np.int32)
        order = kernels.by_slot(place[runs.slot], len(split))[1]
        self._source, self._length = runs.start[order], runs.length[order].astype(np.int64)
        self._target = np.cumsum(self._length) - self._length
        self._strides = runs.plane_stride, runs.row_stride

    def pixels(self, plane: np.ndarray) -> np.ndarray:
        """The pixels of one channel, in a buffer that the thread reuses."""
        values = scratch("pixels", int(self.begin[-1]), plane.dtype)
        self._kernels.collect(plane, self._source, self._target, self._length, values)
        return values

    def stretches(self, origin: tuple[int, int, int]) -> tuple[Stretches, Stretches]:
        """Runs of the whole instances, and those of the others.

        Parameters
        ----------
        origin
            (z, y, x) of the tile's first pixel.
        """
        z, rest = np.divmod(self._source, self._strides[0])
        start = np.stack([z, *np.divmod(rest, self._strides[1])], axis=1) + np.asarray(origin)
        cut = np.searchsorted(self._target, self.begin[self.whole])
        middle = self.begin[self.whole]
        return (
            Stretches(start[:cut], self._length[:cut], self.begin[: self.whole + 1]),
            Stretches(start[cut:], self._length[cut:], self.begin[self.whole :] - middle),
        )
