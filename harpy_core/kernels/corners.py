"""Layout of what the kernels of outlines count, and the tables that they count by.

A crossing is a pixel whose neighbour in a direction is not of the instance: the number of stretches
that lines in this direction have inside it.
"""

from __future__ import annotations

import itertools

import numpy as np

STRAIGHT, SLANTED, BENT = 0, 1, 2
"""Words of the border pixels of each kind: the line through them is straight, along a diagonal, or
bends from one to the other."""

CROSSINGS = slice(3, 10)
"""Words of the crossings along each of `AXES_OF_LINES`."""

EULER = 10
"""Word of the Euler number."""

WORDS = 11

AXES_OF_LINES = ("x", "y", "z", "yx", "zx", "zy", "zyx")
"""Axes along which lines of the same kind run, two of ``yx``, ``zx`` and ``zy`` and four of
``zyx``."""

KIND_OF_LINE = ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1))
"""Step (z, y, x) along the first line of each kind."""

PLANE = ((0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 1, -1))
"""Steps (z, y, x) along the lines of a plane."""

SPACE = (
    *PLANE,
    (1, 0, 0),
    (1, 0, 1),
    (1, 0, -1),
    (1, 1, 0),
    (1, -1, 0),
    (1, 1, 1),
    (1, 1, -1),
    (1, -1, 1),
    (1, -1, -1),
)
"""Steps (z, y, x) along the lines of a volume."""


def kind_of(step: tuple[int, int, int]) -> int:
    """Place of a step's line in `AXES_OF_LINES`."""
    z, y, x = (abs(n) for n in step)
    return KIND_OF_LINE.index((z, y, x))


def border_kinds() -> np.ndarray:
    """Kind of a border pixel by 2 × its border neighbours across sides + 10 × across corners.

    The kinds and their lengths 1, 2^(1/2) and (1 + 2^(1/2)) / 2 are those of Benkrid and Crookes
    (2000), as `skimage.measure.perimeter` has them; -1 has none.
    """
    kinds = np.full(49, -1, np.int8)
    kinds[[4, 6, 14, 16, 24, 26]] = STRAIGHT
    kinds[[20, 32]] = SLANTED
    kinds[[12, 22]] = BENT
    return kinds


def corner_signs(axes: int) -> np.ndarray:
    """Contribution of each 2 × 2 (× 2) block of pixels to the Euler number, times 2^axes.

    A block has the bits of its pixels, x first; it is the surroundings of one corner of pixels.
    The Euler number is that of the union of closed pixels, corners - sides + pixels, and each side
    of a pixel is shared by the blocks around its corners.
    """
    pixels = list(itertools.product((0, 1), repeat=axes))
    signs = np.zeros(1 << len(pixels), np.int64)
    for block in range(len(signs)):
        there = {p for i, p in enumerate(pixels) if block >> i & 1}
        total = 0
        # A cell at the corner extends along some axes, to either side of it.
        for sides in itertools.product((None, 0, 1), repeat=axes):
            extent = sum(side is not None for side in sides)
            touched = any(
                all(s is None or s == p for s, p in zip(sides, pixel, strict=True))
                for pixel in there
            )
            total += touched * (-1) ** extent * 2 ** (axes - extent)
        signs[block] = total
    return signs
