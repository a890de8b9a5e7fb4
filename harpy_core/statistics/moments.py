"""Sums over an instance's pixels: taken in tiles, merged exactly, finished into moments.

A tile contributes words (see `kernels.layout`). Integer words merge without rounding, so the
result is the same for every chunking, engine and order. The float words of wide integers and
floats are sums of powers about a pivot near the mean, and merge by moving both to a common pivot,
which is stable where raw powers are not (Pébay 2008, SAND2008-6212, gives the same relations for
central moments).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from harpy_core.kernels import layout
from harpy_core.kernels.layout import bias_of, family_of
from harpy_core.kernels.reference import difference
from harpy_core.tiles.runs import RunTable

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_63 = np.uint64(63)


@dataclass(frozen=True, slots=True)
class PixelSums:
    """Sums over the pixels of some instances, in some channels.

    Attributes
    ----------
    dtype
        Type of the pixels.
    full
        Whether higher powers and extremes are there.
    whole : (instances, c, words) uint64
    real : (instances, c, words) float64
        The words of the pixel type's family.
    power : (instances, c, 4 or 0) float64
        Sums of the first four powers of the distance to the pivot.
    """

    dtype: np.dtype
    full: bool
    whole: np.ndarray
    real: np.ndarray
    power: np.ndarray

    @classmethod
    def empty(cls, dtype: np.dtype, full: bool, instances: int, channels: int) -> PixelSums:
        """Sums over no pixel at all: merging into them changes nothing."""
        integers, floats, powers = layout.words(dtype, full)
        sums = cls(
            dtype,
            full,
            np.zeros((instances, channels, integers), np.uint64),
            np.zeros((instances, channels, floats)),
            np.zeros((instances, channels, powers)),
        )
        sums._reset_extremes()
        return sums

    def _reset_extremes(self) -> None:
        if not self.full:
            return
        family = family_of(self.dtype)
        if family == "real":
            self.real[..., layout.REAL_MIN] = np.inf
            self.real[..., layout.REAL_MAX] = -np.inf
        else:
            least = layout.NARROW_MIN if family == "narrow" else layout.WIDE_MIN
            self.whole[..., least] = np.iinfo(np.uint64).max

    def grown(self, instances: int) -> PixelSums:
        """The same sums with room for more instances."""
        larger = PixelSums.empty(self.dtype, self.full, instances, self.whole.shape[1])
        for name in ("whole", "real", "power"):
            getattr(larger, name)[: len(self.whole)] = getattr(self, name)
        return larger

    def at(self, rows: np.ndarray | slice, channels: slice) -> PixelSums:
        """The sums of some instances and channels; a copy where `rows` is an array."""
        return PixelSums(
            self.dtype,
            self.full,
            self.whole[rows, channels],
            self.real[rows, channels],
            self.power[rows, channels],
        )

    def put(self, rows: np.ndarray, channels: slice, sums: PixelSums) -> None:
        """Store sums that `at` gave."""
        self.whole[rows, channels] = sums.whole
        self.real[rows, channels] = sums.real
        self.power[rows, channels] = sums.power


def measure_pixels(
    planes: np.ndarray,
    runs: RunTable,
    count: np.ndarray,
    kernels: ModuleType,
    full: bool,
    ignore_nan: bool,
) -> PixelSums:
    """Sums over each instance of a tile.

    Parameters
    ----------
    planes
        (c, plane) pixels, C-contiguous.
    count
        (slots,) pixels of each instance in the tile.
    full
        Take higher powers and extremes in the same pass.
    ignore_nan
        Leave NaN pixels out.
    """
    table = (runs.start, runs.length, runs.slot)
    pixels = count.reshape(-1, 1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        whole, real = kernels.reduce(planes, *table, runs.slots, full, ignore_nan)
        power = np.zeros((*whole.shape[:2], 0))
        if full and family_of(planes.dtype) == "wide":
            pivot = _integer_mean(whole, pixels)
            whole[..., layout.WIDE_PIVOT] = pivot
            whole[..., layout.WIDE_COUNT] = pixels.astype(np.uint64)
            power = kernels.powers(planes, *table, pivot, ignore_nan)
        elif full and family_of(planes.dtype) == "real":
            number = real[..., layout.REAL_COUNT]
            pivot = np.where(number > 0, real[..., layout.SUM] / number, 0.0)
            real[..., layout.REAL_PIVOT] = pivot
            power = kernels.powers(planes, *table, pivot, ignore_nan)
    return PixelSums(
        planes.dtype,
        full,
        whole,
        real,
        power,
    )


def _integer_mean(whole: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The mean of wide pixels rounded to an integer, close even where float64 is coarse."""
    least = whole[..., layout.WIDE_MIN]
    total = whole[..., layout.SUM], whole[..., layout.SUM_HIGH]
    above = _subtract(total, _multiply(least, pixels.astype(np.uint64)))
    return least + np.rint(_to_float(above) / pixels).astype(np.uint64)


def merge(into: PixelSums, other: PixelSums) -> None:
    """Add the sums of disjoint sets of pixels of the same instances.

    Parameters
    ----------
    into
        Changed in place.
    other
        Same instances and channels.
    """
    family = family_of(into.dtype)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if family == "narrow":
            _merge_narrow(into, other)
        elif family == "wide":
            _merge_wide(into, other)
        else:
            _merge_real(into, other)


def _add_pair(into: np.ndarray, other: np.ndarray, low: int) -> None:
    a = into[..., low], into[..., low + 1]
    into[..., low], into[..., low + 1] = _add(a, (other[..., low], other[..., low + 1]))


def _merge_extremes(into: np.ndarray, other: np.ndarray, least: int) -> None:
    np.minimum(into[..., least], other[..., least], out=into[..., least])
    np.maximum(into[..., least + 1], other[..., least + 1], out=into[..., least + 1])


def _merge_narrow(into: PixelSums, other: PixelSums) -> None:
    into.whole[..., layout.SUM] += other.whole[..., layout.SUM]
    if into.full:
        into.whole[..., layout.NARROW_SQUARE] += other.whole[..., layout.NARROW_SQUARE]
        _add_pair(into.whole, other.whole, layout.NARROW_CUBE)
        _add_pair(into.whole, other.whole, layout.NARROW_FOURTH)
        _merge_extremes(into.whole, other.whole, layout.NARROW_MIN)


def _merge_wide(into: PixelSums, other: PixelSums) -> None:
    _add_pair(into.whole, other.whole, layout.SUM)
    if not into.full:
        return
    _merge_extremes(into.whole, other.whole, layout.WIDE_MIN)
    here, there = into.whole[..., layout.WIDE_PIVOT], other.whole[..., layout.WIDE_PIVOT]
    n, m = (sums.whole[..., layout.WIDE_COUNT].astype(np.float64) for sums in (into, other))
    step = np.rint(difference(there, here) * _share(n, m))
    pivot = np.where(
        step < 0, here - np.abs(step).astype(np.uint64), here + np.abs(step).astype(np.uint64)
    )
    pivot = np.where(n == 0, there, pivot)
    into.power[...] = _moved(into.power, n, difference(here, pivot)) + _moved(
        other.power, m, difference(there, pivot)
    )
    into.whole[..., layout.WIDE_PIVOT] = pivot
    into.whole[..., layout.WIDE_COUNT] += other.whole[..., layout.WIDE_COUNT]


def _merge_real(into: PixelSums, other: PixelSums) -> None:
    n, m = into.real[..., layout.REAL_COUNT].copy(), other.real[..., layout.REAL_COUNT]
    into.real[..., layout.SUM] += other.real[..., layout.SUM]
    into.real[..., layout.REAL_COUNT] += m
    if not into.full:
        return
    _merge_extremes(into.real, other.real, layout.REAL_MIN)
    here, there = into.real[..., layout.REAL_PIVOT], other.real[..., layout.REAL_PIVOT]
    pivot = np.where(n == 0, there, here + (there - here) * _share(n, m))
    moved = _moved(other.power, m, there - pivot)
    into.power[...] = np.where(
        (n == 0)[..., np.newaxis], moved, _moved(into.power, n, here - pivot) + moved
    )
    into.real[..., layout.REAL_PIVOT] = pivot


def _share(n: np.ndarray, m: np.ndarray) -> np.ndarray:
    return np.where(n + m > 0, m / (n + m), 0.0)


def _moved(power: np.ndarray, n: np.ndarray, e: np.ndarray) -> np.ndarray:
    """Sums of powers about a pivot that lies `e` below the one they were taken about."""
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


@dataclass(frozen=True, slots=True)
class Moments:
    """What statistics are finished from; each (instances, c) float64.

    Attributes
    ----------
    count
        Pixels that were counted.
    total
        Their sum.
    m2, m3, m4
        Central moments of the population: the mean of the powers of the distance to the mean.
    least, most
        Extremes.
    """

    count: np.ndarray
    total: np.ndarray
    m2: np.ndarray
    m3: np.ndarray
    m4: np.ndarray
    least: np.ndarray
    most: np.ndarray


def finish(sums: PixelSums, count: np.ndarray) -> Moments:
    """Turn sums into moments; NaN where an instance has no pixel.

    Parameters
    ----------
    count
        (instances,) pixels of each instance.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if family_of(sums.dtype) == "real":
            return _finish_real(sums)
        n = count.reshape(-1, 1).astype(np.uint64)
        number = np.broadcast_to(np.where(n > 0, n, np.nan), sums.whole.shape[:2])
        if family_of(sums.dtype) == "narrow":
            return _finish_narrow(sums, n, number)
        return _finish_wide(sums, n, number)


def _central(power: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Central moments from sums of powers about a pivot near the mean, along the last axis."""
    r, a2, a3, a4 = (power[..., i] / n for i in range(4))
    m2 = np.maximum(a2 - r * r, 0.0)
    m3 = a3 - r * (3 * a2 - 2 * r * r)
    m4 = np.maximum(a4 - r * (4 * a3 - r * (6 * a2 - 3 * r * r)), 0.0)
    return m2, m3, m4


def _unshifted(low: np.ndarray, high: np.ndarray, n: np.ndarray, bias: int) -> np.ndarray:
    """The sum of signed pixels, from that of shifted ones."""
    return _to_float(_subtract((low, high), _multiply(n, np.full_like(n, bias))))


def _finish_narrow(sums: PixelSums, n: np.ndarray, number: np.ndarray) -> Moments:
    bias = bias_of(sums.dtype)
    s1 = sums.whole[..., layout.SUM]
    total = _unshifted(s1, np.zeros_like(s1), n, bias)
    count = np.nan_to_num(number)
    if not sums.full:
        none = np.full_like(total, np.nan)
        return Moments(count, _nan_where_empty(total, number), none, none, none, none, none)
    s2 = sums.whole[..., layout.NARROW_SQUARE]
    s3 = sums.whole[..., layout.NARROW_CUBE], sums.whole[..., layout.NARROW_CUBE_HIGH]
    s4 = sums.whole[..., layout.NARROW_FOURTH], sums.whole[..., layout.NARROW_FOURTH_HIGH]
    p = s1 // np.maximum(n, np.uint64(1))
    p2 = p * p
    two, three, four, six = (np.uint64(i) for i in (2, 3, 4, 6))
    # Modulo 2^64 and 2^128 the terms may wrap; the sums about the pivot themselves fit.
    c1 = (s1 - n * p).view(np.int64).astype(np.float64)
    c2 = (s2 - two * p * s1 + n * p2).astype(np.float64)
    c3 = _subtract(
        _add(s3, _multiply(three * p2, s1)), _add(_multiply(three * p, s2), _multiply(p2 * p, n))
    )
    c4 = _subtract(
        _add(_add(s4, _multiply(six * p2, s2)), _multiply(p2 * p2, n)),
        _add(_multiply_pair(s3, four * p), _multiply(four * p2 * p, s1)),
    )
    m2, m3, m4 = _central(np.stack([c1, c2, _to_float(c3), _to_float(c4)], axis=-1), number)
    least, most = (
        _nan_where_empty(sums.whole[..., word].astype(np.float64) - bias, number)
        for word in (layout.NARROW_MIN, layout.NARROW_MAX)
    )
    return Moments(count, _nan_where_empty(total, number), m2, m3, m4, least, most)


def _finish_wide(sums: PixelSums, n: np.ndarray, number: np.ndarray) -> Moments:
    bias = bias_of(sums.dtype)
    low, high = sums.whole[..., layout.SUM], sums.whole[..., layout.SUM_HIGH]
    total = _nan_where_empty(_unshifted(low, high, n, bias), number)
    count = np.nan_to_num(number)
    if not sums.full:
        none = np.full_like(total, np.nan)
        return Moments(count, total, none, none, none, none, none)
    m2, m3, m4 = _central(sums.power, number)
    least, most = (
        _nan_where_empty(difference(sums.whole[..., word], np.full_like(n, bias)), number)
        for word in (layout.WIDE_MIN, layout.WIDE_MAX)
    )
    return Moments(count, total, m2, m3, m4, least, most)


def _finish_real(sums: PixelSums) -> Moments:
    count = sums.real[..., layout.REAL_COUNT].copy()
    number = np.where(count > 0, count, np.nan)
    total = _nan_where_empty(sums.real[..., layout.SUM], number)
    if not sums.full:
        none = np.full_like(total, np.nan)
        return Moments(count, total, none, none, none, none, none)
    m2, m3, m4 = _central(sums.power, number)
    least, most = (
        _nan_where_empty(sums.real[..., word], number)
        for word in (layout.REAL_MIN, layout.REAL_MAX)
    )
    return Moments(count, total, m2, m3, m4, least, most)


def _nan_where_empty(values: np.ndarray, number: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(number), np.nan, values)


Wide = tuple[np.ndarray, np.ndarray]
"""An integer modulo 2^128: its low and its high 64 bits."""


def _add(a: Wide, b: Wide) -> Wide:
    low = a[0] + b[0]
    return low, a[1] + b[1] + (low < b[0]).astype(np.uint64)


def _subtract(a: Wide, b: Wide) -> Wide:
    return a[0] - b[0], a[1] - b[1] - (a[0] < b[0]).astype(np.uint64)


def _multiply(a: np.ndarray, b: np.ndarray) -> Wide:
    """The whole product of two uint64."""
    a0, a1, b0, b1 = a & _LOW, a >> _32, b & _LOW, b >> _32
    low = a0 * b0
    middle = a1 * b0 + (low >> _32)
    cross = a0 * b1 + (middle & _LOW)
    high = a1 * b1 + (middle >> _32) + (cross >> _32)
    return (cross << _32) | (low & _LOW), high


def _multiply_pair(a: Wide, b: np.ndarray) -> Wide:
    low, high = _multiply(a[0], b)
    return low, high + a[1] * b


def _to_float(a: Wide) -> np.ndarray:
    """A two's complement 128-bit integer as float64, rounded once."""
    low, high = np.broadcast_arrays(*a)
    negative = (high >> _63).astype(bool)
    low, high = (
        np.where(negative, ~low + np.uint64(1), low),
        np.where(negative, ~high + (low == 0).astype(np.uint64), high),
    )
    # Keep the leading 64 bits, the last of them set where anything below was: one rounding left.
    spare = np.frexp(high.astype(np.float64))[1].astype(np.uint64)
    lost = np.where(spare > 0, low & ((np.uint64(1) << (spare & _63)) - np.uint64(1)), 0)
    lost = np.where(spare >= 64, low, lost)
    leading = np.where(
        spare == 0, low, (high << ((64 - spare) & _63)) | (low >> np.minimum(spare, _63))
    )
    leading = np.where(spare >= 64, high, leading)
    magnitude = np.ldexp((leading | (lost != 0)).astype(np.float64), spare.astype(np.int32))
    return np.where(negative, -magnitude, magnitude)
