"""Crops out of decoded chunks, gathered into a batch and normalised in the same pass.

All take ``source`` (blocks, groups, rows, channels of a group, pixels), where in it each crop is,
``block`` and ``row`` (n,), and each channel, ``group`` and ``place`` (c,); and fill ``out``
(n, c, pixels).
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
    """As they are; `out` is of the type of `source`."""
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
    """Less `low` (c,), divided by `span` (c,) and kept within `bounds` (2,), in their type."""
    kind = low.dtype.type
    least, most = bounds[0], bounds[1]
    for i in range(row.size):
        for c in range(group.size):
            crop = source[block[i], group[c], row[i], place[c]]
            target = out[i, c]
            # Read here: within the loop they might be what the loop writes.
            start, width = low[c], span[c]
            for p in range(crop.size):
                target[p] = min(max((kind(crop[p]) - start) / width, least), most)


@_jit
def stretched(
    source: Any, block: Any, row: Any, group: Any, place: Any, like: Any, out: Any
) -> None:
    """From the minimum and maximum of each channel of each crop to 0 and 1; a flat one is 0.

    `like` is an array of the type in which it is done.
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
