"""Contributions of tiles to their instances, and the table that they are merged into."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import TypeVar

import numpy as np

from harpy_core.aggregate.label_work import LabelPart, LabelWork
from harpy_core.aggregate.pieces import Assembly, Waiting
from harpy_core.aggregate.whole import Gathered, JointWork, Wholes
from harpy_core.instances.finding import GeometryTable, Instances
from harpy_core.kernels import engine as kernels_of
from harpy_core.kernels.blosc import Encoded, decodes
from harpy_core.running.tasks import Task
from harpy_core.statistics.channels import ChannelCounts, CountTable
from harpy_core.statistics.declared import PARTIALS, Statistic, partials_of
from harpy_core.statistics.partials import Partials
from harpy_core.statistics.pixels import Gathering
from harpy_core.statistics.places import Stretches
from harpy_core.statistics.tile import Tile
from harpy_core.tiles.runs import Geometry, RunTable, measure_geometry

_JOINT = -1
"""Key of the pieces that are kept for joint numbers."""

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
    labels
        What the labels alone say, if it is asked for and no other task on the tile does it.
    joint
        Joint numbers, of the task that has all channels that they need.
    stretches
        Runs of the pieces of instances, where their places are needed.
    counts
        Histograms of each group of channels, where whole channels are measured.
    """

    ids: np.ndarray
    geometry: Geometry
    partials: list[tuple[slice, Partials]]
    wholes: list[Wholes]
    labels: LabelPart | None = None
    joint: Wholes | None = None
    stretches: Stretches | None = None
    counts: tuple[ChannelCounts, ...] = ()

    @classmethod
    def of_channels(cls, found: Sequence[TilePart | None]) -> TilePart | None:
        """Put together the contributions of a tile's channels, which were measured apart."""
        parts = [part for part in found if part is not None]
        if len(parts) < 2:
            return parts[0] if parts else None
        return replace(
            parts[0],
            partials=[one for part in parts for one in part.partials],
            wholes=[one for part in parts for one in part.wholes],
            joint=next((part.joint for part in parts if part.joint is not None), None),
            counts=tuple(one for part in parts for one in part.counts),
        )


@dataclass(frozen=True, slots=True)
class TileWork:
    """What is measured of every tile.

    Attributes
    ----------
    engine
        Name of the engine.
    statistics
        Statistics of each channel.
    ignore_nan
        Leave NaN pixels out.
    on_labels
        What to measure of the labels too.
    joint
        Numbers of several channels together, for the task that has all that they need.
    flat
        Whether the image has one plane.
    whole_channels
        Count the values of all pixels, of tiles without instances too.
    """

    engine: str
    statistics: tuple[Statistic, ...]
    ignore_nan: bool
    on_labels: LabelWork | None = None
    joint: JointWork | None = None
    flat: bool = True
    whole_channels: bool = False

    def steps(
        self, task: Task, labels: np.ndarray | None, runs: RunTable
    ) -> Steps[TilePart | None]:
        """Measure a tile step by step: yield whether planes may stay encoded, then take them.

        Parameters
        ----------
        labels
            Labels of the tile, until the first step is done; None where they are no image.
        runs
            Their runs.
        """
        kernels = kernels_of(self.engine)
        if runs.slots == 0 and not self.whole_channels:
            return None
        geometry = measure_geometry(runs, kernels, task.origin)
        said = None
        if self.on_labels is not None and self.on_labels.is_in(task):
            said = LabelPart.of(self.on_labels, task, labels, runs, geometry, kernels)
        if not task.channels:
            return TilePart(runs.ids, geometry, [], [], labels=said)
        gathered = self._gathered(task, runs, geometry)
        found = TilePart(runs.ids, geometry, [], [], said)
        counts: list[ChannelCounts] = []
        # Whole instances are gathered, and values counted, by the CPU.
        given = yield decodes(kernels) and gathered is None and not self.whole_channels
        while given is not None:
            channels, planes = given
            if self.whole_channels:
                decoded = planes.pixels if isinstance(planes, Encoded) else planes
                shape = task.plane_shape()
                counts.append(
                    ChannelCounts.of(channels, decoded, shape, task.region, runs, kernels)
                )
            if runs.slots:
                tile = Tile(planes, runs, geometry.totals[:, :1], kernels, self.ignore_nan)
                partials = Partials.of(tile, merged_of(self.statistics))
                found.partials.append((channels, partials))
                if gathered is not None:
                    found.wholes.append(gathered.wholes(tile, partials, channels.start))
            given = yield False
        return replace(
            found,
            joint=gathered.joint(runs.ids, self.ignore_nan) if gathered else None,
            stretches=gathered.stretches if gathered else None,
            counts=tuple(counts),
        )

    def _gathered(self, task: Task, runs: RunTable, geometry: Geometry) -> Gathered | None:
        """Prepare for what needs whole instances, if anything does."""
        whole = [statistic for statistic in self.statistics if statistic.whole]
        joint = self.joint if self.joint and self.joint.within(task.channels) else None
        if task.split is None or runs.slots == 0 or not (whole or joint):
            return None
        split = np.isin(runs.ids, task.split)
        kernels = kernels_of(self.engine)
        gathering = Gathering(runs, geometry.totals[:, 0], split, kernels)
        return Gathered(gathering, whole, joint, task.origin, self.flat, kernels)


Planes = tuple[slice, "np.ndarray | Encoded"]
"""Some channels, and their pixels."""

R = TypeVar("R")

Steps = Generator[bool, "Planes | None", R]
"""A measurement of a tile in steps: it takes planes, and at their end returns its result."""


def as_one(measurements: Sequence[Steps[R]]) -> Steps[list[R]]:
    """Make one measurement of several of a tile, which have had no step yet."""
    results: dict[int, R] = {}
    encoded = True
    for i, steps in enumerate(measurements):
        try:
            encoded &= next(steps)
        except StopIteration as end:
            results[i] = end.value
    waiting = [i for i in range(len(measurements)) if i not in results]
    given = (yield encoded) if waiting else None
    while given is not None:
        for i in waiting:
            measurements[i].send(given)
        given = yield False
    for i in waiting:
        results[i] = finished(measurements[i])
    return [results[i] for i in range(len(measurements))]


def finished(steps: Steps[R]) -> R:
    """End a measurement that has had all planes, and return its result."""
    try:
        steps.send(None)
    except StopIteration as end:
        found: R = end.value
        return found
    raise ValueError("a measurement takes more planes than there are")


def in_one_read(task: Task, measurements: Sequence[Steps[R]]) -> list[R]:
    """Run several measurements of a tile, which have had no step yet, in one read of its planes."""
    steps = as_one(measurements)
    try:
        encoded = next(steps)
    except StopIteration as end:
        results: list[R] = end.value
        return results
    for given in task.read_planes(encoded):
        steps.send(given)
    return finished(steps)


def measure_tile(task: Task, work: TileWork) -> TilePart | None:
    """Measure one tile: its labels encoded once, each of its image chunks decoded once."""
    plane_shape = None if task.image is None else task.plane_shape()
    runs, labels = task.read_runs(kernels_of(work.engine), plane_shape)
    return in_one_read(task, [work.steps(task, labels, runs)])[0]


def merged_of(statistics: Iterable[Statistic]) -> tuple[str, ...]:
    """The partials of some statistics that are merged as tiles arrive."""
    merged = tuple(name for name in partials_of(statistics) if not PARTIALS[name].whole)
    # Joint numbers alone need none; a table of no words is as long as its count.
    return merged or ("count",)


@dataclass(frozen=True, slots=True)
class Measured:
    """Instances, and what was measured of them.

    Attributes
    ----------
    layers : (instances, c) float64 each
        Statistics by name.
    shapes : (instances,) float64 each
        Columns of shapes by name, measured with the first channel.
    contacts
        Labels of pairs that touch, and their sides along z, y and x, likewise, if asked for.
    joint : (instances, outputs) float64 each
        Numbers of several channels together, by name.
    counts : (2, c, values of the pixel type) int64
        Histograms of all pixels and of those inside instances; None where not asked for.
    """

    instances: Instances
    layers: dict[str, np.ndarray]
    shapes: dict[str, np.ndarray] = field(default_factory=dict)
    contacts: tuple[np.ndarray, np.ndarray] | None = None
    joint: dict[str, np.ndarray] = field(default_factory=dict)
    counts: np.ndarray | None = None


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
    joint
        Numbers of several channels together, if these channels have all that they need.
    counts
        Histograms of the channels, if whole channels are measured.
    instances
        Number of instances, if it is known: there is room for as many at once.
    """

    def __init__(
        self,
        dtype: np.dtype,
        statistics: Sequence[Statistic],
        channels: tuple[int, int],
        kernels: ModuleType,
        assembly: Assembly | None,
        joint: JointWork | None = None,
        counts: CountTable | None = None,
        instances: int = 0,
    ) -> None:
        self._counts = counts
        self._expected = instances
        self._first = channels[0]
        self._index = kernels.LabelIndex()
        self._geometry = GeometryTable()
        self._channels = channels[1] - channels[0]
        self._partials = Partials.empty(dtype, merged_of(statistics), 0, self._channels)
        self._merged = [statistic for statistic in statistics if not statistic.whole]
        self._whole = {s.name: np.empty((0, self._channels)) for s in statistics if s.whole}
        self._joints = joint.joints if joint else ()
        self._joint = {one.name: np.empty((0, len(one.outputs))) for one, _ in self._joints}
        self._statistics = {statistic.name: statistic for statistic in statistics}
        self._assembly = assembly

    def add(self, part: TilePart) -> None:
        """Merge a tile."""
        if self._counts is not None:
            for counted in part.counts:
                self._counts.add(counted)
        if len(part.ids) == 0:
            return
        rows = self._index.rows(part.ids)
        if len(self._index) > len(self._partials):
            more = max(len(self._index), 2 * len(self._partials))
            if len(self._index) <= self._expected:
                more = self._expected
            self._partials = self._partials.grown(more)
            for values in (self._whole, self._joint):
                for name, one in values.items():
                    fresh = np.full((more - len(one), one.shape[1]), np.nan)
                    values[name] = np.concatenate([one, fresh])
        if part.partials[0][0].start == self._first:
            self._geometry.add(rows, part.geometry)
        for channels, found in part.partials:
            place = slice(channels.start - self._first, channels.stop - self._first)
            here = self._partials.at(rows, place)
            here.merge(found)
            self._partials.put(rows, place, here)
        self._add_wholes(part, rows)
        if part.joint is not None and self._joint:
            self._keep_joint(rows[part.joint.slots], part.joint.values)
            there, done = self._completed(part, part.joint, rows, _JOINT)
            if done and self._assembly is not None:
                self._keep_joint(there, self._assembly.finish_joints(done, self._joints))

    def _add_wholes(self, part: TilePart, rows: np.ndarray) -> None:
        """Add statistics of whole instances, and of those that a tile's pieces complete."""
        for (channels, _), wholes in zip(part.partials, part.wholes, strict=False):
            place = slice(channels.start - self._first, channels.stop - self._first)
            self._keep(rows[wholes.slots], place, wholes.values)
            if not self._whole:
                continue
            there, done = self._completed(part, wholes, rows, place.start)
            if done and self._assembly is not None:
                whole = [self._statistics[name] for name in self._whole]
                here = self._partials.at(there, place)
                self._keep(there, place, self._assembly.finish(done, here, whole))

    def _keep(self, rows: np.ndarray, place: slice, values: dict[str, np.ndarray]) -> None:
        for name, found in values.items():
            self._whole[name][rows, place] = found

    def _keep_joint(self, rows: np.ndarray, values: dict[str, np.ndarray]) -> None:
        for name, found in values.items():
            self._joint[name][rows] = found

    def _completed(
        self, part: TilePart, wholes: Wholes, rows: np.ndarray, key: int
    ) -> tuple[np.ndarray, list[Waiting]]:
        """Add a tile's pieces to those waiting; return rows and pixels of complete instances."""
        slots = wholes.pieces.slots
        if self._assembly is None or len(slots) == 0:
            return slots, []
        pixels = part.geometry.totals[slots, 0]
        complete, done = self._assembly.add(
            key, part.ids[slots], pixels, wholes.pieces, part.stretches
        )
        return rows[slots[complete]], done

    def holds(self, instances: Instances | None) -> bool:
        """Whether the tiles held just these instances, with as many pixels each."""
        order = np.argsort(self._index.ids)
        found = self._geometry.instances(self._index.ids, order)
        return instances is not None and all(
            np.array_equal(getattr(found, name), getattr(instances, name))
            for name in ("id", "count", "bbox")
        )

    def finish(self, index: np.ndarray | None) -> Measured:
        """Return what was measured of all instances by id, or as in `index`."""
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
        instances = Instances(ids, count, centroid, bbox)
        joint = {}
        for name, values in self._joint.items():
            joint[name] = np.full((len(rows), values.shape[1]), np.nan)
            joint[name][present] = values[rows[present]]
        counts = None if self._counts is None else self._counts.counts
        layers = self._finished(rows, present, count)
        return Measured(instances, layers, joint=joint, counts=counts)

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
