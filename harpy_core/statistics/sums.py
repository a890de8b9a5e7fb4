"""The partial ``sum``: exact for integers, in float64 for floats."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harpy_core.kernels.layout import Family, bias_of, family_of
from harpy_core.statistics import wide
from harpy_core.statistics.count import finish as counted


def empty(family: Family, words: np.ndarray) -> None:
    """Do nothing: the sum of no pixel is 0."""


def merge(family: Family, into: np.ndarray, other: np.ndarray) -> None:
    """Add the sum of other pixels of the same instances."""
    if family == "real":
        into.view(np.float64)[...] += other.view(np.float64)
    elif family == "narrow":
        into += other
    else:
        wide.add_pair(into, other, 0)


def finish(dtype: np.dtype, made: Mapping[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """The sum, (instances, c) float64; NaN where an instance has no pixel."""
    words = made["sum"]
    family = family_of(dtype)
    if family == "real":
        total = words.view(np.float64)[..., 0]
        return np.where(counted(dtype, made, pixels) > 0, total, np.nan)
    n = pixels.astype(np.uint64)
    low = words[..., 0]
    high = words[..., 1] if family == "wide" else np.zeros_like(low)
    # Undo the shift that made every pixel unsigned.
    shift = wide.multiply(n, np.full_like(n, bias_of(dtype)))
    return np.where(n > 0, wide.to_float(wide.subtract((low, high), shift)), np.nan)
