"""The partial ``powers``: sums of the second to fourth power, finished into central moments.

The sums of narrow integers are exact, so they are the same for every chunking, engine and order.
Those of wide integers and floats are float64 sums of powers of the distance to a pivot near the
mean, and merge by moving both to a common pivot, which is stable where raw powers are not (Pébay
2008, SAND2008-6212, gives the same relations for central moments).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harpy_core.kernels.layout import CUBE, FOURTH, LEAST, SQUARE, Family, family_of
from harpy_core.kernels.reference import difference
from harpy_core.statistics import wide
from harpy_core.statistics.count import finish as counted
from harpy_core.statistics.tile import Tile

NUMBER, PIVOT, FIRST = 0, 1, 2
"""Words of wide integers and floats: pixel count, pivot, first of four sums of powers."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Central moments of the population, each (instances, c) float64; NaN without pixels.

    Attributes
    ----------
    m2, m3, m4
        Mean of the second, third and fourth power of the distance to the mean.
    """

    m2: np.ndarray
    m3: np.ndarray
    m4: np.ndarray


def empty(family: Family, words: np.ndarray) -> None:
    """Do nothing: sums over no pixel are 0."""


def make(tile: Tile, made: Mapping[str, np.ndarray]) -> np.ndarray:
    """Make the words of wide integers and floats; the pivot is the mean in the tile."""
    total = made["sum"]
    words = np.zeros((*total.shape[:2], 6), np.uint64)
    if tile.family == "real":
        number = made["count"].view(np.float64)[..., 0]
        pivot = np.where(number > 0, total.view(np.float64)[..., 0] / number, 0.0)
        words.view(np.float64)[..., NUMBER] = number
        words.view(np.float64)[..., PIVOT] = pivot
    else:
        pivot = _integer_mean(wide.pair(total, 0), made["extremes"][..., LEAST], tile.pixels)
        words[..., NUMBER] = tile.pixels.astype(np.uint64)
        words[..., PIVOT] = pivot
    powers = tile.kernels.powers(tile.planes, *tile.table, pivot, tile.ignore_nan)
    words.view(np.float64)[..., FIRST:] = powers
    return words


def _integer_mean(total: wide.Wide, least: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Mean of wide pixels rounded to an integer, close even where float64 is coarse."""
    above = wide.subtract(total, wide.multiply(least, pixels.astype(np.uint64)))
    return least + np.rint(wide.to_float(above) / pixels).astype(np.uint64)


def merge(family: Family, into: np.ndarray, other: np.ndarray) -> None:
    """Add the sums over other pixels of the same instances."""
    if family == "narrow":
        for power in (SQUARE, CUBE, FOURTH):
            wide.add_pair(into, other, power)
    elif family == "wide":
        _merge_wide(into, other)
    else:
        _merge_real(into.view(np.float64), other.view(np.float64))


def _merge_wide(into: np.ndarray, other: np.ndarray) -> None:
    here, there = into[..., PIVOT], other[..., PIVOT]
    n, m = (words[..., NUMBER].astype(np.float64) for words in (into, other))
    step = np.rint(difference(there, here) * _share(n, m))
    pivot = np.where(
        step < 0, here - np.abs(step).astype(np.uint64), here + np.abs(step).astype(np.uint64)
    )
    pivot = np.where(n == 0, there, pivot)
    ours, theirs = (words.view(np.float64)[..., FIRST:] for words in (into, other))
    ours[...] = _moved(ours, n, difference(here, pivot)) + _moved(
        theirs, m, difference(there, pivot)
    )
    into[..., PIVOT] = pivot
    into[..., NUMBER] += other[..., NUMBER]


def _merge_real(into: np.ndarray, other: np.ndarray) -> None:
    n, m = into[..., NUMBER], other[..., NUMBER]
    here, there = into[..., PIVOT], other[..., PIVOT]
    pivot = np.where(n == 0, there, here + (there - here) * _share(n, m))
    moved = _moved(other[..., FIRST:], m, there - pivot)
    into[..., FIRST:] = np.where(
        (n == 0)[..., np.newaxis], moved, _moved(into[..., FIRST:], n, here - pivot) + moved
    )
    into[..., PIVOT] = pivot
    into[..., NUMBER] += m


def _share(n: np.ndarray, m: np.ndarray) -> np.ndarray:
    return np.where(n + m > 0, m / (n + m), 0.0)


def _moved(power: np.ndarray, n: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Sums of powers about a pivot that lies `e` below their own."""
    one, two, three, four = (power[..., i] for i in range(4))
    return np.stack(
        [
            one + n * e,
            two + e * (2 * one + n * e),
            three + e * (3 * two + e * (3 * one + n * e)),
            four + e * (4 * three + e * (6 * two + e * (4 * one + n * e))),
        ],
        axis=-1,
    )


def finish(dtype: np.dtype, made: Mapping[str, np.ndarray], pixels: np.ndarray) -> Moments:
    """Return central moments, from sums of powers about a pivot near the mean."""
    number = counted(dtype, made, pixels)
    number = np.where(number > 0, number, np.nan)
    if family_of(dtype) == "narrow":
        return _central(_about_mean(made, pixels.astype(np.uint64)), number)
    return _central(made["powers"].view(np.float64)[..., FIRST:], number)


def _about_mean(made: Mapping[str, np.ndarray], n: np.ndarray) -> np.ndarray:
    """Sums of the first four powers of narrow pixels about their mean, rounded down."""
    s1 = made["sum"][..., 0]
    s2, s3, s4 = (wide.pair(made["powers"], power) for power in (SQUARE, CUBE, FOURTH))
    p = s1 // np.maximum(n, np.uint64(1))
    p2 = p * p
    two, three, four, six = (np.uint64(i) for i in (2, 3, 4, 6))
    c1 = (s1 - n * p).view(np.int64).astype(np.float64)
    # Modulo 2^128 the terms may wrap; the sums about the pivot themselves fit.
    c2 = wide.subtract(wide.add(s2, wide.multiply(n, p2)), wide.multiply(two * p, s1))
    c3 = wide.subtract(
        wide.add(s3, wide.multiply(three * p2, s1)),
        wide.add(wide.multiply_pair(s2, three * p), wide.multiply(p2 * p, n)),
    )
    c4 = wide.subtract(
        wide.add(
            wide.add(s4, wide.multiply_pair(s2, six * p2)),
            wide.multiply(p2 * p2, n),
        ),
        wide.add(wide.multiply_pair(s3, four * p), wide.multiply(four * p2 * p, s1)),
    )
    return np.stack([c1, *(wide.to_float(c) for c in (c2, c3, c4))], axis=-1)


def _central(power: np.ndarray, n: np.ndarray) -> Moments:
    """Central moments from sums of powers about a pivot near the mean, along the last axis."""
    r, a2, a3, a4 = (power[..., i] / n for i in range(4))
    m2 = np.maximum(a2 - r * r, 0.0)
    m3 = a3 - r * (3 * a2 - 2 * r * r)
    m4 = np.maximum(a4 - r * (4 * a3 - r * (6 * a2 - 3 * r * r)), 0.0)
    return Moments(m2, m3, m4)
