"""The partial ``count``: a word for floats alone, whose NaN may be left out.

Every pixel of integers counts, and their number is known from the labels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harpy_core.kernels.layout import Family, family_of


def empty(family: Family, words: np.ndarray) -> None:
    """Do nothing: the count of no pixel is 0."""


def merge(family: Family, into: np.ndarray, other: np.ndarray) -> None:
    """Add the count of other pixels of the same instances."""
    if family == "real":
        into.view(np.float64)[...] += other.view(np.float64)


def finish(dtype: np.dtype, made: Mapping[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Number of pixels that were counted, (instances, c) float64."""
    if family_of(dtype) == "real":
        return made["count"].view(np.float64)[..., 0].copy()
    return np.broadcast_to(pixels.astype(np.float64), made["count"].shape[:2])
