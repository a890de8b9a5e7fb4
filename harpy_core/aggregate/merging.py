"""What tiles say of their instances, and the table that it is merged into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harpy_core.instances.finding import GeometryTable, Instances
from harpy_core.kernels import engine as kernels_of
from harpy_core.running.tasks import Task
from harpy_core.statistics.declared import Statistic
from harpy_core.statistics.partials import Partials, Tile
from harpy_core.tiles.runs import Geometry, encode_runs, measure_geometry


@dataclass(frozen=True, slots=True)
class TilePart:
    """What one task adds: only the instances it holds.

    Attributes
    ----------
    ids : (instances,) uint64
    geometry
        Of the instances' pixels in the tile.
    partials
        One for each group of channels that the task read, with the group.
    """

    ids: np.ndarray
    geometry: Geometry
    partials: list[tuple[slice, Partials]]


def measure_tile(
    task: Task, engine: str, partials: Sequence[str], ignore_nan: bool
) -> TilePart | None:
    """Measure one tile: its labels encoded once, each of its image chunks decoded once."""
    kernels = kernels_of(engine)
    runs = encode_runs(task.read_labels(), kernels, task.plane_shape())
    if runs.slots == 0:
        return None
    geometry = measure_geometry(runs, kernels, task.origin)
    pixels = geometry.totals[:, :1]
    found = [
        (channels, Partials.of(Tile(planes, runs, pixels, kernels, ignore_nan), partials))
        for channels, planes in task.read_planes()
    ]
    return TilePart(runs.ids, geometry, found)


class StatisticsTable:
    """The partials of all instances in some channels, merged as tiles arrive.

    Parameters
    ----------
    dtype
        Type of the pixels.
    partials
        Their names.
    channels
        First channel, and one past the last.
    engine
        Whose index of labels is used.
    """

    def __init__(
        self, dtype: np.dtype, partials: Sequence[str], channels: tuple[int, int], engine: str
    ) -> None:
        self._first = channels[0]
        self._index = kernels_of(engine).LabelIndex()
        self._geometry = GeometryTable()
        self._partials = Partials.empty(dtype, partials, 0, channels[1] - channels[0])
        self._channels = channels[1] - channels[0]

    def add(self, part: TilePart) -> None:
        """Merge a tile."""
        rows = self._index.rows(part.ids)
        if len(self._index) > len(self._partials):
            more = max(len(self._index), 2 * len(self._partials))
            self._partials = self._partials.grown(more)
        if part.partials[0][0].start == self._first:
            self._geometry.add(rows, part.geometry)
        for channels, found in part.partials:
            place = slice(channels.start - self._first, channels.stop - self._first)
            here = self._partials.at(rows, place)
            here.merge(found)
            self._partials.put(rows, place, here)

    def finish(
        self, statistics: dict[str, Statistic], index: np.ndarray | None
    ) -> tuple[Instances, dict[str, np.ndarray]]:
        """Instances by id, or as `index` asks, and of each statistic (instances, c) float64."""
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
        return Instances(ids, count, centroid, bbox), self._finished(
            statistics, rows, present, count
        )

    def _finished(
        self,
        statistics: dict[str, Statistic],
        rows: np.ndarray,
        present: np.ndarray,
        count: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Channel by channel, so that what is held on the way stays small."""
        layers = {name: np.full((len(rows), self._channels), np.nan) for name in statistics}
        if "count" in layers:
            layers["count"][:] = 0.0
        for c in range(self._channels):
            here = self._partials.at(rows[present], slice(c, c + 1))
            for name, values in here.finish(statistics.values(), count[present]).items():
                layers[name][present, c] = values[:, 0]
        return layers
