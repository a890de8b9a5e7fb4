"""Places of windows, their order in the store, and the parts of the image that fill them.

The image is worked on in strips: columns of tiles, or parts of them. A window that needs nothing
outside its column is finished inside it; the few others, and those that do not fill a batch, are
finished from fragments afterwards. All of this follows from the instances and the tiles alone, so
the store is the same for every number of workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from harpy_core.extract.strips import part_size, strip_shape
from harpy_core.instances.finding import Instances
from harpy_core.tiles.grid import Edges, Region


@dataclass(frozen=True, slots=True)
class Windows:
    """The window of each instance.

    Attributes
    ----------
    corner : (n, 3) int64
        First z, y and x.
    low, high : (n, 2) int64
        Bounds of the part of the image that fills it, in y and x; empty where nothing does.
    """

    corner: np.ndarray
    low: np.ndarray
    high: np.ndarray


def windows_of(
    instances: Instances,
    size: tuple[int, int, int],
    deep: bool,
    plane: tuple[int, int],
    surroundings: bool,
) -> Windows:
    """Place the windows: the centroid rounded half to even, less half of each side.

    Parameters
    ----------
    size
        Planes, rows and columns of a window.
    deep
        Whether it has some planes around the centroid, and not all.
    plane
        Height and width of the image.
    surroundings
        Whether a window needs pixels outside its instance's bounding box.
    """
    sides = np.asarray(size)
    corner = np.rint(instances.centroid).astype(np.int64) - sides // 2
    if not deep:
        corner[:, 0] = 0
    low = np.maximum(corner[:, 1:], 0)
    high = np.minimum(corner[:, 1:] + sides[1:], np.asarray(plane))
    if not surroundings:
        low = np.maximum(low, instances.bbox[:, 1:3])
        high = np.minimum(high, instances.bbox[:, 4:6])
    return Windows(corner, low, high)


@dataclass(frozen=True, slots=True)
class FragmentGroup:
    """Windows that a strip contributes fragments to; they share a file.

    Attributes
    ----------
    instances : (n,) int64
        Instances in the order of the store.
    bounds : (pieces + 1,) int64
        Index of the first instance of each batch, and the end.
    """

    instances: np.ndarray
    bounds: np.ndarray


@dataclass(frozen=True, slots=True)
class Strip:
    """Columns of tiles or a part of one, and the windows that their pixels go to.

    Attributes
    ----------
    number
        Rank of the strip.
    tiles
        Regions, column by column from top to bottom, through all z.
    batches
        First batch that it fills alone, and the one after the last.
    inside
        Instances of these batches, in their order in the store.
    parts
        Instances to which it contributes fragments.
    """

    number: int
    tiles: list[Region]
    batches: tuple[int, int]
    inside: np.ndarray
    parts: list[FragmentGroup]


@dataclass(frozen=True, slots=True)
class Pieces:
    """All fragments, batch by batch.

    Attributes
    ----------
    batch, strip, part, number, count : (n,) int64
        Batch of each fragment; the strip and part of its file, its number among the pieces of the
        file, and how many these are.
    first, last : (n,) int64
        Range of its crops in `slot`.
    slot : (crops,) int64
        Index of each crop within its batch.
    """

    batch: np.ndarray
    strip: np.ndarray
    part: np.ndarray
    number: np.ndarray
    count: np.ndarray
    first: np.ndarray
    last: np.ndarray
    slot: np.ndarray


@dataclass(frozen=True, slots=True)
class CropPlan:
    """Place of each instance in the store, and the strips that fill it.

    Attributes
    ----------
    batch
        Instances in a batch.
    order : (n,) int64
        Instances in the order of the store.
    strips
        All strips but those that fill no window.
    filled
        Number of batches that a strip fills alone; those after them are joined from fragments.
    pieces
        The fragments.
    """

    batch: int
    order: np.ndarray
    strips: list[Strip]
    filled: int
    pieces: Pieces

    @property
    def batches(self) -> int:
        """Number of batches in the store."""
        return math.ceil(len(self.order) / self.batch)

    def members(self, batch: int) -> int:
        """Number of instances in a batch."""
        return min(self.batch, len(self.order) - batch * self.batch)


def plan_crops(
    windows: Windows,
    edges: Edges,
    chunk: int,
    batch: int,
    tall: bool = True,
    shuffle: int | None = None,
) -> CropPlan:
    """Decide strips, order and batches.

    Parameters
    ----------
    windows
        Windows of all instances.
    edges
        Edges of the tiles, along z, y and x.
    chunk
        Instances in a chunk.
    batch
        Instances in a file: a multiple of `chunk`.
    tall
        Let strips span several tiles along y; False makes each tile a strip.
    shuffle
        Seed of a random order; None keeps neighbours together.
    """
    number = len(windows.corner)
    rows, columns = _strip_edges(number, edges, batch) if tall else edges[1:]
    first, last = _touched(windows, rows, columns)
    width = len(columns) - 1
    home = np.minimum(first[:, 0], len(rows) - 2) * width + np.minimum(first[:, 1], width - 1)
    left_tile, right_tile = (tiles[:, 1] for tiles in _touched(windows, edges[1], edges[2]))
    ends = right_tile * len(edges[1]) + np.searchsorted(edges[1], windows.high[:, 0])
    ranked = np.lexsort((np.arange(number), ends, home))
    bounds = np.searchsorted(home[ranked], np.arange((len(rows) - 1) * width + 1))
    within = np.all(first == last, axis=1)
    # A window on the border of two columns would keep its batch open for a whole column.
    alone = within & (left_tile == right_tile)
    kept, order = _kept(ranked, bounds, alone & (shuffle is None), batch)
    if shuffle is not None:
        order = np.random.Generator(np.random.PCG64(shuffle)).permutation(number)
    place = np.empty(number, np.int64)
    place[order] = np.arange(number)
    strips: list[Strip] = []
    filled, stored = 0, sum(map(len, kept))
    step = part_size(chunk, batch)
    crossing = _crossing(first, last, width)
    for rank, (a, b) in enumerate(pairwise(bounds)):
        mine, whole = ranked[a:b], kept[rank]
        left = mine[within[mine] & (place[mine] >= stored)]
        spilled = np.concatenate([left, crossing.get(rank, np.empty(0, np.int64))])
        batches = (filled, filled + len(whole) // batch)
        filled = batches[1]
        if len(whole) or len(spilled):
            row, column = divmod(rank, width)
            tiles = _tiles(edges, rows[row : row + 2], columns[column : column + 2])
            spilled = spilled[np.argsort(ends[spilled], kind="stable")]
            parts = [
                _group(spilled[i : i + step], place, batch) for i in range(0, len(spilled), step)
            ]
            strips.append(Strip(rank, tiles, batches, whole, parts))
    return CropPlan(batch, order, strips, filled, _pieces(strips, place, batch))


def _kept(
    ranked: np.ndarray, bounds: np.ndarray, alone: np.ndarray, batch: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the instances of the batches that each strip fills alone, and the order of all."""
    kept, rest = [], []
    for a, b in pairwise(bounds):
        mine = ranked[a:b]
        ready = mine[alone[mine]]
        whole = ready[: len(ready) // batch * batch]
        kept.append(whole)
        rest += [ready[len(whole) :], mine[~alone[mine]]]
    return kept, np.concatenate([*kept, *rest]) if len(ranked) else np.empty(0, np.int64)


def _group(instances: np.ndarray, place: np.ndarray, batch: int) -> FragmentGroup:
    ordered = instances[np.argsort(place[instances])]
    changes = np.flatnonzero(np.diff(place[ordered] // batch)) + 1
    return FragmentGroup(ordered, np.concatenate([[0], changes, [len(ordered)]]))


def _pieces(strips: list[Strip], place: np.ndarray, batch: int) -> Pieces:
    rows: list[np.ndarray] = [np.empty((7, 0), np.int64)]
    places: list[np.ndarray] = [np.empty(0, np.int64)]
    offset = 0
    for strip in strips:
        for number, part in enumerate(strip.parts):
            first, last = part.bounds[:-1], part.bounds[1:]
            each = np.arange(len(first))
            owner = place[part.instances[first]] // batch
            alike = [np.full_like(each, n) for n in (strip.number, number, len(first))]
            rows.append(
                np.stack([owner, alike[0], alike[1], each, alike[2], first + offset, last + offset])
            )
            places.append(place[part.instances] % batch)
            offset += len(part.instances)
    table = np.concatenate(rows, axis=1)
    owner, strip, part, number, count, first, last = table[:, np.argsort(table[0], kind="stable")]
    return Pieces(owner, strip, part, number, count, first, last, np.concatenate(places))


def _strip_edges(instances: int, edges: Edges, batch: int) -> tuple[tuple[int, ...], ...]:
    """Edges of the strips along y and x, chosen from those of the tiles."""
    steps = strip_shape(instances, len(edges[1]) - 1, len(edges[2]) - 1, batch)
    return tuple((*axis[:-1:n], axis[-1]) for axis, n in zip(edges[1:], steps, strict=True))


def _touched(
    windows: Windows, rows: tuple[int, ...], columns: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """First and last strip, along y and x, that each window needs."""
    last_pixel = np.maximum(windows.high - 1, windows.low)
    first = np.empty_like(windows.low)
    last = np.empty_like(windows.low)
    for axis, edges in enumerate((rows, columns)):
        top = max(len(edges) - 2, 0)
        first[:, axis] = np.searchsorted(edges, windows.low[:, axis], side="right") - 1
        last[:, axis] = np.searchsorted(edges, last_pixel[:, axis], side="right") - 1
        np.clip(first[:, axis], 0, top, out=first[:, axis])
        np.clip(last[:, axis], 0, top, out=last[:, axis])
    return first, last


def _crossing(first: np.ndarray, last: np.ndarray, width: int) -> dict[int, np.ndarray]:
    """Windows that need several strips, by strip."""
    members: dict[int, list[int]] = {}
    for i in np.flatnonzero(np.any(first != last, axis=1)):
        for row, column in product(
            range(first[i, 0], last[i, 0] + 1), range(first[i, 1], last[i, 1] + 1)
        ):
            members.setdefault(row * width + column, []).append(int(i))
    return {number: np.asarray(found, np.int64) for number, found in members.items()}


def _tiles(edges: Edges, rows: tuple[int, ...], columns: tuple[int, ...]) -> list[Region]:
    """Tiles of a strip, column by column."""
    inside = [
        list(pairwise(e for e in axis if first <= e <= last))
        for axis, (first, last) in zip(edges[1:], (rows, columns), strict=True)
    ]
    return [(z, y, x) for x in inside[1] for y in inside[0] for z in pairwise(edges[0])]
