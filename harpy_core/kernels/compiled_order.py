"""Order statistics compiled with Numba: pixels of some ranks, without sorting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from harpy_core.kernels.layout import family_of


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loop that runs without the GIL, and cache it on disk."""
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True)(function)
    return compiled


_BINS = 1024
"""Bins in which an instance is counted first: few enough to stay in the nearest cache."""


@jit
def _order_narrow(values: Any, begin: Any, rank: Any, out: Any) -> None:
    """Find ranks of narrow integers by counting, in bins of several values and then in one bin."""
    coarse = np.zeros(_BINS, np.int64)
    fine = np.zeros(0x10000 // _BINS, np.int64)
    for i in range(begin.size - 1):
        first = begin[i]
        last = begin[i + 1]
        if first == last:
            continue
        least = most = np.int32(values[first])
        for p in range(first, last):
            least = np.int32(min(least, np.int32(values[p])))
            most = np.int32(max(most, np.int32(values[p])))
        shift = np.int32(0)
        while (most - least) >> shift >= _BINS:
            shift += np.int32(1)
        coarse[: ((most - least) >> shift) + 1] = 0
        for p in range(first, last):
            coarse[np.uint32(np.int32(values[p]) - least) >> shift] += 1
        counted = -1
        for j in range(rank.shape[1]):
            left = rank[i, j]
            place = 0
            while left >= coarse[place]:
                left -= coarse[place]
                place += 1
            within = 0
            if shift > 0:
                if place != counted:
                    counted = place
                    fine[:] = 0
                    for p in range(first, last):
                        far = np.int32(values[p]) - least
                        if far >> shift == place:
                            fine[far - (place << shift)] += 1
                while left >= fine[within]:
                    left -= fine[within]
                    within += 1
            out[i, j] = least + (place << shift) + within


@jit
def _select(values: Any, first: Any, last: Any, rank: Any) -> Any:
    """Return the value of a rank in values[first:last], which it partly sorts (Hoare 1961)."""
    low = first
    high = last - 1
    wanted = first + rank
    while low < high:
        middle = values[(low + high) // 2]
        i = low
        j = high
        while i <= j:
            while values[i] < middle:
                i += 1
            while middle < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return values[wanted]


@jit
def _order_any(values: Any, begin: Any, rank: Any, out: Any) -> None:
    for i in range(begin.size - 1):
        if begin[i] < begin[i + 1]:
            for j in range(rank.shape[1]):
                out[i, j] = _select(values, begin[i], begin[i + 1], rank[i, j])


def order_statistics(values: np.ndarray, begin: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Pixels of some ranks of each instance; see `reference.order_statistics`."""
    out = np.zeros(rank.shape, values.dtype)
    order = _order_narrow if family_of(values.dtype) == "narrow" else _order_any
    order(values, begin, rank, out)
    return out
