"""Labels that are stored otherwise than as integers: whole numbers in floats, and masks."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster.grown import LabelView, origin_of
from harpy_core.tiles.grid import Edges, Region
from harpy_core.tiles.scratch import scratch

Index = tuple[int, ...]


# Whole numbers ------------------------------------------------------------------------------------


class WholeNumbers(LabelView):
    """Floats that are whole numbers, as int64; each is checked when it is read.

    Parameters
    ----------
    array
        Floats (y, x) or (z, y, x).
    floats
        Their reader.
    """

    def __init__(self, array: Any, floats: Any) -> None:
        super().__init__([array], [floats])
        self.dtype = np.dtype(np.int64)

    @property
    def origin(self) -> Any:
        """Labels in floats."""
        return origin_of(self.arrays[0])

    def __getitem__(self, key: Any) -> np.ndarray:
        return whole_numbers(np.asarray(self.arrays[0][key]))

    def facts(self) -> list[Any]:
        """Return what makes these labels others than the array's."""
        return []

    def reader(self, *inner: Any) -> WholeReader:
        """Return a reader of the labels, from one of the floats."""
        return WholeReader(inner[0])


def whole_numbers(values: np.ndarray) -> np.ndarray:
    """Return labels in floats as int64.

    Raises
    ------
    InputError
        One is not a whole number, or is beyond those that the type tells apart.
    """
    with np.errstate(invalid="ignore"):
        found = values.astype(np.int64)
    wrong = values[found != values]
    if wrong.size:
        raise InputError(
            f"labels are {values.dtype}, and one is {wrong.flat[0]:g}: floats are taken if all are "
            "whole numbers; give the label image, in which each instance has a number of its own"
        )
    most = 2 ** (np.finfo(values.dtype).nmant + 1)
    if values.size and (found.max() > most or found.min() < -most):
        raise InputError(
            f"labels are {values.dtype}, and one is {found.max()}: beyond {most:,} that type does "
            "not tell whole numbers apart; save them as integers"
        )
    return found


class WholeReader:
    """Reader of floats that are whole numbers."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.shape, self.edges, self.dtype = inner.shape, inner.edges, np.dtype(np.int64)

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the buffer of the floats."""
        return self._inner.layout(region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Any]:
        """Read floats, check them, and fill `out`."""
        floats = scratch("floats", int(np.prod(out.shape)), self._inner.dtype).reshape(out.shape)
        gaps = self._inner.read(region, floats)
        inside = tuple(slice(0, b - a) for a, b in region)
        out[inside] = whole_numbers(floats[inside])
        return gaps

    def stored(self, region: Region) -> None:
        """Return None: what is stored are floats."""

    def detach(self, region: Region) -> WholeReader:
        """Return a reader of this region that is cheap to send to another process."""
        return WholeReader(self._inner.detach(region))


# Connected pieces ---------------------------------------------------------------------------------


class ConnectedLabels(LabelView):
    """The connected pieces of a mask, numbered as `scipy.ndimage.label` numbers the whole of it.

    Pixels that are not 0 belong to one piece if they share a side; pieces are numbered in the order
    of their first pixels. They are found tile by tile, and those that meet at a border are joined.
    That takes one pass, at the first pixel that is read; memory holds a number for each piece of a
    tile, and the borders of a row of tiles.

    Parameters
    ----------
    array
        Mask (y, x) or (z, y, x).
    mask
        Its reader.
    """

    def __init__(self, array: Any, mask: Any) -> None:
        super().__init__([array], [mask])
        self.dtype = np.dtype(np.int32 if math.prod(self.shape) < 2**31 else np.int64)
        self._mask = mask
        self._numbers: dict[Index, np.ndarray] | None = None
        self._once = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_once": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_once": threading.Lock()})

    def facts(self) -> list[Any]:
        """Return what makes these labels others than the array's."""
        return ["connected"]

    def reader(self, *inner: Any) -> ConnectedReader:
        """Return a reader of the labels, from one of the mask."""
        return ConnectedReader(inner[0], self.dtype, self)

    def numbers(self) -> Mapping[Index, np.ndarray]:
        """Numbers of the pieces of each tile, in the order in which the tile has them."""
        with self._once:
            if self._numbers is None:
                self._numbers = _numbered(self._mask, self.dtype)
        return self._numbers


class ConnectedReader:
    """Reader of the pieces of a mask.

    Parameters
    ----------
    inner
        Reader of the mask.
    dtype
        Type of the labels.
    labels
        Labels whose numbers are asked for when they are needed.
    numbers
        Numbers of the pieces of the tiles, instead.
    """

    def __init__(
        self,
        inner: Any,
        dtype: np.dtype,
        labels: ConnectedLabels | None = None,
        numbers: Mapping[Index, np.ndarray] | None = None,
    ) -> None:
        self._inner, self._labels, self._known = inner, labels, numbers
        self.shape, self.edges, self.dtype = inner.shape, inner.edges, dtype

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the region itself."""
        return tuple(b - a for a, b in region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Any]:
        """Find the pieces of each tile that a region touches, and give them their numbers."""
        numbers = self._numbers()
        gaps: list[Any] = []
        for index in _touched(region, self.edges):
            tile = _tile(index, self.edges)
            pieces, _, missing = _pieces_of(self._inner, tile)
            gaps += missing
            known = np.concatenate([np.zeros(1, self.dtype), numbers[_canonical(index)]])
            spans = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(tile, region, strict=True)]
            here = tuple(slice(a - t, b - t) for (a, b), (t, _) in zip(spans, tile, strict=True))
            there = tuple(slice(a - r, b - r) for (a, b), (r, _) in zip(spans, region, strict=True))
            out[there] = known[pieces[here]]
        return gaps

    def stored(self, region: Region) -> None:
        """Return None: what is stored is a mask."""

    def detach(self, region: Region) -> ConnectedReader:
        """Return a reader of the tiles that a region touches."""
        tiles = _touched(region, self.edges)
        spans = list(zip(*(_tile(index, self.edges) for index in tiles), strict=True))
        covered = tuple((min(a for a, _ in s), max(b for _, b in s)) for s in spans)
        places = map(_canonical, tiles)
        numbers = {place: self._numbers()[place] for place in places}
        return ConnectedReader(self._inner.detach(covered), self.dtype, None, numbers)

    def _numbers(self) -> Mapping[Index, np.ndarray]:
        if self._known is not None:
            return self._known
        assert self._labels is not None
        return self._labels.numbers()


def _canonical(index: Index) -> Index:
    """Number of a tile along z, y and x, if the reader leaves z out."""
    return (0,) * (3 - len(index)) + index


def _touched(region: Region, edges: Edges) -> list[Index]:
    """Indices of the tiles that a region touches."""
    ranges = []
    for (a, b), axis in zip(region, edges, strict=True):
        first, last = np.searchsorted(axis, [a, b - 1], side="right") - 1
        ranges.append(range(int(first), int(last) + 1))
    return list(product(*ranges))


def _tile(index: Index, edges: Edges) -> Region:
    return tuple((axis[i], axis[i + 1]) for i, axis in zip(index, edges, strict=True))


def _pieces_of(mask: Any, tile: Region) -> tuple[np.ndarray, int, Sequence[Any]]:
    """Return the pieces of a tile, numbered from 1 on, how many there are, and missing chunks."""
    from scipy import ndimage

    layout = mask.layout(tile)
    buffer = scratch("mask", int(np.prod(layout)), mask.dtype).reshape(layout)
    gaps = mask.read(tile, buffer)
    inside = buffer[tuple(slice(0, b - a) for a, b in tile)]
    pieces, count = ndimage.label(inside)
    return pieces, int(count), gaps


def _numbered(mask: Any, dtype: np.dtype) -> dict[Index, np.ndarray]:
    """Number the pieces of all tiles, those that are one across borders alike."""
    counts: dict[Index, int] = {}
    firsts: list[np.ndarray] = []
    pairs: list[np.ndarray] = []
    borders: dict[tuple[int, Index], np.ndarray] = {}
    total = 0
    grid = [range(len(axis) - 1) for axis in mask.edges]
    # With z as the last to go, the borders that wait are those of a row of tiles.
    for y, x, z in product(grid[1], grid[2], grid[0]):
        index = (z, y, x)
        tile = _tile(index, mask.edges)
        pieces, count, _ = _pieces_of(mask, tile)
        firsts.append(_first_pixels(pieces, tile, mask.shape))
        for axis in range(3):
            before = borders.pop((axis, index), None)
            if before is not None:
                pairs.append(_meeting(before, np.take(pieces, 0, axis), total))
            if index[axis] + 1 < len(grid[axis]):
                after = (*index[:axis], index[axis] + 1, *index[axis + 1 :])
                face = np.take(pieces, -1, axis).astype(np.int64)
                borders[axis, after] = np.where(face > 0, face + total, 0)
        counts[index] = count
        total += count
    numbers = _joined(np.concatenate([np.zeros(0, np.int64), *firsts]), pairs).astype(dtype)
    ends = np.cumsum([0, *counts.values()]).tolist()
    return {index: numbers[a:b] for index, (a, b) in zip(counts, pairwise(ends), strict=True)}


def _first_pixels(pieces: np.ndarray, tile: Region, shape: tuple[int, ...]) -> np.ndarray:
    """Place in the whole of the first pixel of each of a tile's pieces, which are in that order."""
    reached = np.maximum.accumulate(pieces.ravel())
    inside = np.unravel_index(np.flatnonzero(np.diff(reached, prepend=0)), pieces.shape)
    whole = [np.asarray(i, np.int64) + a for i, (a, _) in zip(inside, tile, strict=True)]
    return (whole[0] * shape[1] + whole[1]) * shape[2] + whole[2]


def _meeting(before: np.ndarray, face: np.ndarray, offset: int) -> np.ndarray:
    """Numbers of the pieces that meet at a border, (n, 2), each pair once."""
    meet = (before > 0) & (face > 0)
    return np.unique(np.stack([before[meet], face[meet] + np.int64(offset)], axis=1), axis=0)


def _joined(firsts: np.ndarray, pairs: list[np.ndarray]) -> np.ndarray:
    """Number pieces from 1 on, in the order of their first pixels, those of a pair alike."""
    from scipy import sparse
    from scipy.sparse import csgraph

    count = len(firsts)
    if count == 0:
        return firsts
    joins = np.concatenate([np.zeros((0, 2), np.int64), *pairs]) - 1
    graph = sparse.coo_array(
        (np.ones(len(joins), bool), (joins[:, 0], joins[:, 1])), (count, count)
    )
    number, group = csgraph.connected_components(graph, directed=False)
    first = np.full(number, np.iinfo(np.int64).max)
    np.minimum.at(first, group, firsts)
    rank = np.empty(number, np.int64)
    rank[np.argsort(first)] = np.arange(1, number + 1)
    return rank[group]
