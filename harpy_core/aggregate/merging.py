"""Contributions of tiles to their instances, and the table that they are merged into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from harpy_core.aggregate.whole import Assembly, Pieces, Wholes
from harpy_core.instances.finding import GeometryTable, Instances
from harpy_core.kernels import engine as kernels_of
from harpy_core.kernels.blosc import decodes
from harpy_core.running.tasks import Task
from harpy_core.statistics.declared import PARTIALS, Statistic, partials_of
from harpy_core.statistics.partials import Partials
from harpy_core.statistics.pixels import Gathering
from harpy_core.statistics.tile import Tile
from harpy_core.tiles.runs import Geometry, encode_runs, measure_geometry

_VALUES_AT_ONCE = 2**15
"""Values of a statistic that are finished together: some thirty arrays of them fit the cache."""


@dataclass(frozen=True, slots=True)
class TilePart:
    """Contribution of one task: only the instances it holds.

    Attributes
    ----------
    ids : (instances,) uint64
        Labels.
    geometry
        Geometry of the instances' pixels in the tile.
    partials
        Partials of each group of channels that the task read, with the group.
    wholes
        Wholes of each group, where a statistic needs whole instances.
    """

    ids: np.ndarray
    geometry: Geometry
    partials: list[tuple[slice, Partials]]
    wholes: list[Wholes]


def measure_tile(
    task: Task, engine: str, statistics: Sequence[Statistic], ignore_nan: bool
) -> TilePart | None:
    """Measure one tile: its labels encoded once, each of its image chunks decoded once."""
    kernels = kernels_of(engine)
    runs = encode_runs(task.read_labels(), kernels, task.plane_shape())
    if runs.slots == 0:
        return None
    geometry = measure_geometry(runs, kernels, task.origin)
    gathering = None
    whole = [statistic for statistic in statistics if statistic.whole]
    if whole and task.split is not None:
        split = np.isin(runs.ids, task.split)
        gathering = Gathering(runs, geometry.totals[:, 0], split, kernels)
    partials: list[tuple[slice, Partials]] = []
    wholes: list[Wholes] = []
    # Whole instances are gathered by the CPU.
    encoded = decodes(kernels) and gathering is None
    for channels, planes in task.read_planes(encoded):
        tile = Tile(planes, runs, geometry.totals[:, :1], kernels, ignore_nan)
        found = Partials.of(tile, merged_of(statistics))
        partials.append((channels, found))
        if gathering is not None:
            wholes.append(Wholes.of(tile, found, gathering, whole))
    return TilePart(runs.ids, geometry, partials, wholes)


def merged_of(statistics: Iterable[Statistic]) -> tuple[str, ...]:
    """The partials of some statistics that are merged as tiles arrive."""
    return tuple(name for name in partials_of(statistics) if not PARTIALS[name].whole)


class StatisticsTable:
    """The partials of all instances in some channels, merged as tiles arrive.

    Parameters
    ----------
    dtype
        Type of the pixels.
    statistics
        Statistics to finish.
    channels
        First channel, and the one after the last.
    kernels
        The engine's module.
    assembly
        Assembly of the pieces of instances, for statistics that need whole ones.
    """

    def __init__(
        self,
        dtype: np.dtype,
        statistics: Sequence[Statistic],
        channels: tuple[int, int],
        kernels: ModuleType,
        assembly: Assembly | None,
    ) -> None:
        self._first = channels[0]
        self._index = kernels.LabelIndex()
        self._geometry = GeometryTable()
        self._channels = channels[1] - channels[0]
        self._partials = Partials.empty(dtype, merged_of(statistics), 0, self._channels)
        self._merged = [statistic for statistic in statistics if not statistic.whole]
        self._whole = {s.name: np.empty((0, self._channels)) for s in statistics if s.whole}
        self._statistics = {statistic.name: statistic for statistic in statistics}
        self._assembly = assembly

    def add(self, part: TilePart) -> None:
        """Merge a tile."""
        rows = self._index.rows(part.ids)
        if len(self._index) > len(self._partials):
            more = max(len(self._index), 2 * len(self._partials))
            self._partials = self._partials.grown(more)
            for name, values in self._whole.items():
                fresh = np.full((more - len(values), self._channels), np.nan)
                self._whole[name] = np.concatenate([values, fresh])
        if part.partials[0][0].start == self._first:
            self._geometry.add(rows, part.geometry)
        for channels, found in part.partials:
            place = slice(channels.start - self._first, channels.stop - self._first)
            here = self._partials.at(rows, place)
            here.merge(found)
            self._partials.put(rows, place, here)
        for (channels, _), wholes in zip(part.partials, part.wholes, strict=False):
            place = slice(channels.start - self._first, channels.stop - self._first)
            self._keep(rows[wholes.slots], place, wholes.values)
            self._complete(part, rows, place, wholes.pieces)

    def _keep(self, rows: np.ndarray, place: slice, values: dict[str, np.ndarray]) -> None:
        for name, found in values.items():
            self._whole[name][rows, place] = found

    def _complete(self, part: TilePart, rows: np.ndarray, place: slice, pieces: Pieces) -> None:
        """Add a tile's pieces to those waiting, and finish the instances they complete."""
        if self._assembly is None or len(pieces.slots) == 0:
            return
        slots = pieces.slots
        pixels = part.geometry.totals[slots, 0]
        complete, done = self._assembly.add(place.start, part.ids[slots], pixels, pieces)
        if done:
            there = rows[slots[complete]]
            whole = [self._statistics[name] for name in self._whole]
            here = self._partials.at(there, place)
            self._keep(there, place, self._assembly.finish(done, here, whole))

    def holds(self, instances: Instances | None) -> bool:
        """Whether the tiles held just these instances, with as many pixels each."""
        order = np.argsort(self._index.ids)
        found = self._geometry.instances(self._index.ids, order)
        return instances is not None and all(
            np.array_equal(getattr(found, name), getattr(instances, name))
            for name in ("id", "count", "bbox")
        )

    def finish(self, index: np.ndarray | None) -> tuple[Instances, dict[str, np.ndarray]]:
        """Return instances by id, or as in `index`, and each statistic, (instances, c) float64."""
        known = self._index.ids
        order = np.argsort(known)
        rows, present = order, np.ones(len(order), bool)
        if index is not None:
            place = np.searchsorted(known[order], index)
            place[place == len(known)] = 0
            rows = order[place] if len(known) else np.zeros(len(index), np.int64)
            present = known[rows] == index if len(known) else np.zeros(len(index), bool)
        count = np.zeros(len(rows), np.int64)
        count[present] = self._geometry.totals[rows[present], 0]
        centroid = np.full((len(rows), 3), np.nan)
        centroid[present] = self._geometry.totals[rows[present], 1:] / count[present][:, np.newaxis]
        bbox = np.zeros((len(rows), 6), np.int64)
        bbox[present] = self._geometry.box[rows[present]]
        ids = known[rows] if index is None else index
        return Instances(ids, count, centroid, bbox), self._finished(rows, present, count)

    def _finished(
        self, rows: np.ndarray, present: np.ndarray, count: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Finish a few instances at a time, so that intermediate arrays stay small."""
        layers = {name: np.full((len(rows), self._channels), np.nan) for name in self._statistics}
        if "count" in layers:
            layers["count"][:] = 0.0
        there = np.flatnonzero(present)
        step = max(_VALUES_AT_ONCE // self._channels, 1)
        for first in range(0, len(there), step):
            some = there[first : first + step]
            here = self._partials.at(rows[some], slice(None))
            for name, values in here.finish(self._merged, count[some]).items():
                layers[name][some] = values
            for name, values in self._whole.items():
                layers[name][some] = values[rows[some]]
        return layers
