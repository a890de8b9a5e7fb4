"""The kernels in plain NumPy: they need no compiler, and the compiled ones must agree with them.

Each works on one tile. `start` and `length` describe its runs as offsets into a flattened plane
(one channel of the tile), and `slot` says which of the tile's instances a run belongs to.
"""

from __future__ import annotations

import numpy as np

from harpy_core.kernels import layout
from harpy_core.kernels.layout import LONGEST_RUN, Family, Loop, bias_of, family_of, place_of
from harpy_core.kernels.reference_contacts import contacts as contacts
from harpy_core.kernels.reference_contacts import overlaps as overlaps
from harpy_core.kernels.reference_sampling import interpolate as interpolate
from harpy_core.kernels.reference_sampling import samples as samples
from harpy_core.kernels.reference_shapes import borders as borders
from harpy_core.kernels.reference_shapes import holes as holes
from harpy_core.kernels.reference_shapes import hulls as hulls
from harpy_core.kernels.reference_shapes import second_moments as second_moments

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


class LabelIndex:
    """Rows of labels, in the order in which the labels are first met."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> np.ndarray:
        """Label of each row, (rows,) uint64."""
        return np.fromiter(self._rows, np.uint64, len(self._rows))

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Row of each label; labels met for the first time get the next ones.

        Parameters
        ----------
        ids
            uint64, each at most once.
        """
        rows = self._rows
        return np.fromiter(
            (rows.setdefault(label, len(rows)) for label in ids.tolist()), np.int64, len(ids)
        )


def encode(
    labels: np.ndarray, row_stride: int, plane_stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the runs of a label tile.

    Parameters
    ----------
    labels
        (z, y, x), integer and non-negative; 0 is background.
    row_stride, plane_stride
        Pixels from one row to the next, and from one z to the next, in the planes that the runs
        will be used on.

    Returns
    -------
    start : (runs,) int64
        Offset of a run's first pixel in a plane.
    length : (runs,) int32
        Number of its pixels, at most `LONGEST_RUN`.
    slot : (runs,) int32
        Index of the instance that it belongs to, among the tile's.
    ids : (slots,) uint64
        The labels, in the order in which the tile meets them.
    """
    depth, height, width = labels.shape
    rows = labels.reshape(depth * height, width)
    change = np.ones(rows.shape, bool)
    change[:, 1:] = rows[:, 1:] != rows[:, :-1]
    first = np.flatnonzero(change)
    length = np.diff(first, append=rows.size)
    values = rows.reshape(-1)[first]
    first, length, values = first[values != 0], length[values != 0], values[values != 0]

    whose, first, length = cut(first, length)
    row, x = np.divmod(first, max(width, 1))
    z, y = np.divmod(row, max(height, 1))
    sorted_ids, seen, inverse = np.unique(
        values[whose].astype(np.uint64), return_index=True, return_inverse=True
    )
    order = np.argsort(seen)
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    start = z * plane_stride + y * row_stride + x
    return (
        start.astype(np.int64),
        length.astype(np.int32),
        rank[inverse].astype(np.int32),
        sorted_ids[order],
    )


def cut(first: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut stretches to `LONGEST_RUN`: the stretch, first pixel and length of each piece."""
    pieces = -(-length // LONGEST_RUN)
    whose = np.repeat(np.arange(len(length)), pieces)
    before = (np.arange(len(whose)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * LONGEST_RUN
    return whose, first[whose] + before, np.minimum(length[whose] - before, LONGEST_RUN)


def geometry(
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    slots: int,
    row_stride: int,
    plane_stride: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, coordinate sums and bounding box of each slot, in the tile's own coordinates.

    Returns
    -------
    totals : (slots, 4) int64
        Pixels, then the sums of z, y and x over them.
    box : (slots, 6) int64
        Smallest z, y, x, then the largest plus one.
    """
    z, rest = np.divmod(start, plane_stride)
    y, x = np.divmod(rest, row_stride)
    n = length.astype(np.int64)
    totals = np.zeros((slots, 4), np.int64)
    np.add.at(totals, slot, np.stack([n, n * z, n * y, n * x + n * (n - 1) // 2], axis=1))
    low = np.full((slots, 3), np.iinfo(np.int64).max)
    high = np.zeros((slots, 3), np.int64)
    np.minimum.at(low, slot, np.stack([z, y, x], axis=1))
    np.maximum.at(high, slot, np.stack([z + 1, y + 1, x + n], axis=1))
    return totals, np.concatenate([low, high], axis=1)


def _pixels(start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of all pixels in runs, and the index of each run's first pixel among them."""
    bounds = np.cumsum(length) - length
    inside = np.arange(length.sum()) - np.repeat(bounds, length)
    return np.repeat(start, length) + inside, bounds


def _unsigned(values: np.ndarray) -> np.ndarray:
    """Convert integer pixels to uint64, shifted by half their range where they are signed."""
    shifted = values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values
    return shifted.astype(np.uint64) + np.uint64(bias_of(values.dtype))


def _by_slot(
    values: np.ndarray, bounds: np.ndarray, slot: np.ndarray, slots: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sum uint64 values by slot in 128 bits, as a low and a high word."""
    low = np.zeros(slots, np.uint64)
    high = np.zeros(slots, np.uint64)
    np.add.at(low, slot, np.add.reduceat(values & _LOW, bounds))
    np.add.at(high, slot, np.add.reduceat(values >> _32, bounds))
    high += low >> _32
    return (high << _32) | (low & _LOW), high >> _32


def reduce(
    planes: np.ndarray,
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    slots: int,
    loop: Loop,
    ignore_nan: bool,
) -> np.ndarray:
    """Sums and extremes of the pixels of each slot.

    Parameters
    ----------
    planes
        Channels of the tile, flattened, (c, plane).
    loop
        Name in `layout.LOOPS` of the pixels' family.
    ignore_nan
        Leave NaN pixels out of float images.

    Returns
    -------
    (slots, c, words) uint64
        The partials of the loop, in their order.
    """
    family = family_of(planes.dtype)
    words = layout.of_no_pixel(family, loop, (slots, len(planes)))
    pixels, bounds = _pixels(start, length)
    for c, plane in enumerate(planes):
        if family == "real":
            _reduce_real(plane[pixels], bounds, slot, ignore_nan, words[:, c].view(np.float64))
        else:
            _reduce_integers(_unsigned(plane[pixels]), bounds, slot, family, loop, words[:, c])
        if "extremes" in layout.LOOPS[family][loop]:
            least = place_of(family, loop, "extremes")
            _extremes(plane[pixels], bounds, slot, ignore_nan, words[:, c, least : least + 2])
    return words


def _reduce_integers(
    x: np.ndarray,
    bounds: np.ndarray,
    slot: np.ndarray,
    family: Family,
    loop: Loop,
    words: np.ndarray,
) -> None:
    slots = len(words)
    low, high = _by_slot(x, bounds, slot, slots)
    words[:, 0] = low
    if family == "wide":
        words[:, 1] = high
    if loop == "full":
        powers = words[:, place_of(family, loop, "powers") :]
        square = x * x
        for place, power in (
            (layout.SQUARE, square),
            (layout.CUBE, square * x),
            (layout.FOURTH, square * square),
        ):
            powers[:, place], powers[:, place + 1] = _by_slot(power, bounds, slot, slots)


def _reduce_real(
    values: np.ndarray, bounds: np.ndarray, slot: np.ndarray, ignore_nan: bool, words: np.ndarray
) -> None:
    x = values.astype(np.float64)
    keep = ~np.isnan(x) if ignore_nan else np.ones(x.shape, bool)
    kept = np.where(keep, x, 0.0)
    np.add.at(words[:, 0], slot, np.add.reduceat(kept, bounds))
    count = place_of("real", "sum", "count")
    np.add.at(words[:, count], slot, np.add.reduceat(keep.astype(float), bounds))


def _extremes(
    values: np.ndarray, bounds: np.ndarray, slot: np.ndarray, ignore_nan: bool, words: np.ndarray
) -> None:
    if values.dtype.kind == "f":
        words = words.view(np.float64)
        small = large = values.astype(np.float64)
        if ignore_nan:
            small = np.where(np.isnan(small), np.inf, small)
            large = np.where(np.isnan(large), -np.inf, large)
    else:
        small = large = _unsigned(values)
    np.minimum.at(words[:, layout.LEAST], slot, np.minimum.reduceat(small, bounds))
    np.maximum.at(words[:, layout.MOST], slot, np.maximum.reduceat(large, bounds))


def by_slot(slot: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Sort runs by slot: the index of the first run of each slot, and the sorted runs."""
    begin = np.concatenate([[0], np.cumsum(np.bincount(slot, minlength=slots))])
    return begin, np.argsort(slot, kind="stable")


def collect(
    plane: np.ndarray, source: np.ndarray, target: np.ndarray, length: np.ndarray, out: np.ndarray
) -> None:
    """Copy stretches of one plane to their places; like `gather`, but in the host's memory."""
    gather(plane[np.newaxis], source, target, length, 0, out)


def order_statistics(values: np.ndarray, begin: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Pixels of some ranks of each instance.

    Parameters
    ----------
    values
        Pixels without NaN, (n,), an instance's side by side; an engine may change their order.
    begin
        Index of each instance's first pixel, and the end, (instances + 1,).
    rank
        Ranks from 0, the smallest, ascending, (instances, k); within the instance if it has pixels.

    Returns
    -------
    (instances, k) of the values' type; 0 without pixels.
    """
    number = np.diff(begin)
    ordered = values[np.lexsort((values, np.repeat(np.arange(len(number)), number)))]
    found = np.zeros(rank.shape, values.dtype)
    there = number > 0
    found[there] = ordered[begin[:-1][there, np.newaxis] + rank[there]]
    return found


def count_all(plane: np.ndarray, bias: int, out: np.ndarray) -> None:
    """Count the values of narrow integers.

    Parameters
    ----------
    plane
        Pixels of any shape.
    bias
        Number added to a value to give its place.
    out : (values of the pixel type,) uint32
        Counts, added to in place.
    """
    out += np.bincount(plane.reshape(-1).astype(np.int64) + bias, minlength=len(out)).astype("u4")


def count_runs(
    plane: np.ndarray, start: np.ndarray, length: np.ndarray, bias: int, out: np.ndarray
) -> None:
    """Count the values of narrow integers inside runs of a flat plane; see `count_all`."""
    count_all(plane[_pixels(start, length)[0]], bias, out)


def sum_by(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sum float64 values by group, one after the other: the same bits in every engine.

    Parameters
    ----------
    values : (n,) float64
    group : (n,) int32
        Group of each value.

    Returns
    -------
    (groups,) float64
    """
    return np.bincount(group, values, groups)


def edge(offset: np.ndarray, begin: np.ndarray, flat: bool) -> np.ndarray:
    """Find the pixels that have a neighbour along an axis outside their instance.

    Parameters
    ----------
    offset : (3, n) int32
        z, y and x of each pixel, from the smallest of its instance; an instance's pixels are side
        by side, ascending by z, y and x.
    begin : (instances + 1,) int64
        Index of each instance's first pixel, and the end.
    flat
        Look at neighbours along y and x alone.

    Returns
    -------
    (n,) bool
    """
    number = np.diff(begin)
    owner = np.repeat(np.arange(len(number)), number)
    extent = np.zeros((len(number), 3), np.int64)
    np.maximum.at(extent, owner, offset.T.astype(np.int64) + 1)
    # An empty border on all sides, so that no neighbour is another pixel of the same number.
    depth, height, width = (extent + 2).T
    first = np.concatenate([[0], np.cumsum(depth * height * width)])
    z, y, x = offset.astype(np.int64) + 1
    place = first[owner] + (z * height[owner] + y) * width[owner] + x
    steps = (np.ones_like(width), width) if flat else (np.ones_like(width), width, height * width)
    inside = np.ones(len(place), bool)
    for step in steps:
        for neighbour in (place - step[owner], place + step[owner]):
            found = np.minimum(np.searchsorted(place, neighbour), len(place) - 1)
            inside &= place[found] == neighbour
    return ~inside


def powers(
    planes: np.ndarray,
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    pivot: np.ndarray,
    ignore_nan: bool,
) -> np.ndarray:
    """Sums of the first four powers of the pixels' distance to a pivot; wide and float pixels.

    Parameters
    ----------
    pivot
        Pivots, (slots, c): float64 for float pixels, shifted uint64 for integer ones.

    Returns
    -------
    (slots, c, 4) float64
    """
    out = np.zeros((*pivot.shape, 4))
    pixels, bounds = _pixels(start, length)
    owner = np.repeat(slot, length)
    for c, plane in enumerate(planes):
        values = plane[pixels]
        if values.dtype.kind == "f":
            distance = values.astype(np.float64) - pivot[owner, c]
            if ignore_nan:
                distance[np.isnan(values)] = 0.0
        else:
            distance = difference(_unsigned(values), pivot[owner, c])
        power = distance
        for order in range(4):
            np.add.at(out[:, c, order], slot, np.add.reduceat(power, bounds))
            power = power * distance
    return out


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return `a - b` of uint64 values as float64, rounded once."""
    return np.where(a >= b, (a - b).astype(np.float64), -((b - a).astype(np.float64)))


def gather(
    planes: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    length: np.ndarray,
    channel_stride: int,
    out: np.ndarray,
) -> None:
    """Copy stretches of pixels into windows.

    Parameters
    ----------
    planes
        Channels of the tile, flattened, (c, plane).
    source, target, length
        Offset of each stretch in a plane, its offset in `out` for the first channel, its length.
    channel_stride
        Pixels of `out` from one channel to the next.
    out
        Flat array of windows, of the planes' dtype.
    """
    pixels, _ = _pixels(source, length)
    places, _ = _pixels(target, length)
    for c, plane in enumerate(planes):
        out[places + c * channel_stride] = plane[pixels]
