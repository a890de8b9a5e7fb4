"""The partial ``extremes``: the smallest and the largest pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harpy_core.kernels.layout import LEAST, MOST, Family, bias_of, family_of, reset_extremes
from harpy_core.kernels.reference import difference


@dataclass(frozen=True, slots=True)
class Extremes:
    """The smallest and the largest pixel, each (instances, c) float64; NaN without pixels."""

    least: np.ndarray
    most: np.ndarray


empty = reset_extremes


def merge(family: Family, into: np.ndarray, other: np.ndarray) -> None:
    """Keep the smaller and the larger of both."""
    if family == "real":
        into, other = into.view(np.float64), other.view(np.float64)
    np.minimum(into[..., LEAST], other[..., LEAST], out=into[..., LEAST])
    np.maximum(into[..., MOST], other[..., MOST], out=into[..., MOST])


def finish(dtype: np.dtype, made: Mapping[str, np.ndarray], pixels: np.ndarray) -> Extremes:
    """Return both as float64."""
    words = made["extremes"]
    if family_of(dtype) == "real":
        values = words.view(np.float64)
        # Without a pixel, or with NaN alone that were left out, the smallest is the larger one.
        there = ~(values[..., LEAST] > values[..., MOST])
    else:
        values = difference(words, np.full_like(words, bias_of(dtype)))
        there = pixels > 0
    least, most = (np.where(there, values[..., word], np.nan) for word in (LEAST, MOST))
    return Extremes(least, most)
