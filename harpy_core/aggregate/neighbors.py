"""Neighbours: instances that touch, or whose centroids are close, as sparse matrices.

Contacts inside a tile come from its runs; those across two tiles from the labels of the two faces
that meet. A face is kept until the tile on its other side has arrived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances
from harpy_core.kernels.reference_contacts import counted, touching_pairs
from harpy_core.tiles.grid import Region
from harpy_core.tiles.runs import RunTable

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Neighbors = Literal["touching"] | float
"""What neighbours are: instances that share sides of pixels, or those whose centroids lie no
farther apart than this."""

TOUCHING = "touching"

PAIR_BYTES = 80
"""Bytes of a pair until its matrices are made."""

MOST_BYTES = 2**32
"""Bytes that all pairs may take."""


def checked_neighbors(given: Any) -> Neighbors | None:
    """Return what was asked for, as it is.

    Raises
    ------
    InputError
        It is neither ``touching`` nor a positive number.
    """
    if given is None:
        return None
    if given == TOUCHING:
        return "touching"
    real = isinstance(given, Real) and not isinstance(given, bool)
    if not real or not 0 < float(given) < float("inf"):
        raise InputError(
            f"neighbors = {given!r}: give {TOUCHING}, or the longest distance between two centroids"
        )
    return float(given)


@dataclass(frozen=True, slots=True)
class ContactPart:
    """Contacts of a tile.

    Attributes
    ----------
    pairs : (pairs, 2) int64
        Slots of instances that touch inside the tile, the smaller first.
    sides : (pairs, 3) int64
        Number of sides between neighbours along z, y and x.
    low, high
        Labels of the tile's first and last pixels along each axis; None at the labels' own border.
    """

    pairs: np.ndarray
    sides: np.ndarray
    low: tuple[np.ndarray | None, ...]
    high: tuple[np.ndarray | None, ...]

    @classmethod
    def of(
        cls,
        runs: RunTable,
        labels: np.ndarray,
        kernels: ModuleType,
        region: Region,
        extent: tuple[int, ...],
    ) -> ContactPart:
        """Find the contacts of a tile.

        Parameters
        ----------
        labels
            Labels of the tile, which may be overwritten later.
        region
            Region of the tile.
        extent
            Pixels of all labels along z, y and x.
        """
        pairs, sides = kernels.contacts(
            runs.start, runs.length, runs.slot, labels.shape[:2], runs.row_stride, runs.plane_stride
        )
        low = [None if r[0] == 0 else _at(labels, axis, 0) for axis, r in enumerate(region)]
        high = [
            None if r[1] == n else _at(labels, axis, -1)
            for axis, (r, n) in enumerate(zip(region, extent, strict=True))
        ]
        return cls(pairs, sides, tuple(low), tuple(high))


def _at(labels: np.ndarray, axis: int, end: int) -> np.ndarray:
    return np.take(labels, end, axis).astype(np.uint64)


class ContactTable:
    """Contacts of all instances, as tiles arrive row by row.

    Parameters
    ----------
    index
        Rows of the labels; each is known before its tile is added.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._faces: dict[tuple[int, Region], np.ndarray] = {}
        self._pairs: list[np.ndarray] = []
        self._sides: list[np.ndarray] = []

    def add(self, region: Region, ids: np.ndarray | None, part: ContactPart | None) -> None:
        """Merge a tile; None is one without a label.

        Parameters
        ----------
        ids
            Label of each of its slots.
        """
        for axis in range(3):
            before = self._faces.pop((axis, _face(region, axis, 0)), None)
            if part is None:
                continue
            after, kept = part.low[axis], part.high[axis]
            if kept is not None:
                self._faces[axis, _face(region, axis, 1)] = kept
            if before is not None and after is not None:
                self._join(before, after, axis)
        if ids is not None and part is not None and len(part.pairs):
            self._keep(self._index.rows(ids)[part.pairs], part.sides)

    def _join(self, before: np.ndarray, after: np.ndarray, axis: int) -> None:
        """Add the contacts of two faces that meet."""
        labels = touching_pairs(before, after, 0)
        if len(labels):
            each, place = np.unique(labels, return_inverse=True)
            rows = self._index.rows(each)[place.reshape(labels.shape)]
            self._keep(*counted(np.sort(rows, axis=1), np.full(len(rows), axis)))

    def _keep(self, rows: np.ndarray, sides: np.ndarray) -> None:
        self._pairs.append(np.sort(rows, axis=1))
        self._sides.append(sides)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the labels of each pair, (pairs, 2), and its sides along z, y and x."""
        if not self._pairs:
            return np.empty((0, 2), np.uint64), np.empty((0, 3), np.int64)
        pairs, size = np.concatenate(self._pairs), len(self._index)
        key, place = np.unique(pairs[:, 0] * size + pairs[:, 1], return_inverse=True)
        sides = np.zeros((len(key), 3), np.int64)
        np.add.at(sides, place, np.concatenate(self._sides))
        return self._index.ids[np.stack(np.divmod(key, size), axis=1)], sides


def _face(region: Region, axis: int, end: int) -> Region:
    """Place of a tile's face along an axis, the same for the two tiles that meet there."""
    return tuple((r[end], r[end]) if a == axis else r for a, r in enumerate(region))


def close_pairs(centroids: np.ndarray, distance: float) -> np.ndarray:
    """Pairs of points whose distance, as `matrices` has it, is no longer than another, (pairs, 2).

    Raises
    ------
    InputError
        There are too many to be held.
    """
    from scipy.spatial import cKDTree

    there = np.flatnonzero(np.isfinite(centroids).all(axis=1))
    tree = cKDTree(centroids[there])
    # The tree compares squares, and its rounding depends on the other points: ask it for more.
    reach = distance * (1 + 1e-9)
    number = (int(tree.count_neighbors(tree, reach)) - len(there)) // 2
    if number * PAIR_BYTES > MOST_BYTES:
        raise InputError(
            f"neighbors = {distance:g}: {number:,} pairs of instances are that close, and would "
            f"take {number * PAIR_BYTES / 1e9:.0f} GB; give a shorter distance"
        )
    pairs = there[tree.query_pairs(reach, output_type="ndarray")]
    return pairs[_distances(centroids, pairs) <= distance]


def _distances(centroids: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.sqrt(
        ((centroids[pairs[:, 0]] - centroids[pairs[:, 1]]) ** 2).sum(axis=1)
    )
    return found


def matrices(
    instances: Instances,
    neighbors: Neighbors,
    contacts: tuple[np.ndarray, np.ndarray] | None,
    spacing: tuple[float, ...],
) -> dict[str, csr_matrix]:
    """Symmetric matrices of neighbours, under squidpy's names.

    Parameters
    ----------
    instances
        Rows of the matrices; of a label that is there twice, the first.
    neighbors
        What neighbours are.
    contacts
        What a `ContactTable` found, where they are those that touch.
    spacing
        Side of a pixel along each axis of the labels.
    """
    centroids = instances.centroid[:, 3 - len(spacing) :] * np.asarray(spacing)
    values = {}
    if contacts is None:
        pairs = close_pairs(centroids, float(neighbors))
    else:
        labels, sides = contacts
        labels_there, first = np.unique(instances.id, return_index=True)
        place = np.searchsorted(labels_there, labels)
        place[place == len(labels_there)] = 0
        there = np.all(labels_there[place] == labels, axis=1) if len(labels_there) else []
        pairs = first[place[there]]
        values["spatial_borders"] = lengths(sides[there], spacing)
    far = _distances(centroids, pairs)
    values = {"spatial_connectivities": np.ones(len(pairs)), "spatial_distances": far, **values}
    return {name: _symmetric(pairs, value, len(instances)) for name, value in values.items()}


def _symmetric(pairs: np.ndarray, values: np.ndarray, size: int) -> csr_matrix:
    """Make a matrix from half of its elements."""
    from scipy.sparse import coo_matrix

    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    matrix = coo_matrix((np.tile(values, 2), (rows, columns)), (size, size)).tocsr()
    matrix.sort_indices()
    return matrix


def lengths(sides: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Length, or area, of borders of so many sides along z, y and x.

    Parameters
    ----------
    spacing
        Side of a pixel along each axis of the labels.
    """
    whole = np.prod(spacing)
    own = sides[:, 3 - len(spacing) :] * (whole / np.asarray(spacing))
    # Summed in a fixed order.
    return np.asarray(sum(own.T))
