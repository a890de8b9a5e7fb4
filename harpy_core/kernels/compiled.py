"""The kernels compiled with Numba: the functions of `reference`, without the GIL.

Every loop is compiled once per pixel type and cached on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harpy_core.kernels import layout
from harpy_core.kernels.compiled_contacts import contacts as contacts
from harpy_core.kernels.compiled_contacts import overlaps as overlaps
from harpy_core.kernels.compiled_counts import count_all as count_all
from harpy_core.kernels.compiled_counts import count_runs as count_runs
from harpy_core.kernels.compiled_index import LabelIndex as LabelIndex
from harpy_core.kernels.compiled_index import number as number
from harpy_core.kernels.compiled_order import jit as _jit
from harpy_core.kernels.compiled_order import order_statistics as order_statistics
from harpy_core.kernels.compiled_places import edge as edge
from harpy_core.kernels.compiled_places import sum_by as sum_by
from harpy_core.kernels.compiled_sampling import interpolate as interpolate
from harpy_core.kernels.compiled_sampling import samples as samples
from harpy_core.kernels.compiled_shapes import borders as borders
from harpy_core.kernels.compiled_shapes import holes as holes
from harpy_core.kernels.compiled_shapes import hulls as hulls
from harpy_core.kernels.compiled_shapes import second_moments as second_moments
from harpy_core.kernels.layout import LONGEST_RUN, Loop, bias_of, family_of, place_of

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_ONE = np.uint64(1)
_MOST = np.uint64(0xFFFFFFFFFFFFFFFF)

_POWERS = place_of("narrow", "full", "powers")
_SQUARE = _POWERS + layout.SQUARE
_CUBE = _POWERS + layout.CUBE
_FOURTH = _POWERS + layout.FOURTH
_FULL_MIN = place_of("narrow", "full", "extremes") + layout.LEAST
_NARROW_MIN = place_of("narrow", "extremes", "extremes") + layout.LEAST
_WIDE_MIN = place_of("wide", "extremes", "extremes") + layout.LEAST
_COUNT = place_of("real", "sum", "count")
_REAL_MIN = place_of("real", "extremes", "extremes") + layout.LEAST


# Arrays that are reassigned inside a loop cost atomic reference counts in every turn of it (50 ns a
# pixel, measured): each of these loops works on arrays that stay the same.


@_jit
def _count_runs(labels: Any, longest: Any) -> Any:
    depth, height, width = labels.shape
    runs = 0
    for z in range(depth):
        for y in range(height):
            row = labels[z, y]
            if width > 0 and row[0] != 0:
                runs += 1
            for x in range(1, width):
                runs += row[x] != 0 and row[x] != row[x - 1]
    return runs + depth * height * (width // longest)


@_jit
def _find_runs(
    labels: Any,
    row_stride: Any,
    plane_stride: Any,
    longest: Any,
    start: Any,
    length: Any,
    value: Any,
) -> Any:
    depth, height, width = labels.shape
    runs = 0
    for z in range(depth):
        for y in range(height):
            row = labels[z, y]
            base = z * plane_stride + y * row_stride
            x = 0
            while x < width:
                while x < width and row[x] == 0:
                    x += 1
                if x == width:
                    break
                first = x
                label = row[x]
                limit = min(width, first + longest)
                x += 1
                while x < limit and row[x] == label:
                    x += 1
                start[runs] = base + first
                length[runs] = x - first
                value[runs] = np.uint64(label)
                runs += 1
    return runs


@_jit
def by_slot(slot: Any, slots: Any) -> Any:
    """Sort runs by slot: the index of the first run of each slot, and the sorted runs."""
    begin = np.zeros(slots + 1, np.int64)
    for i in range(slot.size):
        begin[slot[i] + 1] += 1
    for k in range(slots):
        begin[k + 1] += begin[k]
    free = begin.copy()
    order = np.empty(slot.size, np.int64)
    for i in range(slot.size):
        order[free[slot[i]]] = i
        free[slot[i]] += 1
    return begin, order


@_jit
def _encode(labels: Any, row_stride: Any, plane_stride: Any, longest: Any) -> Any:
    room = _count_runs(labels, longest)
    start = np.empty(room, np.int64)
    length = np.empty(room, np.int32)
    value = np.empty(room, np.uint64)
    runs = _find_runs(labels, row_stride, plane_stride, longest, start, length, value)
    slot, ids = number(value[:runs])
    return start[:runs], length[:runs], slot, ids


def encode(
    labels: np.ndarray, row_stride: int, plane_stride: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find the runs of a label tile; see `reference.encode`."""
    start, length, slot, ids = _encode(labels, row_stride, plane_stride, LONGEST_RUN)
    return start, length, slot, ids


@_jit
def _geometry(
    start: Any, length: Any, slot: Any, row_stride: Any, plane_stride: Any, totals: Any, box: Any
) -> None:
    for i in range(start.size):
        z = start[i] // plane_stride
        rest = start[i] - z * plane_stride
        y = rest // row_stride
        x = rest - y * row_stride
        n = np.int64(length[i])
        k = slot[i]
        totals[k, 0] += n
        totals[k, 1] += n * z
        totals[k, 2] += n * y
        totals[k, 3] += n * x + n * (n - 1) // 2
        box[k, 0] = min(box[k, 0], z)
        box[k, 1] = min(box[k, 1], y)
        box[k, 2] = min(box[k, 2], x)
        box[k, 3] = max(box[k, 3], z + 1)
        box[k, 4] = max(box[k, 4], y + 1)
        box[k, 5] = max(box[k, 5], x + n)


def geometry(
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    slots: int,
    row_stride: int,
    plane_stride: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, coordinate sums and bounding box of each slot; see `reference.geometry`."""
    totals = np.zeros((slots, 4), np.int64)
    box = np.zeros((slots, 6), np.int64)
    box[:, :3] = np.iinfo(np.int64).max
    _geometry(start, length, slot, row_stride, plane_stride, totals, box)
    return totals, box


# One run's channels are summed together, two at a time: the run's length, the same for all of them,
# is predicted after the first, and LLVM's loop over two planes is twice as fast as over one
# (measured). The last channel of an odd number is paired with itself, which costs nothing more.
# Sums are cast back to 32 bits each time: Numba would widen them, with half as many in a vector.


@_jit
def _sum_narrow(planes: Any, start: Any, length: Any, slot: Any, bias: Any, out: Any) -> None:
    channels = planes.shape[0]
    for i in range(start.size):
        first = start[i]
        last = first + length[i]
        k = slot[i]
        # Signed pixels wrap around 2^32 on the way; adding the shift of all of them brings the
        # sum back.
        shift = np.uint32(bias * length[i])
        for c in range(0, channels, 2):
            d = min(c + 1, channels - 1)
            one = shift
            two = shift
            for p in range(first, last):
                one = np.uint32(one + np.uint32(np.int32(planes[c, p])))
                two = np.uint32(two + np.uint32(np.int32(planes[d, p])))
            out[k, c, 0] += np.uint64(one)
            if d > c:
                out[k, d, 0] += np.uint64(two)


@_jit
def _extremes_narrow(planes: Any, start: Any, length: Any, slot: Any, bias: Any, out: Any) -> None:
    channels = planes.shape[0]
    for i in range(start.size):
        first = start[i]
        last = first + length[i]
        k = slot[i]
        shift = np.uint32(bias * length[i])
        for c in range(0, channels, 2):
            d = min(c + 1, channels - 1)
            one = shift
            two = shift
            x_least = y_least = np.int32(0x7FFFFFFF)
            x_most = y_most = np.int32(-0x80000000)
            for p in range(first, last):
                x = np.int32(planes[c, p])
                y = np.int32(planes[d, p])
                one = np.uint32(one + np.uint32(x))
                two = np.uint32(two + np.uint32(y))
                x_least = np.int32(min(x_least, x))
                x_most = np.int32(max(x_most, x))
                y_least = np.int32(min(y_least, y))
                y_most = np.int32(max(y_most, y))
            out[k, c, 0] += np.uint64(one)
            _add_extremes(out[k, c], _NARROW_MIN, x_least + bias, x_most + bias)
            if d > c:
                out[k, d, 0] += np.uint64(two)
                _add_extremes(out[k, d], _NARROW_MIN, y_least + bias, y_most + bias)


@_jit
def _add_extremes(words: Any, place: Any, least: Any, most: Any) -> None:
    words[place] = min(words[place], np.uint64(least))
    words[place + 1] = max(words[place + 1], np.uint64(most))


@_jit
def _add_wide(words: Any, place: Any, low: Any, high: Any) -> None:
    """Add an integer of two words to one in `words`."""
    total = words[place] + low
    words[place + 1] += high
    if total < low:
        words[place + 1] += _ONE
    words[place] = total


@_jit
def _add_powers(
    words: Any, total: Any, square: Any, cube: Any, fourth_low: Any, fourth_high: Any
) -> None:
    words[0] += total
    _add_wide(words, _SQUARE, square, np.uint64(0))
    _add_wide(words, _CUBE, cube, np.uint64(0))
    fourth_high += fourth_low >> _32
    fourth = (fourth_high << _32) | (fourth_low & _LOW)
    _add_wide(words, _FOURTH, fourth, fourth_high >> _32)


@_jit
def _full_narrow(planes: Any, start: Any, length: Any, slot: Any, bias: Any, out: Any) -> None:
    channels = planes.shape[0]
    for i in range(start.size):
        first = start[i]
        last = first + length[i]
        k = slot[i]
        for c in range(0, channels, 2):
            d = min(c + 1, channels - 1)
            x1 = x2 = x3 = x4_low = x4_high = np.uint64(0)
            y1 = y2 = y3 = y4_low = y4_high = np.uint64(0)
            x_least = y_least = np.uint32(0xFFFFFFFF)
            x_most = y_most = np.uint32(0)
            for p in range(first, last):
                x = np.uint64(np.uint32(np.int32(planes[c, p]) + bias))
                square = (x * x) & _LOW
                fourth = square * square
                x1 += x
                x2 += square
                x3 += square * x
                x4_low += fourth & _LOW
                x4_high += fourth >> _32
                x_least = np.uint32(min(x_least, np.uint32(x)))
                x_most = np.uint32(max(x_most, np.uint32(x)))
                y = np.uint64(np.uint32(np.int32(planes[d, p]) + bias))
                square = (y * y) & _LOW
                fourth = square * square
                y1 += y
                y2 += square
                y3 += square * y
                y4_low += fourth & _LOW
                y4_high += fourth >> _32
                y_least = np.uint32(min(y_least, np.uint32(y)))
                y_most = np.uint32(max(y_most, np.uint32(y)))
            _add_powers(out[k, c], x1, x2, x3, x4_low, x4_high)
            _add_extremes(out[k, c], _FULL_MIN, x_least, x_most)
            if d > c:
                _add_powers(out[k, d], y1, y2, y3, y4_low, y4_high)
                _add_extremes(out[k, d], _FULL_MIN, y_least, y_most)


@_jit
def _reduce_wide(
    planes: Any, start: Any, length: Any, slot: Any, bias: Any, extremes: Any, out: Any
) -> None:
    for i in range(start.size):
        first = start[i]
        last = first + length[i]
        k = slot[i]
        for c in range(planes.shape[0]):
            low = out[k, c, 0]
            high = out[k, c, 1]
            least = _MOST
            most = np.uint64(0)
            for p in range(first, last):
                x = np.uint64(planes[c, p]) + bias
                low += x
                if low < x:
                    high += _ONE
                least = min(least, x)
                most = max(most, x)
            out[k, c, 0] = low
            out[k, c, 1] = high
            if extremes:
                _add_extremes(out[k, c], _WIDE_MIN, least, most)


@_jit
def _reduce_real(
    planes: Any, start: Any, length: Any, slot: Any, extremes: Any, ignore_nan: Any, out: Any
) -> None:
    for i in range(start.size):
        first = start[i]
        last = first + length[i]
        k = slot[i]
        for c in range(planes.shape[0]):
            total = 0.0
            count = 0
            least = out[k, c, _REAL_MIN] if extremes else 0.0
            most = out[k, c, _REAL_MIN + 1] if extremes else 0.0
            for p in range(first, last):
                x = np.float64(planes[c, p])
                if ignore_nan and x != x:
                    continue
                total += x
                count += 1
                if x < least or x != x:
                    least = x
                if x > most or x != x:
                    most = x
            out[k, c, 0] += total
            out[k, c, _COUNT] += count
            if extremes:
                out[k, c, _REAL_MIN] = least
                out[k, c, _REAL_MIN + 1] = most


def reduce(
    planes: np.ndarray,
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    slots: int,
    loop: Loop,
    ignore_nan: bool,
) -> np.ndarray:
    """Sums and extremes of the pixels of each slot; see `reference.reduce`."""
    family = family_of(planes.dtype)
    words = layout.of_no_pixel(family, loop, (slots, len(planes)))
    table = (start, length, slot)
    bias = bias_of(planes.dtype)
    if family == "real":
        _reduce_real(planes, *table, loop == "extremes", ignore_nan, words.view(np.float64))
    elif family == "wide":
        _reduce_wide(planes, *table, np.uint64(bias), loop == "extremes", words)
    else:
        narrow = {"sum": _sum_narrow, "extremes": _extremes_narrow, "full": _full_narrow}[loop]
        narrow(planes, *table, np.int32(bias), words)
    return words


@_jit
def _powers_real(
    planes: Any, start: Any, length: Any, slot: Any, pivot: Any, ignore_nan: Any, out: Any
) -> None:
    for i in range(start.size):
        first = start[i]
        last = first + length[i]
        k = slot[i]
        for c in range(planes.shape[0]):
            centre = pivot[k, c]
            one = two = three = four = 0.0
            for p in range(first, last):
                x = np.float64(planes[c, p])
                if ignore_nan and x != x:
                    continue
                d = x - centre
                d2 = d * d
                one += d
                two += d2
                three += d2 * d
                four += d2 * d2
            out[k, c, 0] += one
            out[k, c, 1] += two
            out[k, c, 2] += three
            out[k, c, 3] += four


@_jit
def _powers_wide(
    planes: Any, start: Any, length: Any, slot: Any, bias: Any, pivot: Any, out: Any
) -> None:
    for i in range(start.size):
        first = start[i]
        last = first + length[i]
        k = slot[i]
        for c in range(planes.shape[0]):
            centre = pivot[k, c]
            one = two = three = four = 0.0
            for p in range(first, last):
                x = np.uint64(planes[c, p]) + bias
                d = np.float64(x - centre) if x >= centre else -np.float64(centre - x)
                d2 = d * d
                one += d
                two += d2
                three += d2 * d
                four += d2 * d2
            out[k, c, 0] += one
            out[k, c, 1] += two
            out[k, c, 2] += three
            out[k, c, 3] += four


def powers(
    planes: np.ndarray,
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    pivot: np.ndarray,
    ignore_nan: bool,
) -> np.ndarray:
    """Sums of the first four powers about a pivot; see `reference.powers`."""
    out = np.zeros((*pivot.shape, 4))
    if planes.dtype.kind == "f":
        _powers_real(planes, start, length, slot, pivot, ignore_nan, out)
    else:
        bias = np.uint64(bias_of(planes.dtype))
        _powers_wide(planes, start, length, slot, bias, pivot, out)
    return out


@_jit
def _gather(planes: Any, source: Any, target: Any, length: Any, stride: Any, out: Any) -> None:
    for c in range(planes.shape[0]):
        plane = planes[c]
        shift = c * stride
        for i in range(source.size):
            # Unsigned: signed ones may count from the end, and checking for that takes time.
            first = np.uint64(source[i])
            place = np.uint64(target[i] + shift)
            for p in range(np.uint64(length[i])):
                out[place + p] = plane[first + p]


def gather(
    planes: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    length: np.ndarray,
    channel_stride: int,
    out: np.ndarray,
) -> None:
    """Copy stretches of pixels into windows; see `reference.gather`."""
    _gather(planes, source, target, length, channel_stride, out)


def collect(
    plane: np.ndarray, source: np.ndarray, target: np.ndarray, length: np.ndarray, out: np.ndarray
) -> None:
    """Copy stretches of one plane to their places; see `reference.collect`."""
    _gather(plane[np.newaxis], source, target, length, 0, out)
