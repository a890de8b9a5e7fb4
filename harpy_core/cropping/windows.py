"""Where windows lie, in which order they are stored, and which part of the image fills them.

The image is worked on in strips: columns of tiles, one tile wide. A window that needs nothing
outside its strip is finished inside it; the few others, and those that do not fill a batch, are
finished from fragments afterwards. All of it follows from the instances and the tiles alone, so
the store is the same for every number of workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from harpy_core.cropping.strips import strip_rows
from harpy_core.grid import Edges, Region
from harpy_core.instances import Instances


@dataclass(frozen=True, slots=True)
class Windows:
    """The window of each instance.

    Attributes
    ----------
    diameter
        Pixels on a side.
    corner : (n, 2) int64
        First y and x.
    low, high : (n, 2) int64
        The part of the image that fills it, along y and x; empty where nothing does.
    """

    diameter: int
    corner: np.ndarray
    low: np.ndarray
    high: np.ndarray


def windows_of(
    instances: Instances, diameter: int, plane: tuple[int, int], remove_background: bool
) -> Windows:
    """Place the windows: the centroid rounded half to even, less half the diameter.

    Parameters
    ----------
    diameter
        Pixels on a side.
    plane
        Height and width of the image.
    remove_background
        A window then needs no pixel outside its instance's bounding box.
    """
    corner = np.rint(instances.centroid[:, 1:]).astype(np.int64) - diameter // 2
    low = np.maximum(corner, 0)
    high = np.minimum(corner + diameter, np.asarray(plane))
    if remove_background:
        low = np.maximum(low, instances.bbox[:, 1:3])
        high = np.minimum(high, instances.bbox[:, 4:6])
    return Windows(diameter, corner, low, high)


@dataclass(frozen=True, slots=True)
class Strip:
    """A column of tiles, and the windows that its pixels go to.

    Attributes
    ----------
    number
        Rank of the strip.
    tiles
        Regions, from top to bottom and through all z.
    batches
        First and one past the last batch that it fills alone.
    inside
        Instances of these batches, in their order in the store.
    spilled
        Instances to which it contributes fragments.
    """

    number: int
    tiles: list[Region]
    batches: tuple[int, int]
    inside: np.ndarray
    spilled: np.ndarray


@dataclass(frozen=True, slots=True)
class CropPlan:
    """Which instance goes where, and which strip feeds it.

    Attributes
    ----------
    batch_size
        Instances in a batch.
    order : (n,) int64
        Instances in the order of the store.
    strips
        All strips; those that feed no window are left out.
    feeders
        For each batch finished from fragments, the strips that hold some.
    """

    batch_size: int
    order: np.ndarray
    strips: list[Strip]
    feeders: dict[int, list[int]]

    @property
    def batches(self) -> int:
        """How many batches the store has."""
        return math.ceil(len(self.order) / self.batch_size)

    def members(self, batch: int) -> np.ndarray:
        """Instances of a batch, in order."""
        return self.order[batch * self.batch_size : (batch + 1) * self.batch_size]


def plan_crops(windows: Windows, edges: Edges, batch_size: int, tall: bool = True) -> CropPlan:
    """Decide strips, order and batches.

    Parameters
    ----------
    windows
        Of all instances.
    edges
        Of the tiles, along z, y and x.
    batch_size
        Instances in a batch.
    tall
        Let strips span several tiles along y; False makes each tile a strip.
    """
    rows = _strip_edges(len(windows.corner), edges, batch_size) if tall else edges[1]
    first, last = _touched(windows, rows, edges[2])
    alone = np.all(first == last, axis=1)
    width = len(edges[2]) - 1
    home = np.minimum(first[:, 0], len(rows) - 2) * width + np.minimum(first[:, 1], width - 1)
    ends = np.searchsorted(edges[1], windows.high[:, 0])
    ranked = np.lexsort((np.arange(len(home)), ends, home))
    strips: list[Strip] = []
    whole: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    filled = 0
    bounds = np.searchsorted(home[ranked], np.arange((len(rows) - 1) * width + 1))
    fed = _fed(first, last, width)
    for number, (a, b) in enumerate(pairwise(bounds)):
        mine = ranked[a:b]
        ready = mine[alone[mine]]
        kept = ready[: len(ready) // batch_size * batch_size]
        others = np.concatenate([ready[len(kept) :], mine[~alone[mine]]])
        whole.append(kept)
        rest.append(others)
        batches = (filled, filled + len(kept) // batch_size)
        filled = batches[1]
        spilled = np.union1d(ready[len(kept) :], fed.get(number, np.empty(0, np.int64)))
        if len(kept) or len(spilled):
            row, column = divmod(number, width)
            tiles = _tiles(edges, (rows[row], rows[row + 1]), edges[2][column : column + 2])
            strips.append(Strip(number, tiles, batches, kept, spilled))
    order = np.concatenate([*whole, *rest]) if len(home) else np.empty(0, np.int64)
    plan = CropPlan(batch_size, order, strips, {})
    plan.feeders.update(_feeders(plan, filled))
    return plan


def _strip_edges(instances: int, edges: Edges, batch_size: int) -> tuple[int, ...]:
    """Edges of the strips along y: every n-th edge of the tiles."""
    step = strip_rows(instances, len(edges[1]) - 1, len(edges[2]) - 1, batch_size)
    return (*edges[1][:-1:step], edges[1][-1])


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


def _fed(first: np.ndarray, last: np.ndarray, width: int) -> dict[int, np.ndarray]:
    """Windows that need several strips, by strip."""
    members: dict[int, list[int]] = {}
    for i in np.flatnonzero(np.any(first != last, axis=1)):
        for row, column in product(
            range(first[i, 0], last[i, 0] + 1), range(first[i, 1], last[i, 1] + 1)
        ):
            members.setdefault(row * width + column, []).append(int(i))
    return {number: np.asarray(found, np.int64) for number, found in members.items()}


def _tiles(edges: Edges, rows: tuple[int, int], columns: tuple[int, ...]) -> list[Region]:
    inner = [e for e in edges[1] if rows[0] <= e <= rows[1]]
    return [(z, y, (columns[0], columns[1])) for y in pairwise(inner) for z in pairwise(edges[0])]


def _feeders(plan: CropPlan, first: int) -> dict[int, list[int]]:
    """Strips that hold fragments of each batch from `first` on."""
    place = np.empty(len(plan.order), np.int64)
    place[plan.order] = np.arange(len(plan.order)) // plan.batch_size
    feeders: dict[int, list[int]] = {batch: [] for batch in range(first, plan.batches)}
    for rank, strip in enumerate(plan.strips):
        for batch in np.unique(place[strip.spilled]):
            feeders[int(batch)].append(rank)
    return feeders
