"""What a kernel writes for one instance and channel: the words of a partial, by pixel type.

Three families of pixel types, each with the arithmetic that suits it:

narrow
    integers of at most 16 bits. Sums of the first four powers fit integers, so nothing is ever
    rounded: ``whole`` holds them, in two words each where one can overflow.
wide
    integers of 32 and 64 bits. The sum is exact in two words; higher moments are float64 sums of
    powers of the distance to an integer pivot near the mean.
real
    floats. Sums and moments in float64, the moments about a pivot near the mean.

Signed integers are shifted by half their range (`bias_of`), which keeps their order and lets one
unsigned kernel serve both; the shift is undone when statistics are finished.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

LONGEST_RUN = 1 << 15
"""Longer stretches are cut, so that sums within one run of 16-bit pixels fit 32 bits."""

Family = Literal["narrow", "wide", "real"]

SUM = 0
SUM_HIGH = 1

NARROW_SQUARE = 1
NARROW_CUBE = 2
NARROW_CUBE_HIGH = 3
NARROW_FOURTH = 4
NARROW_FOURTH_HIGH = 5
NARROW_MIN = 6
NARROW_MAX = 7

WIDE_PIVOT = 2
WIDE_MIN = 3
WIDE_MAX = 4
WIDE_COUNT = 5

REAL_COUNT = 1
REAL_PIVOT = 2
REAL_MIN = 3
REAL_MAX = 4

_WORDS = {
    ("narrow", False): (1, 0, 0),
    ("narrow", True): (8, 0, 0),
    ("wide", False): (2, 0, 0),
    ("wide", True): (6, 0, 4),
    ("real", False): (0, 2, 0),
    ("real", True): (0, 5, 4),
}


def family_of(dtype: np.dtype) -> Family:
    """Which arithmetic a pixel type gets.

    Raises
    ------
    TypeError
        For anything but integers and floats of up to 64 bits.
    """
    if dtype.kind in "iu":
        return "narrow" if dtype.itemsize <= 2 else "wide"
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return "real"
    raise TypeError(f"pixels of type {dtype} cannot be measured")


def bias_of(dtype: np.dtype) -> int:
    """What is added to a pixel to make it unsigned."""
    return 1 << (8 * dtype.itemsize - 1) if dtype.kind == "i" else 0


def words(dtype: np.dtype, full: bool) -> tuple[int, int, int]:
    """Words an instance and channel take: integer, float, and sums of powers about the pivot."""
    return _WORDS[family_of(dtype), full]
