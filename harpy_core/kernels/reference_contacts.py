"""The kernels of contacts and overlaps in plain NumPy: with `reference`, an engine."""

from __future__ import annotations

import numpy as np


def contacts(
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    rows: tuple[int, int],
    row_stride: int,
    plane_stride: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Sides of pixels that two instances of a tile share.

    Parameters
    ----------
    start, length, slot
        Runs of the tile.
    rows
        Number of planes, and of rows of each.
    row_stride, plane_stride
        Pixels from one row to the next, and from one z to the next.

    Returns
    -------
    pairs : (pairs, 2) int64
        Slots of the two, the smaller first; each pair once, in any order.
    sides : (pairs, 3) int64
        Number of sides between neighbours along z, y and x.
    """
    planes = np.full((rows[0], plane_stride), -1, np.int64)
    for first, pixels, owner in zip(start, length, slot, strict=True):
        planes.reshape(-1)[first : first + pixels] = owner
    grid = planes[:, : rows[1] * row_stride].reshape(*rows, row_stride)
    pairs, along = [], []
    for axis in range(3):
        low = grid[tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))]
        high = grid[tuple(slice(1, None) if a == axis else slice(None) for a in range(3))]
        touching = touching_pairs(low, high, -1)
        pairs.append(touching)
        along.append(np.full(len(touching), axis))
    return counted(np.concatenate(pairs), np.concatenate(along))


def touching_pairs(low: np.ndarray, high: np.ndarray, background: int) -> np.ndarray:
    """Pairs of different instances at the same place of two faces, (n, 2), the smaller first."""
    touch = (low != high) & (low != background) & (high != background)
    return np.sort(np.stack([low[touch], high[touch]], axis=1), axis=1)


def counted(pairs: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the occurrences of each pair along each axis."""
    each, place = np.unique(pairs, axis=0, return_inverse=True)
    sides = np.zeros((len(each), 3), np.int64)
    np.add.at(sides, (place.reshape(-1), along), 1)
    return each, sides


def overlaps(
    start: np.ndarray,
    length: np.ndarray,
    slot: np.ndarray,
    other_start: np.ndarray,
    other_length: np.ndarray,
    other_slot: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that instances of two layers of a tile share.

    Parameters
    ----------
    start, length, slot
        Runs of a layer, by their first pixel; those of polygons may overlap.
    other_start, other_length, other_slot
        Runs of another, in planes of the same strides.

    Returns
    -------
    pairs : (pairs, 2) int64
        Slots of an instance of each layer; each pair once, in any order.
    pixels : (pairs,) int64
        Number of pixels that both have.
    """
    whose: dict[int, list[int]] = {}
    for first, pixels, owner in zip(other_start, other_length, other_slot, strict=True):
        for place in range(first, first + pixels):
            whose.setdefault(place, []).append(int(owner))
    shared: dict[tuple[int, int], int] = {}
    for first, pixels, owner in zip(start, length, slot, strict=True):
        for place in range(first, first + pixels):
            for other in whose.get(place, ()):
                pair = int(owner), other
                shared[pair] = shared.get(pair, 0) + 1
    pairs = np.array([*shared], np.int64).reshape(-1, 2)
    return pairs, np.array([*shared.values()], np.int64)
