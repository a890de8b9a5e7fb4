"""Which instance of a layer has most of an instance of another, merged as tiles arrive."""

from __future__ import annotations

import numpy as np

NO_OVERLAPS = np.empty((0, 2), np.uint64), np.empty(0, np.int64)
"""Overlaps where there are none."""


class Parents:
    """Overlaps of the instances of a layer with those of another, as tiles arrive."""

    def __init__(self) -> None:
        self._pairs, self._pixels = [NO_OVERLAPS[0]], [NO_OVERLAPS[1]]

    def add(self, pairs: np.ndarray, pixels: np.ndarray) -> None:
        """Take the overlaps of a tile."""
        self._pairs.append(pairs)
        self._pixels.append(pixels)

    def of(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the parent of each instance, and their common pixels; 0 for one without.

        Parameters
        ----------
        ids
            Labels, ascending.
        """
        pairs, place = np.unique(np.concatenate(self._pairs), axis=0, return_inverse=True)
        pixels = np.zeros(len(pairs), np.int64)
        np.add.at(pixels, place.reshape(-1), np.concatenate(self._pixels))
        # The largest overlap of each instance comes first, of equal ones the smaller parent.
        order = np.lexsort((pairs[:, 1], -pixels, pairs[:, 0]))
        known, best = np.unique(pairs[order, 0], return_index=True)
        parent, overlap = np.zeros(len(ids), np.uint64), np.zeros(len(ids), np.int64)
        rows = np.searchsorted(ids, known)
        parent[rows], overlap[rows] = pairs[order[best], 1], pixels[order[best]]
        return parent, overlap
