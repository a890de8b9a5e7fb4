"""Statistics that need all pixels of an instance: finished in its tile, or where its pieces meet.

An instance lies whole in a tile if its bounding box does, whatever its shape. For any other, each
tile contributes the pixels that it holds, and the last one completes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TypeVar

import numpy as np

from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances
from harpy_core.running.tasks import LazyTask, Task
from harpy_core.statistics.declared import Statistic
from harpy_core.statistics.partials import Partials
from harpy_core.statistics.pixels import Counted, Gathering, Pixels, histogram, is_counted
from harpy_core.statistics.tile import Tile
from harpy_core.tiles.grid import Edges, regions_of

HELD_BYTES = 2**32
"""Bytes that pieces may take while they wait for the other tiles of their instances."""

AnyTask = TypeVar("AnyTask", Task, LazyTask)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pixels of a tile's instances that extend into other tiles.

    Attributes
    ----------
    slots : (pieces,) int64
        Instance of each piece.
    begin : (pieces + 1,) int64
        Index of each piece's first pixel, and the end; counted pieces have no pixels here.
    values : (c, n)
        Pixels.
    counted : (c, values of the pixel type) int64 each
        Histograms of large pieces, by their place in `slots`.
    """

    slots: np.ndarray
    begin: np.ndarray
    values: np.ndarray
    counted: dict[int, np.ndarray]


@dataclass(frozen=True, slots=True)
class Wholes:
    """Contribution of a tile to statistics of whole instances.

    Attributes
    ----------
    slots : (instances,) int64
        Instances that lie whole in the tile.
    values : (instances, c) float64 each
        Their statistics by name.
    pieces
        Pieces of the others.
    """

    slots: np.ndarray
    values: dict[str, np.ndarray]
    pieces: Pieces

    @classmethod
    def of(
        cls, tile: Tile, partials: Partials, gathering: Gathering, statistics: Sequence[Statistic]
    ) -> Wholes:
        """Gather a tile's pixels channel by channel, finish whole instances, keep the others."""
        slots = gathering.slots[: gathering.whole]
        begin = gathering.begin[: gathering.whole + 1]
        values = {s.name: np.empty((len(slots), len(tile.planes))) for s in statistics}
        pieces = _Cutter(gathering, tile.decoded)
        for c, plane in enumerate(tile.decoded):
            pixels = gathering.pixels(plane)
            pieces.cut(c, pixels)
            here = Pixels.of(pixels[: begin[-1]], begin, tile.kernels, tile.ignore_nan)
            channel = partials.at(slots, slice(c, c + 1))
            found = channel.finish(statistics, tile.pixels[slots], pixels=here)
            for name, one in found.items():
                values[name][:, c] = one[:, 0]
        return cls(slots, values, pieces.pieces)


class _Cutter:
    """Cutter of the pieces of a tile's instances out of the buffer that all are gathered in."""

    def __init__(self, gathering: Gathering, planes: np.ndarray) -> None:
        self._first = gathering.begin[gathering.whole :]
        size = np.diff(self._first)
        large = np.array([is_counted(planes.dtype, n) for n in size], bool)
        begin = np.concatenate([[0], np.cumsum(np.where(large, 0, size))]).astype(np.int64)
        bins = 1 << min(8 * planes.itemsize, 16)
        counted = {int(i): np.zeros((len(planes), bins), np.int64) for i in np.flatnonzero(large)}
        values = np.empty((len(planes), begin[-1]), planes.dtype)
        self._kept = np.repeat(~large, size)
        self.pieces = Pieces(gathering.slots[gathering.whole :], begin, values, counted)

    def cut(self, channel: int, pixels: np.ndarray) -> None:
        """Copy the pieces of one channel."""
        self.pieces.values[channel] = pixels[self._first[0] :][self._kept]
        for i, bins in self.pieces.counted.items():
            bins[channel] = histogram(pixels[self._first[i] : self._first[i + 1]])


@dataclass(slots=True)
class _Waiting:
    """Pixels of an instance that have arrived: their number, and values in a task's channels."""

    pixels: int = 0
    values: list[np.ndarray] = field(default_factory=list)
    bins: np.ndarray | None = None


class Assembly:
    """Pieces of instances, until those of an instance are complete.

    Parameters
    ----------
    instances
        All instances of the image.
    dtype
        Type of the pixels.
    kernels
        The engine's module.
    ignore_nan
        Leave NaN pixels out.
    """

    def __init__(
        self, instances: Instances, dtype: np.dtype, kernels: ModuleType, ignore_nan: bool
    ) -> None:
        self._instances = instances
        self._dtype = dtype
        self._kernels = kernels
        self._ignore_nan = ignore_nan
        self._waiting: dict[tuple[int, int], _Waiting] = {}

    def add(
        self, first: int, ids: np.ndarray, pixels: np.ndarray, pieces: Pieces
    ) -> tuple[np.ndarray, list[_Waiting]]:
        """Take the pieces of a tile; return the indices of those that complete an instance.

        Parameters
        ----------
        first
            First channel of the task.
        ids, pixels : (pieces,)
            Label of each instance, and the number of its pixels in the tile.
        """
        place = np.searchsorted(self._instances.id, ids)
        total = self._instances.count[np.minimum(place, len(self._instances) - 1)]
        complete, done = [], []
        for i, (label, count) in enumerate(zip(ids.tolist(), pixels.tolist(), strict=True)):
            waiting = self._waiting.setdefault((first, label), _Waiting())
            waiting.pixels += count
            self._take(waiting, pieces, i, int(total[i]))
            if waiting.pixels == total[i]:
                complete.append(i)
                done.append(self._waiting.pop((first, label)))
        return np.array(complete, np.int64), done

    def _take(self, waiting: _Waiting, pieces: Pieces, i: int, total: int) -> None:
        values = pieces.values[:, pieces.begin[i] : pieces.begin[i + 1]]
        if not is_counted(self._dtype, total):
            waiting.values.append(values.copy())
            return
        bins = pieces.counted.get(i)
        if bins is None:
            bins = np.stack([histogram(channel) for channel in values])
        waiting.bins = bins if waiting.bins is None else waiting.bins + bins

    def pixels(self, done: Sequence[_Waiting], channel: int) -> Pixels:
        """Return all pixels of complete, not counted instances, in a channel of their task."""
        each = [np.concatenate([part[channel] for part in one.values]) for one in done]
        begin = np.concatenate([[0], np.cumsum([len(values) for values in each])]).astype(np.int64)
        return Pixels.of(np.concatenate(each), begin, self._kernels, self._ignore_nan)

    def finish(
        self, done: Sequence[_Waiting], partials: Partials, statistics: Sequence[Statistic]
    ) -> dict[str, np.ndarray]:
        """Return the statistics of complete instances, (instances, c) float64 each.

        Parameters
        ----------
        partials
            Partials of the instances, in the channels of their task.
        """
        channels = partials.channels
        values = {s.name: np.empty((len(done), channels)) for s in statistics}
        kept = np.array([i for i, one in enumerate(done) if one.bins is None], np.int64)
        number = np.array([one.pixels for one in done])
        for c in range(channels):
            if len(kept):
                pixels = self.pixels([done[i] for i in kept], c)
                here = partials.at(kept, slice(c, c + 1))
                found = here.finish(statistics, number[kept], pixels=pixels)
                for name, one in found.items():
                    values[name][kept, c] = one[:, 0]
            for i, whole in enumerate(done):
                if whole.bins is not None:
                    counted = Counted.of(whole.bins[c], self._dtype)
                    here = partials.at(slice(i, i + 1), slice(c, c + 1))
                    found = here.finish(statistics, number[i : i + 1], pixels=counted)
                    for name, one in found.items():
                        values[name][i, c] = one[0, 0]
        return values


def with_split(tasks: Sequence[AnyTask], instances: Instances, edges: Edges) -> list[AnyTask]:
    """Return the tasks, each with the labels of its instances that extend into other tiles."""
    low, high = _tiles_of(instances, edges)
    split = np.any(low != high, axis=1)
    low, high, ids = low[split], high[split], instances.id[split]
    # Every tile of an instance's box, one after the other.
    extent = high - low + 1
    number = extent.prod(axis=1)
    owner = np.repeat(np.arange(len(ids)), number)
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    rest, x = np.divmod(place, extent[owner, 2])
    z, y = np.divmod(rest, extent[owner, 1])
    _, rows, columns = (len(axis) - 1 for axis in edges)
    flat = ((low[owner, 0] + z) * rows + low[owner, 1] + y) * columns + low[owner, 2] + x
    order = np.argsort(flat, kind="stable")
    regions = regions_of(edges)
    bounds = np.searchsorted(flat[order], np.arange(len(regions) + 1))
    there = np.sort(ids[owner]) if len(regions) == 1 else ids[owner[order]]
    labels = {region: there[bounds[i] : bounds[i + 1]] for i, region in enumerate(regions)}
    return [replace(task, split=labels[task.region]) for task in tasks]


def _tiles_of(instances: Instances, edges: Edges) -> tuple[np.ndarray, np.ndarray]:
    """First and last tile of each instance's bounding box, in z, y and x: (instances, 3) each."""
    low, high = (
        np.stack([np.searchsorted(e, box[:, axis], "right") - 1 for axis, e in enumerate(edges)], 1)
        for box in (instances.bbox[:, :3], instances.bbox[:, 3:] - 1)
    )
    return low, high


def refuse_unbounded(
    instances: Instances, edges: Edges, dtype: np.dtype, channels: int, names: Sequence[str]
) -> None:
    """Refuse instances whose pieces would take more than `HELD_BYTES` at a time.

    Parameters
    ----------
    channels
        Number of channels measured at a time.
    names
        Names of the statistics that need whole instances.

    Raises
    ------
    InputError
        The pieces would take more; nothing has been read by then.
    """
    low, high = _tiles_of(instances, edges)
    split = np.any(low != high, axis=1)
    size = instances.count[split] * dtype.itemsize
    counted = np.array([is_counted(dtype, n) for n in instances.count[split]], bool)
    size = np.where(counted, 8 << min(8 * dtype.itemsize, 16), size) * channels
    _, rows, columns = (len(axis) - 1 for axis in edges)
    first, last = ((t[:, 0] * rows + t[:, 1]) * columns + t[:, 2] for t in (low, high))
    change = np.zeros(len(regions_of(edges)) + 2, np.int64)
    np.add.at(change, first[split], size)
    np.subtract.at(change, last[split] + 1, size)
    most = int(np.cumsum(change).max())
    if most > HELD_BYTES:
        largest = np.flatnonzero(split)[np.argmax(size)]
        raise InputError(
            f"stats: {names[0]} would hold {most / 1e9:.1f} GB of pixels of instances that lie in "
            f"several tiles, and may hold {HELD_BYTES / 1e9:.1f}; the largest is "
            f"{instances.id[largest]} with {instances.count[largest]:,} pixels: leave it out of "
            "the labels, or give the image as integers of 16 bits, which are counted"
        )
