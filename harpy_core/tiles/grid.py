"""Edges of chunks and tiles: arithmetic on shapes alone, cheap to import.

The edges along an axis are the first pixel of each chunk, and the end of the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, product

Region = tuple[tuple[int, int], ...]
"""First index and end along each canonical axis."""

Edges = tuple[tuple[int, ...], ...]
"""Edges along each axis."""

TILE_PIXELS = 2048 * 2048
"""Pixels of a plane up to which smaller chunks are joined and worked on together."""

TASKS_PER_THREAD = 4
"""Tiles per thread below which the channels are split over several tasks."""


def regular_edges(shape: Sequence[int], chunks: Sequence[int]) -> Edges:
    """Edges of equal chunks, the last of which may be cut short."""
    return tuple((*range(0, n, c), n) if n else (0,) for n, c in zip(shape, chunks, strict=True))


def coarsened(edges: Edges, pixels: int = TILE_PIXELS) -> Edges:
    """Join neighbouring chunks, along (z, y, x), into tiles of about `pixels`.

    Larger chunks stay as they are.
    """
    depth = max((b - a for a, b in pairwise(edges[0])), default=1) or 1
    area = max(pixels // depth, 1)
    side = math.isqrt(area)
    tall, wide = _widest(edges[1]), _widest(edges[2])
    # Fewer chunks are joined where one is longer than a tile's side, such as a strip of rows.
    y = _joined(edges[1], side if wide <= side else area // wide)
    x = _joined(edges[2], side if tall <= side else area // tall)
    plane = _widest(y) * _widest(x)
    return _joined(edges[0], max(pixels // max(plane, 1), 1)), y, x


def _widest(edges: Sequence[int]) -> int:
    return max((b - a for a, b in pairwise(edges)), default=1)


def _joined(edges: Sequence[int], extent: int) -> tuple[int, ...]:
    kept = [edges[0]]
    for here, after in pairwise(edges[1:]):
        if after - kept[-1] > extent:
            kept.append(here)
    if len(edges) > 1:
        kept.append(edges[-1])
    return tuple(kept)


Together = tuple[int, int] | None
"""First of some channels that a task must have together, and the one after the last."""


def split_channels(
    edges: tuple[int, ...], tiles: int, threads: int, together: Together = None
) -> list[tuple[int, ...]]:
    """Groups of channel chunks, several where tiles alone would not keep all threads busy.

    Parameters
    ----------
    together
        Channels that are not split.
    """
    units = splittable(edges, together)
    chunks = max(len(units) - 1, 0)
    wanted = math.ceil(TASKS_PER_THREAD * threads / max(tiles, 1))
    groups = max(min(chunks, wanted), 1)
    bounds = [round(i * chunks / groups) for i in range(groups + 1)]
    return [between(edges, units[a], units[b]) for a, b in pairwise(bounds)]


def splittable(edges: tuple[int, ...], together: Together) -> tuple[int, ...]:
    """Edges of chunks at which channels may be split."""
    if together is None:
        return edges
    return tuple(edge for edge in edges if not together[0] < edge < together[1])


def between(edges: tuple[int, ...], first: int, last: int) -> tuple[int, ...]:
    """Edges from one up to another."""
    return tuple(edge for edge in edges if first <= edge <= last)


def regular_step(edges: tuple[int, ...]) -> int:
    """Size of equal steps, the last of which may be cut short; of irregular ones, their sum."""
    sizes = [b - a for a, b in pairwise(edges)] or [1]
    return sizes[0] if set(sizes[:-1]) <= {sizes[0]} and sizes[-1] <= sizes[0] else sum(sizes)


def regions_of(edges: Edges) -> list[Region]:
    """All tiles, row by row."""
    return [tuple(region) for region in product(*(pairwise(axis) for axis in edges))]
