"""The partial ``together``: pixels of several channels of whole instances, with their places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harpy_core.statistics.calling import returned
from harpy_core.statistics.places import Places


@dataclass(frozen=True, slots=True)
class _Pair:
    """The pixels of two channels that count, and the instance of each."""

    x: np.ndarray
    y: np.ndarray
    owner: np.ndarray
    places: Places

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum by instance, (instances,)."""
        found: np.ndarray = self.places.kernels.sum_by(values, self.owner, len(self.places))
        return found

    def constant(self, values: np.ndarray) -> np.ndarray:
        """Whether all values of an instance are the same, (instances,) bool."""
        first = np.zeros(len(self.places))
        first[self.owner[::-1]] = values[::-1]
        return self.total((values != first[self.owner]).astype(np.float64)) == 0


@dataclass(frozen=True, slots=True)
class Together:
    """The pixels of some instances in several channels.

    Attributes
    ----------
    values : (channels, n)
        Pixels in the order of `places`; NaN may be among them.
    rows
        Index in `values` of each channel that is used.
    places
        Their places.
    ignore_nan
        Leave out pixels that are NaN in a channel in use.
    ids : (instances,) uint64
        Labels of the instances, for errors.
    """

    values: np.ndarray
    rows: Sequence[int]
    places: Places
    ignore_nan: bool
    ids: np.ndarray

    def _pair(self, one: int, other: int) -> _Pair:
        x, y = (self.values[self.rows[i]].astype(np.float64) for i in (one, other))
        owner = self.places.owner
        missing = np.isnan(x) | np.isnan(y)
        if self.ignore_nan and missing.any():
            x, y, owner = x[~missing], y[~missing], owner[~missing]
        return _Pair(x, y, owner, self.places)

    def pearson(self, one: int, other: int) -> np.ndarray:
        """Pearson's correlation of two channels, (instances,); NaN where one is constant."""
        pair = self._pair(one, other)
        count = pair.total(np.ones(len(pair.owner)))
        # About whole numbers near the means, so that the sums of integers are exact.
        x, y = (v - np.rint(pair.total(v) / count)[pair.owner] for v in (pair.x, pair.y))
        mx, my, xx, yy, xy = (pair.total(v) / count for v in (x, y, x * x, y * y, x * y))
        found = (xy - mx * my) / np.sqrt((xx - mx * mx) * (yy - my * my))
        constant = pair.constant(pair.x) | pair.constant(pair.y)
        return np.where(constant, np.nan, np.clip(found, -1.0, 1.0))

    def coloc(self, one: int, other: int, threshold: float) -> np.ndarray:
        """Fraction of a channel's sum where another is above a threshold, (instances,)."""
        pair = self._pair(one, other)
        # What is NaN is above nothing, and must not look like a number.
        above = np.where(np.isnan(pair.y), np.nan, pair.y > threshold)
        return _share(pair.total(pair.x * above), pair.total(pair.x))

    def overlap(self, one: int, other: int) -> np.ndarray:
        """Sum of the products over the root of the product of the sums of squares, (instances,)."""
        pair = self._pair(one, other)
        xx, yy, xy = (
            pair.total(a * b) for a, b in ((pair.x, pair.x), (pair.y, pair.y), (pair.x, pair.y))
        )
        return _share(xy, np.sqrt(xx) * np.sqrt(yy))

    def each(
        self, function: Callable[..., Any], name: str, outputs: int, batched: bool
    ) -> np.ndarray:
        """Numbers that a function returns for each instance, (instances, outputs) float64."""
        return returned(
            function,
            name,
            outputs,
            self.values,
            self.rows,
            self.places.begin,
            self.places.coordinates,
            self.ids,
            self.ignore_nan,
            batched,
        )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole == 0, np.nan, part / np.where(whole == 0, 1, whole))
