"""Statistics that need all pixels of an instance: finished in its tile, or where its pieces meet.

An instance lies whole in a tile if its bounding box does, whatever its shape. For any other, each
tile contributes the pixels that it holds, and the last one completes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TypeVar

import numpy as np

from harpy_core.aggregate.pieces import Cutter, Pieces, finished, whole_partials
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances
from harpy_core.running.tasks import LazyTask, Task
from harpy_core.statistics.asked import Asked
from harpy_core.statistics.declared import Statistic
from harpy_core.statistics.joint import Joint
from harpy_core.statistics.partials import Partials
from harpy_core.statistics.pixels import Gathering, is_counted
from harpy_core.statistics.places import Places, Stretches
from harpy_core.statistics.tile import Tile
from harpy_core.tiles.grid import Edges, regions_of

HELD_BYTES = 2**32
"""Bytes that pieces may take while they wait for the other tiles of their instances."""

AnyTask = TypeVar("AnyTask", Task, LazyTask)


@dataclass(frozen=True, slots=True)
class JointWork:
    """Numbers of several channels together that a job computes.

    Attributes
    ----------
    joints
        Declarations, with the index of each of their channels in `channels`.
    channels
        Numbers of all channels that they need, ascending.
    """

    joints: tuple[tuple[Joint, list[int]], ...]
    channels: list[int]

    @classmethod
    def of(cls, asked: Asked, channels: Sequence[str]) -> JointWork | None:
        """Return the work for an image's channels; None where nothing is asked for."""
        needed = asked.joined(channels)
        joints = tuple(
            (joint, [needed.index(number) for number in joint.numbers(channels)])
            for joint in asked.joints.values()
        )
        return cls(joints, needed) if joints else None

    def within(self, channels: Sequence[int]) -> bool:
        """Whether a range of channels, first to end, has all that are needed."""
        return channels[0] <= self.channels[0] and self.channels[-1] < channels[-1]


@dataclass(frozen=True, slots=True)
class Wholes:
    """Contribution of a tile to statistics of whole instances.

    Attributes
    ----------
    slots : (instances,) int64
        Instances that lie whole in the tile.
    values : (instances, c) float64 each
        Their statistics by name; joint numbers are (instances, outputs).
    pieces
        Pieces of the others.
    """

    slots: np.ndarray
    values: dict[str, np.ndarray]
    pieces: Pieces

    @classmethod
    def of(
        cls,
        tile: Tile,
        partials: Partials,
        gathering: Gathering,
        statistics: Sequence[Statistic],
        places: Places | None,
        kept: JointPixels | None,
    ) -> Wholes:
        """Gather a tile's pixels channel by channel, finish whole instances, keep the others.

        Parameters
        ----------
        places
            Places of the whole instances, where statistics need them.
        kept
            Buffer for the pixels of channels that are needed together.
        """
        slots = gathering.slots[: gathering.whole]
        begin = gathering.begin[: gathering.whole + 1]
        ids = tile.runs.ids[slots]
        values = {s.name: np.empty((len(slots), len(tile.planes))) for s in statistics}
        cut = len(tile.planes) if statistics else 0
        pieces = Cutter(gathering, cut, tile.planes.dtype, places is None)
        for c, plane in enumerate(tile.decoded):
            pixels = gathering.pixels(plane)
            if kept is not None:
                kept.take(c, pixels)
            if not statistics:
                continue
            pieces.cut(c, pixels)
            if len(slots):
                inside = pixels[: begin[-1]]
                whole = whole_partials(
                    inside, begin, places, ids, statistics, tile.ignore_nan, tile.kernels
                )
                channel = partials.at(slots, slice(c, c + 1))
                found = channel.finish(statistics, tile.pixels[slots], **whole)
                for name, one in found.items():
                    values[name][:, c] = one[:, 0]
        return cls(slots, values, pieces.pieces)


class JointPixels:
    """Pixels of a tile in all channels that are needed together, as they are read.

    Parameters
    ----------
    work
        What is computed from them.
    gathering
        Placement of the pixels of the tile's instances.
    dtype
        Type of the pixels.
    """

    def __init__(self, work: JointWork, gathering: Gathering, dtype: np.dtype) -> None:
        self._work, self._gathering = work, gathering
        shape = len(work.channels), int(gathering.begin[-1])
        self._values = np.empty(shape, dtype)
        self.first = 0

    def take(self, channel: int, pixels: np.ndarray) -> None:
        """Keep the pixels of a channel, counted from `first`, if it is needed."""
        number = self.first + channel
        if number in self._work.channels:
            self._values[self._work.channels.index(number)] = pixels

    def wholes(self, ids: np.ndarray, places: Places, ignore_nan: bool) -> Wholes:
        """Finish whole instances and keep the pieces of the others.

        Parameters
        ----------
        ids : (slots,) uint64
            Labels in the tile.
        """
        gathering = self._gathering
        slots = gathering.slots[: gathering.whole]
        inside = self._values[:, : gathering.begin[gathering.whole]]
        values = {joint.name: np.empty((0, len(joint.outputs))) for joint, _ in self._work.joints}
        if len(slots):
            values = finished(self._work.joints, inside, places, ids[slots], ignore_nan)
        pieces = Cutter(gathering, len(self._values), self._values.dtype, counting=False)
        for channel, pixels in enumerate(self._values):
            pieces.cut(channel, pixels)
        return Wholes(slots, values, pieces.pieces)


class Gathered:
    """Pixels of a tile's instances, as they are gathered for what needs instances whole.

    Parameters
    ----------
    gathering
        Placement of the pixels.
    statistics
        Statistics of whole instances.
    joint
        Numbers of several channels together, if the task has all that they need.
    origin
        (z, y, x) of the tile's first pixel.
    flat
        Whether the image has one plane.
    kernels
        The engine's module.
    """

    def __init__(
        self,
        gathering: Gathering,
        statistics: Sequence[Statistic],
        joint: JointWork | None,
        origin: tuple[int, int, int],
        flat: bool,
        kernels: ModuleType,
    ) -> None:
        self._gathering, self._statistics, self._work = gathering, statistics, joint
        self._places: Places | None = None
        self._pixels: JointPixels | None = None
        self.stretches: Stretches | None = None
        """Runs of the pieces of instances, where their places are needed."""
        if joint is not None or any(statistic.placed for statistic in statistics):
            inside, self.stretches = gathering.stretches(origin)
            self._places = Places(inside, flat, kernels)

    def wholes(self, tile: Tile, partials: Partials, first: int) -> Wholes:
        """Take some channels, and finish statistics of the instances that are whole.

        Parameters
        ----------
        first
            First of the channels.
        """
        if self._work is not None:
            dtype = tile.planes.dtype
            self._pixels = self._pixels or JointPixels(self._work, self._gathering, dtype)
            self._pixels.first = first
        return Wholes.of(
            tile, partials, self._gathering, self._statistics, self._places, self._pixels
        )

    def joint(self, ids: np.ndarray, ignore_nan: bool) -> Wholes | None:
        """Finish joint numbers of the instances that are whole, once all channels were taken.

        Parameters
        ----------
        ids : (slots,) uint64
            Labels in the tile.
        """
        if self._pixels is None or self._places is None:
            return None
        return self._pixels.wholes(ids, self._places, ignore_nan)


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
    instances: Instances,
    edges: Edges,
    dtype: np.dtype,
    channels: int,
    names: Sequence[str],
    counting: bool,
) -> None:
    """Refuse instances whose pieces would take more than `HELD_BYTES` at a time.

    Parameters
    ----------
    channels
        Number of channels measured at a time.
    names
        Names of the statistics that need whole instances.
    counting
        Whether large instances are counted, not kept.

    Raises
    ------
    InputError
        The pieces would take more; nothing has been read by then.
    """
    low, high = _tiles_of(instances, edges)
    split = np.any(low != high, axis=1)
    size = instances.count[split] * dtype.itemsize
    counted = np.array([counting and is_counted(dtype, n) for n in instances.count[split]], bool)
    size = np.where(counted, 8 << min(8 * dtype.itemsize, 16), size) * channels
    _, rows, columns = (len(axis) - 1 for axis in edges)
    first, last = ((t[:, 0] * rows + t[:, 1]) * columns + t[:, 2] for t in (low, high))
    change = np.zeros(len(regions_of(edges)) + 2, np.int64)
    np.add.at(change, first[split], size)
    np.subtract.at(change, last[split] + 1, size)
    most = int(np.cumsum(change).max())
    if most > HELD_BYTES:
        largest = np.flatnonzero(split)[np.argmax(size)]
        other = ", or give the image as integers of 16 bits, which are counted" if counting else ""
        raise InputError(
            f"stats: {names[0]} would hold {most / 1e9:.1f} GB of pixels of instances that lie in "
            f"several tiles, and may hold {HELD_BYTES / 1e9:.1f}; the largest is "
            f"{instances.id[largest]} with {instances.count[largest]:,} pixels: leave it out of "
            f"the labels{other}"
        )
