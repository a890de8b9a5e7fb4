"""The kernels of shapes in plain NumPy and SciPy: with `reference`, an engine.

Runs of several instances lie side by side: those of instance i from begin[i] to begin[i + 1], and
their place is that of their first pixel in the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from harpy_core.kernels import corners

Points = list[tuple[int, int]]


def second_moments(
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    slots: int,
    row_stride: int,
    plane_stride: int,
) -> np.ndarray:
    """Sums of zz, zy, zx, yy, yx and xx over the pixels of each slot, in the tile's coordinates.

    Returns
    -------
    (slots, 6) uint64
    """
    z, rest = np.divmod(start, plane_stride)
    y, x = np.divmod(rest, row_stride)
    n = length.astype(np.int64)
    along = n * x + n * (n - 1) // 2
    square = n * x * x + x * n * (n - 1) + (n - 1) * n * (2 * n - 1) // 6
    found = np.zeros((slots, 6), np.int64)
    products = [n * z * z, n * z * y, z * along, n * y * y, y * along, square]
    np.add.at(found, slot, np.stack(products, axis=1))
    return found.view(np.uint64)


def borders(
    begin: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, length: np.ndarray, flat: bool
) -> np.ndarray:
    """Counts of border pixels, crossings and corners of each instance.

    Parameters
    ----------
    begin : (instances + 1,) int64
        Index of each instance's first run, and the end.
    z, y, x, length : (runs,)
        Place of each run's first pixel, and number of its pixels; by row within an instance.
    flat
        Whether the labels have two axes.

    Returns
    -------
    (instances, `corners.WORDS`) int64
    """
    found = np.zeros((len(begin) - 1, corners.WORDS), np.int64)
    kinds, signs = corners.border_kinds(), corners.corner_signs(2 if flat else 3)
    for i, mask in enumerate(_masks(begin, z, y, x, length)):
        padded = np.pad(mask[0] if flat else mask, 2)
        for step in corners.PLANE if flat else corners.SPACE:
            shift = step[1:] if flat else step
            behind = np.roll(padded, shift, range(padded.ndim))
            place = corners.CROSSINGS.start + corners.kind_of(step)
            found[i, place] += np.count_nonzero(padded & ~behind)
        found[i, corners.EULER] = _euler(padded, signs)
        if flat:
            found[i, : corners.CROSSINGS.start] = _border_pixels(padded, kinds)
    return found


def _euler(padded: np.ndarray, signs: np.ndarray) -> int:
    blocks = np.zeros(padded.shape, np.int64)
    for bit, shift in enumerate(np.ndindex((2,) * padded.ndim)):
        blocks += np.roll(padded, shift, range(padded.ndim)).astype(np.int64) << bit
    return int(signs[blocks].sum()) >> padded.ndim


def _border_pixels(padded: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    sides = [np.roll(padded, n, axis) for n in (-1, 1) for axis in (0, 1)]
    border = padded & ~np.logical_and.reduce(sides)
    code = np.zeros(border.shape, np.int64)
    for dy, dx in np.ndindex(3, 3):
        weight = (0, 2, 10)[abs(dy - 1) + abs(dx - 1)]
        code += weight * np.roll(border, (dy - 1, dx - 1), (0, 1))
    return np.bincount(kinds[code[border]] + 1, minlength=4)[1:]


def hulls(
    begin: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """Pixels of each instance's convex hull, and 4 × the square of its diameter.

    A pixel is the diamond of the middles of its sides, as in
    `skimage.morphology.convex_hull_image`; the hull has the pixels whose centre lies in it, and its
    diameter is that of their diamonds.

    Returns
    -------
    (instances, 2) int64
    """
    found = np.zeros((len(begin) - 1, 2), np.int64)
    for i, mask in enumerate(_masks(begin, z, y, x, length)):
        rows = {r: np.flatnonzero(row) for r, row in enumerate(mask[0]) if row.any()}
        left, right = ({r: int(at[end]) for r, at in rows.items()} for end in (0, -1))
        low, high = _hull(left, -1), [(r, -v) for r, v in _hull(_mirrored(right), -1)]
        hull = {}
        for r in range(mask.shape[1]):
            first = -(-_at(low, 2 * r)[0] // (2 * _at(low, 2 * r)[1]))
            last = _at(high, 2 * r)[0] // (2 * _at(high, 2 * r)[1])
            if first <= last:
                hull[r] = (first, last)
        found[i, 0] = sum(last - first + 1 for first, last in hull.values())
        ends = _hull({r: a for r, (a, _) in hull.items()}, -1)
        ends += [(r, -v) for r, v in _hull({r: -b for r, (_, b) in hull.items()}, -1)]
        points = np.array(ends)
        far = points[:, np.newaxis] - points
        found[i, 1] = (far**2).sum(axis=-1).max()
    return found


def _mirrored(rows: dict[int, int]) -> dict[int, int]:
    return {r: -v for r, v in rows.items()}


def _hull(rows: dict[int, int], reach: int) -> Points:
    """Convex chain left of the diamonds of some pixels, one a row, in half pixels, by row."""
    points: dict[int, int] = {}
    for r, v in rows.items():
        for row, value in ((2 * r - 1, 2 * v), (2 * r, 2 * v + reach), (2 * r + 1, 2 * v)):
            points[row] = min(value, points.get(row, value))
    chain: Points = []
    for row, value in sorted(points.items()):
        while len(chain) > 1:
            (a, b), (c, d) = chain[-2:]
            if (d - b) * (row - a) < (value - b) * (c - a):
                break
            chain.pop()
        chain.append((row, value))
    return chain


def _at(chain: Points, row: int) -> tuple[int, int]:
    """Value of a chain at a row, as numerator and denominator."""
    for (a, b), (c, d) in pairwise(chain):
        if a <= row <= c:
            return b * (c - a) + (d - b) * (row - a), c - a
    raise ValueError(f"row {row} is not in the hull")


def holes(
    begin: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, length: np.ndarray, flat: bool
) -> np.ndarray:
    """Pixels of each instance with those of its holes, (instances, 1) int64."""
    # Every engine has this module behind its own functions, and few ask for holes.
    from scipy import ndimage

    found = np.zeros((len(begin) - 1, 1), np.int64)
    for i, mask in enumerate(_masks(begin, z, y, x, length)):
        own = mask[0] if flat else mask
        found[i] = np.count_nonzero(ndimage.binary_fill_holes(own, np.ones((3,) * own.ndim)))
    return found


def _masks(
    begin: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, length: np.ndarray
) -> Iterator[np.ndarray]:
    """Yield the mask of each instance in its bounding box, (z, y, x) bool."""
    for first, last in pairwise(begin):
        some = slice(first, last)
        corner = [int(axis[some].min()) for axis in (z, y, x)]
        ends = [int(axis[some].max()) + 1 for axis in (z, y)]
        ends.append(int((x[some] + length[some]).max()))
        mask = np.zeros([b - a for a, b in zip(corner, ends, strict=True)], bool)
        for run in range(first, last):
            here = x[run] - corner[2]
            mask[z[run] - corner[0], y[run] - corner[1], here : here + length[run]] = True
        yield mask
