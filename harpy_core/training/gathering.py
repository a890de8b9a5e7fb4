"""Crops out of decoded chunks, gathered into a batch and normalised in the same pass.

All take ``source`` (blocks, groups, rows, channels of a group, pixels), the place in it of each
crop, ``block`` and ``row`` (n,), and of each channel, ``group`` and ``place`` (c,); and fill
``out`` (n, c, pixels).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(nogil=True, cache=True)(function)
    return compiled


@_jit
def copied(source: Any, block: Any, row: Any, group: Any, place: Any, out: Any) -> None:
    """Copy pixels as they are; `out` is of the type of `source`."""
    for i in range(row.size):
        for c in range(group.size):
            crop = source[block[i], group[c], row[i], place[c]]
            target = out[i, c]
            for p in range(crop.size):
                target[p] = crop[p]


@_jit
def scaled(
    source: Any,
    block: Any,
    row: Any,
    group: Any,
    place: Any,
    low: Any,
    span: Any,
    bounds: Any,
    out: Any,
) -> None:
    """Subtract `low` (c,), divide by `span` (c,) and clip to `bounds` (2,), in their type."""
    kind = low.dtype.type
    least, most = bounds[0], bounds[1]
    for i in range(row.size):
        for c in range(group.size):
            crop = source[block[i], group[c], row[i], place[c]]
            target = out[i, c]
            # Read here: inside the loop the compiler must assume that the loop writes to them.
            start, width = low[c], span[c]
            for p in range(crop.size):
                target[p] = min(max((kind(crop[p]) - start) / width, least), most)


@_jit
def stretched(
    source: Any, block: Any, row: Any, group: Any, place: Any, like: Any, out: Any
) -> None:
    """Map the minimum and maximum of each channel of each crop to 0 and 1; a flat one is 0.

    `like` is an array of the type of the arithmetic.
    """
    kind = like.dtype.type
    for i in range(row.size):
        for c in range(group.size):
            crop = source[block[i], group[c], row[i], place[c]]
            target = out[i, c]
            least = most = crop[0]
            for p in range(crop.size):
                least = min(least, crop[p])
                most = max(most, crop[p])
            start = kind(least)
            width = kind(most) - start
            if width == 0:
                target[:] = 0
            else:
                for p in range(crop.size):
                    target[p] = (kind(crop[p]) - start) / width
