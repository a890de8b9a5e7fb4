"""The kernels of shapes compiled with Numba: the functions of `reference_shapes`."""

from __future__ import annotations

from typing import Any

import numpy as np

from harpy_core.kernels import corners
from harpy_core.kernels.compiled_order import jit as _jit

_KINDS = corners.border_kinds()
_CORNERS_FLAT = corners.corner_signs(2)
_CORNERS = corners.corner_signs(3)
_STEPS = np.array(corners.SPACE)
_PLACES = np.array([corners.CROSSINGS.start + corners.kind_of(step) for step in corners.SPACE])
_X, _Y, _YX = (corners.CROSSINGS.start + corners.AXES_OF_LINES.index(n) for n in ("x", "y", "yx"))
_EULER = corners.EULER


@_jit
def _second_moments(
    start: Any, length: Any, slot: Any, row_stride: Any, plane_stride: Any, out: Any
) -> None:
    for i in range(start.size):
        z = start[i] // plane_stride
        rest = start[i] - z * plane_stride
        y = rest // row_stride
        x = rest - y * row_stride
        n = np.int64(length[i])
        along = n * x + n * (n - 1) // 2
        k = slot[i]
        out[k, 0] += n * z * z
        out[k, 1] += n * z * y
        out[k, 2] += z * along
        out[k, 3] += n * y * y
        out[k, 4] += y * along
        out[k, 5] += n * x * x + x * n * (n - 1) + (n - 1) * n * (2 * n - 1) // 6


def second_moments(
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    slots: int,
    row_stride: int,
    plane_stride: int,
) -> np.ndarray:
    """Sums of products of two coordinates; see `reference_shapes.second_moments`."""
    out = np.zeros((slots, 6), np.int64)
    _second_moments(start, length, slot, row_stride, plane_stride, out)
    return out.view(np.uint64)


@_jit
def _box(first: Any, last: Any, z: Any, y: Any, x: Any, length: Any) -> Any:
    """Smallest z, y and x of some runs, then the largest plus one."""
    low_z = low_y = low_x = np.int64(0x7FFFFFFFFFFFFFFF)
    high_z = high_y = high_x = np.int64(0)
    for r in range(first, last):
        low_z = min(low_z, np.int64(z[r]))
        low_y = min(low_y, np.int64(y[r]))
        low_x = min(low_x, np.int64(x[r]))
        high_z = max(high_z, np.int64(z[r]) + 1)
        high_y = max(high_y, np.int64(y[r]) + 1)
        high_x = max(high_x, np.int64(x[r]) + length[r])
    return low_z, low_y, low_x, high_z, high_y, high_x


@_jit
def _boxes(begin: Any, z: Any, y: Any, x: Any, length: Any, out: Any) -> None:
    for i in range(begin.size - 1):
        out[i] = _box(begin[i], begin[i + 1], z, y, x, length)


# Three rows at a time: of pixels, and of border pixels, which are known a row later; what is
# counted of border pixels is known a row after that.


@_jit
def _borders_flat(
    begin: Any,
    y: Any,
    x: Any,
    length: Any,
    box: Any,
    rows: Any,
    edge: Any,
    kinds: Any,
    signs: Any,
    out: Any,
) -> None:
    for i in range(begin.size - 1):
        low_y = box[i, 1]
        low_x = box[i, 2]
        width = box[i, 5] - low_x + 4
        rows[:, :width] = 0
        edge[:, :width] = 0
        run = begin[i]
        across = down = slanted = euler = np.int64(0)
        for row in range(low_y, box[i, 4] + 3):
            here = row % 3
            before = (row + 2) % 3
            earlier = (row + 1) % 3
            rows[here, :width] = 0
            while run < begin[i + 1] and y[run] == row:
                first = x[run] - low_x + 2
                rows[here, first : first + length[run]] = 1
                run += 1
            for p in range(1, width - 1):
                up = rows[before, p]
                left = rows[here, p - 1]
                pixel = rows[here, p]
                corner = rows[before, p - 1]
                across += pixel & ~left & 1
                down += pixel & ~up & 1
                slanted += (pixel & ~corner & 1) + (pixel & ~rows[before, p + 1] & 1)
                euler += signs[pixel | left << 1 | up << 2 | corner << 3]
                # Of the row before, whose neighbours are all known now.
                inner = rows[earlier, p] & pixel & corner & rows[before, p + 1]
                edge[before, p] = up & ~inner & 1
            for p in range(1, width - 1):
                if edge[earlier, p]:
                    sides = (
                        edge[earlier, p - 1]
                        + edge[earlier, p + 1]
                        + edge[before, p]
                        + edge[here, p]
                    )
                    diagonal = (
                        edge[here, p - 1]
                        + edge[here, p + 1]
                        + edge[before, p - 1]
                        + edge[before, p + 1]
                    )
                    kind = kinds[2 * sides + 10 * diagonal]
                    if kind >= 0:
                        out[i, kind] += 1
        out[i, _X] = across
        out[i, _Y] = down
        out[i, _YX] = slanted
        out[i, _EULER] = euler >> 2


@_jit
def _fill_plane(
    plane: Any,
    level: Any,
    run: Any,
    last: Any,
    low_y: Any,
    low_x: Any,
    z: Any,
    y: Any,
    x: Any,
    length: Any,
) -> Any:
    while run < last and z[run] == level:
        first = x[run] - low_x + 1
        plane[y[run] - low_y + 1, first : first + length[run]] = 1
        run += 1
    return run


@_jit
def _borders_deep(
    begin: Any,
    z: Any,
    y: Any,
    x: Any,
    length: Any,
    box: Any,
    planes: Any,
    steps: Any,
    places: Any,
    signs: Any,
    out: Any,
) -> None:
    for i in range(begin.size - 1):
        height = box[i, 4] - box[i, 1] + 2
        width = box[i, 5] - box[i, 2] + 2
        planes[:, :height, :width] = 0
        run = begin[i]
        euler = np.int64(0)
        for level in range(box[i, 0], box[i, 3] + 1):
            here = level % 2
            planes[here, :height, :width] = 0
            run = _fill_plane(
                planes[here], level, run, begin[i + 1], box[i, 1], box[i, 2], z, y, x, length
            )
            for r in range(1, height):
                for p in range(1, width):
                    block = 0
                    for bit in range(8):
                        at = here if bit < 4 else 1 - here
                        block |= planes[at, r - (bit >> 1 & 1), p - (bit & 1)] << bit
                    euler += signs[block]
                    if block & 1:
                        for s in range(places.size):
                            at = here if steps[s, 0] == 0 else 1 - here
                            behind = planes[at, r - steps[s, 1], p - steps[s, 2]]
                            out[i, places[s]] += 1 - behind
        out[i, _EULER] = euler >> 3


def borders(
    begin: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, length: np.ndarray, flat: bool
) -> np.ndarray:
    """Counts of border pixels, crossings and corners; see `reference_shapes.borders`."""
    out = np.zeros((len(begin) - 1, corners.WORDS), np.int64)
    if not len(out):
        return out
    box = np.empty((len(out), 6), np.int64)
    _boxes(begin, z, y, x, length, box)
    _, tall, wide = (box[:, 3:] - box[:, :3]).max(axis=0)
    if flat:
        rows, edge = np.zeros((2, 3, wide + 4), np.uint8)
        _borders_flat(begin, y, x, length, box, rows, edge, _KINDS, _CORNERS_FLAT, out)
    else:
        planes = np.zeros((2, tall + 2, wide + 2), np.uint8)
        _borders_deep(begin, z, y, x, length, box, planes, _STEPS, _PLACES, _CORNERS, out)
    return out


# A hull is kept as its left and its right side, (row, value) in half pixels, by row. The right side
# is mirrored, so that both are convex to the same side.


@_jit
def _push(chain: Any, size: Any, row: Any, value: Any) -> Any:
    """Append a point to a chain of `size` points that stays convex; the points that it has then."""
    while size > 1:
        a, b = chain[size - 2]
        c, d = chain[size - 1]
        if (d - b) * (row - a) < (value - b) * (c - a):
            break
        size -= 1
    chain[size, 0] = row
    chain[size, 1] = value
    return size + 1


@_jit
def _side(ends: Any, rows: Any, none: Any, chain: Any) -> Any:
    """Convex chain around the diamonds of the outermost pixel of each row; its points.

    A row without pixels has the end `none`.
    """
    size = 0
    for between in range(2 * rows + 1):
        row = between - 1
        value = none
        if row % 2 == 0:
            if ends[row // 2] != none:
                value = 2 * ends[row // 2] - 1
        else:
            if row > 0 and ends[(row - 1) // 2] != none:
                value = 2 * ends[(row - 1) // 2]
            if (row + 1) // 2 < rows and ends[(row + 1) // 2] != none:
                value = min(value, 2 * ends[(row + 1) // 2])
        if value != none:
            size = _push(chain, size, row, value)
    return size


@_jit
def _inward(chain: Any, rows: Any, ends: Any) -> None:
    """Write the outermost pixel of each row whose centre is not beyond a chain."""
    edge = 0
    for r in range(rows):
        while chain[edge + 1, 0] < 2 * r:
            edge += 1
        a, b = chain[edge]
        c, d = chain[edge + 1]
        below = 2 * (c - a)
        ends[r] = -(-(b * (c - a) + (d - b) * (2 * r - a)) // below)


@_jit
def _hulls(
    begin: Any,
    y: Any,
    x: Any,
    length: Any,
    box: Any,
    left: Any,
    right: Any,
    one: Any,
    other: Any,
    out: Any,
) -> None:
    none = np.int64(0x7FFFFFFFFFFFFFFF)
    for i in range(begin.size - 1):
        low_y = box[i, 1]
        low_x = box[i, 2]
        rows = box[i, 4] - low_y
        left[:rows] = none
        right[:rows] = none
        for run in range(begin[i], begin[i + 1]):
            r = y[run] - low_y
            first = x[run] - low_x
            left[r] = min(left[r], first)
            right[r] = min(right[r], -(first + length[run] - 1))
        _side(left, rows, none, one)
        _side(right, rows, none, other)
        _inward(one, rows, left)
        _inward(other, rows, right)
        for r in range(rows):
            if left[r] <= -right[r]:
                out[i, 0] += -right[r] - left[r] + 1
            else:
                left[r] = right[r] = none
        ones = _side(left, rows, none, one)
        others = _side(right, rows, none, other)
        out[i, 1] = _farthest(one, ones, other, others)


@_jit
def _farthest(one: Any, ones: Any, other: Any, others: Any) -> Any:
    """Square of the longest distance between points of a hull's left and mirrored right side."""
    far = np.int64(0)
    for j in range(ones):
        for k in range(ones):
            far = max(far, (one[j, 0] - one[k, 0]) ** 2 + (one[j, 1] - one[k, 1]) ** 2)
        for k in range(others):
            far = max(far, (one[j, 0] - other[k, 0]) ** 2 + (one[j, 1] + other[k, 1]) ** 2)
    for j in range(others):
        for k in range(others):
            far = max(far, (other[j, 0] - other[k, 0]) ** 2 + (other[j, 1] - other[k, 1]) ** 2)
    return far


def hulls(
    begin: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Pixels and diameter of each convex hull; see `reference_shapes.hulls`."""
    out = np.zeros((len(begin) - 1, 2), np.int64)
    if not len(out):
        return out
    box = np.empty((len(out), 6), np.int64)
    _boxes(begin, z, y, x, length, box)
    tall = int((box[:, 4] - box[:, 1]).max())
    left, right = np.empty((2, tall), np.int64)
    one, other = np.empty((2, 2 * tall + 1, 2), np.int64)
    _hulls(begin, y, x, length, box, left, right, one, other, out)
    return out


@_jit
def _root(parent: Any, node: Any) -> Any:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@_jit
def _join(parent: Any, a: Any, b: Any) -> None:
    a = _root(parent, a)
    b = _root(parent, b)
    # The outside, 0, stays a root.
    parent[max(a, b)] = min(a, b)


@_jit
def _gaps(
    first: Any,
    last: Any,
    z: Any,
    y: Any,
    x: Any,
    length: Any,
    box: Any,
    rows: Any,
    low: Any,
    high: Any,
    parent: Any,
    flat: Any,
) -> Any:
    """Find the gaps of an instance's rows inside its box; join those at the box to the outside.

    Gap g has node g + 1; rows[r] is the first gap of row r.
    """
    height = box[4] - box[1]
    depth = box[3] - box[0]
    run = first
    gaps = 0
    for row in range(height * depth):
        rows[row] = gaps
        level = row // height
        line = row - level * height
        outside = line == 0 or line == height - 1
        outside = outside or (not flat and (level == 0 or level == depth - 1))
        at = box[2]
        ended = False
        while not ended:
            ended = run == last or (z[run] - box[0]) * height + y[run] - box[1] != row
            end = box[5] if ended else x[run]
            if end > at:
                low[gaps] = at
                high[gaps] = end
                beyond = outside or at == box[2] or end == box[5]
                parent[gaps + 1] = 0 if beyond else gaps + 1
                gaps += 1
            if not ended:
                at = x[run] + length[run]
                run += 1
    rows[height * depth] = gaps
    return gaps


@_jit
def _join_rows(row: Any, above: Any, rows: Any, low: Any, high: Any, parent: Any) -> None:
    """Join the gaps of two neighbouring rows that touch, across corners too."""
    a = rows[row]
    b = rows[above]
    while a < rows[row + 1] and b < rows[above + 1]:
        if low[a] <= high[b] and low[b] <= high[a]:
            _join(parent, a + 1, b + 1)
        if high[a] < high[b]:
            a += 1
        else:
            b += 1


@_jit
def _filled(
    begin: Any,
    z: Any,
    y: Any,
    x: Any,
    length: Any,
    box: Any,
    flat: Any,
    rows: Any,
    low: Any,
    high: Any,
    parent: Any,
    out: Any,
) -> None:
    for i in range(begin.size - 1):
        parent[0] = 0
        gaps = _gaps(begin[i], begin[i + 1], z, y, x, length, box[i], rows, low, high, parent, flat)
        height = box[i, 4] - box[i, 1]
        for row in range(height * (box[i, 3] - box[i, 0])):
            line = row % height
            if line > 0:
                _join_rows(row, row - 1, rows, low, high, parent)
            if row >= height:
                for above in range(max(line - 1, 0), min(line + 2, height)):
                    _join_rows(row, row - line - height + above, rows, low, high, parent)
        for run in range(begin[i], begin[i + 1]):
            out[i, 0] += length[run]
        for gap in range(gaps):
            if _root(parent, gap + 1) != 0:
                out[i, 0] += high[gap] - low[gap]


def holes(
    begin: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, length: np.ndarray, flat: bool
) -> np.ndarray:
    """Pixels of each instance with those of its holes; see `reference_shapes.holes`."""
    out = np.zeros((len(begin) - 1, 1), np.int64)
    if not len(out):
        return out
    box = np.empty((len(out), 6), np.int64)
    _boxes(begin, z, y, x, length, box)
    deep, tall, _ = (box[:, 3:] - box[:, :3]).T
    rows = np.empty(int((deep * tall).max()) + 1, np.int64)
    most = int((np.diff(begin) + deep * tall).max())
    low, high = np.empty((2, most), np.int64)
    parent = np.empty(most + 1, np.int64)
    _filled(begin, z, y, x, length, box, flat, rows, low, high, parent, out)
    return out
