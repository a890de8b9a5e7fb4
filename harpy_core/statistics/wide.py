"""Integers modulo 2^128, in two words: sums that never round."""

from __future__ import annotations

import numpy as np

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_63 = np.uint64(63)

Wide = tuple[np.ndarray, np.ndarray]
"""An integer modulo 2^128: its low and its high 64 bits."""


def add(a: Wide, b: Wide) -> Wide:
    """Return the sum of two integers."""
    low = a[0] + b[0]
    return low, a[1] + b[1] + (low < b[0]).astype(np.uint64)


def subtract(a: Wide, b: Wide) -> Wide:
    """Return the difference of two integers."""
    return a[0] - b[0], a[1] - b[1] - (a[0] < b[0]).astype(np.uint64)


def multiply(a: np.ndarray, b: np.ndarray) -> Wide:
    """Return the whole product of two uint64."""
    a0, a1, b0, b1 = a & _LOW, a >> _32, b & _LOW, b >> _32
    low = a0 * b0
    middle = a1 * b0 + (low >> _32)
    cross = a0 * b1 + (middle & _LOW)
    high = a1 * b1 + (middle >> _32) + (cross >> _32)
    return (cross << _32) | (low & _LOW), high


def multiply_pair(a: Wide, b: np.ndarray) -> Wide:
    """Return the product with a uint64."""
    low, high = multiply(a[0], b)
    return low, high + a[1] * b


def to_float(a: Wide) -> np.ndarray:
    """Convert a two's complement 128-bit integer to float64, rounded once."""
    low, high = np.broadcast_arrays(*a)
    negative = (high >> _63).astype(bool)
    low, high = (
        np.where(negative, ~low + np.uint64(1), low),
        np.where(negative, ~high + (low == 0).astype(np.uint64), high),
    )
    # Keep the leading 64 bits, the last set where any bit below was: one rounding is left.
    spare = np.frexp(high.astype(np.float64))[1].astype(np.uint64)
    lost = np.where(spare > 0, low & ((np.uint64(1) << (spare & _63)) - np.uint64(1)), 0)
    lost = np.where(spare >= 64, low, lost)
    leading = np.where(
        spare == 0, low, (high << ((64 - spare) & _63)) | (low >> np.minimum(spare, _63))
    )
    leading = np.where(spare >= 64, high, leading)
    magnitude = np.ldexp((leading | (lost != 0)).astype(np.float64), spare.astype(np.int32))
    return np.where(negative, -magnitude, magnitude)


def pair(words: np.ndarray, low: int) -> Wide:
    """Return the integer whose lower word is at `low` of the last axis."""
    return words[..., low], words[..., low + 1]


def add_pair(into: np.ndarray, other: np.ndarray, low: int) -> None:
    """Add the integer of two words at `low` of the last axis to that of `into`."""
    into[..., low], into[..., low + 1] = add(pair(into, low), pair(other, low))
