"""Layout of what a kernel writes for an instance and channel: words of partials, by pixel type.

There are three families of pixel types, each with the arithmetic that suits it:

narrow
    integers of at most 16 bits. Sums of the first four powers fit integers, so nothing is ever
    rounded: they take two words each where one can overflow.
wide
    integers of 32 and 64 bits. The sum is exact in two words; higher moments are float64 sums of
    powers of the distance to an integer pivot near the mean.
real
    floats. Sums and moments in float64, the moments about a pivot near the mean.

A word is 8 bytes and kept as uint64; those of floats are the bits of a float64.

Signed integers are shifted by half their range (`bias_of`), which keeps their order and lets one
unsigned kernel serve both; the shift is undone when statistics are finished.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

LONGEST_RUN = 1 << 15
"""Pixels of the longest run; others are cut, so that sums over 16-bit pixels fit 32 bits."""

FARTHEST = 10_000
"""Longest distance by which labels grow, in pixels: squares of it, added, fit 32 bits."""

Family = Literal["narrow", "wide", "real"]

Loop = Literal["sum", "extremes", "full"]
"""A loop over the pixels of a tile, which makes several partials at once."""

LOOPS: dict[Family, dict[Loop, dict[str, int]]] = {
    "narrow": {
        "sum": {"sum": 1},
        "extremes": {"sum": 1, "extremes": 2},
        "full": {"sum": 1, "powers": 6, "extremes": 2},
    },
    "wide": {"sum": {"sum": 2}, "extremes": {"sum": 2, "extremes": 2}},
    "real": {
        "sum": {"sum": 1, "count": 1},
        "extremes": {"sum": 1, "count": 1, "extremes": 2},
    },
}
"""Partials that each loop writes for an instance and channel, in the order of their words, with the
number of words of each. Cheaper loops come first."""

SQUARE, CUBE, FOURTH = 0, 2, 4
"""Words of ``powers`` of narrow pixels, the lower one of each two."""

LEAST, MOST = 0, 1
"""Words of ``extremes``."""


def family_of(dtype: np.dtype) -> Family:
    """Family of a pixel type, which decides its arithmetic.

    Raises
    ------
    TypeError
        The type is not an integer or a float of up to 64 bits.
    """
    if dtype.kind in "iu":
        return "narrow" if dtype.itemsize <= 2 else "wide"
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return "real"
    raise TypeError(f"pixels of type {dtype} cannot be measured")


def bias_of(dtype: np.dtype) -> int:
    """Number that is added to a pixel to make it unsigned."""
    return 1 << (8 * dtype.itemsize - 1) if dtype.kind == "i" else 0


def words_of(family: Family, loop: Loop) -> int:
    """Number of words that a loop writes for an instance and channel."""
    return sum(LOOPS[family][loop].values())


def place_of(family: Family, loop: Loop, partial: str) -> int:
    """Index of the first word of a partial among those that a loop writes."""
    partials = list(LOOPS[family][loop])
    return sum(LOOPS[family][loop][name] for name in partials[: partials.index(partial)])


def of_no_pixel(family: Family, loop: Loop, shape: tuple[int, ...]) -> np.ndarray:
    """Make the words that a loop over no pixel writes: `shape` × words, uint64."""
    words = np.zeros((*shape, words_of(family, loop)), np.uint64)
    if "extremes" in LOOPS[family][loop]:
        place = place_of(family, loop, "extremes")
        reset_extremes(family, words[..., place : place + 2])
    return words


def reset_extremes(family: Family, words: np.ndarray) -> None:
    """Set words to the extremes of no pixel, (…, 2) uint64."""
    if family == "real":
        words.view(np.float64)[..., LEAST], words.view(np.float64)[..., MOST] = np.inf, -np.inf
    else:
        words[..., LEAST], words[..., MOST] = np.iinfo(np.uint64).max, 0
