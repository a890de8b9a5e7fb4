"""Pieces of instances that extend over several tiles: cut out of each, and assembled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from harpy_core.instances.finding import Instances
from harpy_core.statistics.declared import Statistic
from harpy_core.statistics.joint import Joint
from harpy_core.statistics.partials import Partials
from harpy_core.statistics.pixels import Counted, Gathering, Pixels, histogram, is_counted
from harpy_core.statistics.places import Placed, Places, Stretches
from harpy_core.statistics.together import Together


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


class Cutter:
    """Cutter of the pieces of a tile's instances out of the buffer that all are gathered in.

    Parameters
    ----------
    gathering
        Placement of the pixels in the buffer.
    channels
        Number of channels.
    dtype
        Type of the pixels.
    counting
        Count large pieces; False keeps the pixels of all.
    """

    def __init__(
        self, gathering: Gathering, channels: int, dtype: np.dtype, counting: bool
    ) -> None:
        self._first = gathering.begin[gathering.whole :]
        size = np.diff(self._first)
        large = np.array([counting and is_counted(dtype, n) for n in size], bool)
        begin = np.concatenate([[0], np.cumsum(np.where(large, 0, size))]).astype(np.int64)
        bins = 1 << min(8 * dtype.itemsize, 16)
        counted = {int(i): np.zeros((channels, bins), np.int64) for i in np.flatnonzero(large)}
        values = np.empty((channels, begin[-1]), dtype)
        self._kept = np.repeat(~large, size)
        self.pieces = Pieces(gathering.slots[gathering.whole :], begin, values, counted)

    def cut(self, channel: int, pixels: np.ndarray) -> None:
        """Copy the pieces of one channel."""
        self.pieces.values[channel] = pixels[self._first[0] :][self._kept]
        for i, bins in self.pieces.counted.items():
            bins[channel] = histogram(pixels[self._first[i] : self._first[i + 1]])


@dataclass(slots=True)
class Waiting:
    """Pixels of an instance that have arrived: their number, and values in a task's channels."""

    label: int
    pixels: int = 0
    values: list[np.ndarray] = field(default_factory=list)
    runs: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
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
    flat
        Whether the image has one plane.
    """

    def __init__(
        self,
        instances: Instances,
        dtype: np.dtype,
        kernels: ModuleType,
        ignore_nan: bool,
        flat: bool,
    ) -> None:
        self._instances = instances
        self._dtype = dtype
        self._kernels = kernels
        self._ignore_nan = ignore_nan
        self._flat = flat
        self._waiting: dict[tuple[int, int], Waiting] = {}

    def add(
        self,
        key: int,
        ids: np.ndarray,
        pixels: np.ndarray,
        pieces: Pieces,
        stretches: Stretches | None,
    ) -> tuple[np.ndarray, list[Waiting]]:
        """Take the pieces of a tile; return the indices of those that complete an instance.

        Parameters
        ----------
        key
            First channel of the task, or another number that tells its channels from others.
        ids, pixels : (pieces,)
            Label of each instance, and the number of its pixels in the tile.
        stretches
            Runs of the pieces, where their places are needed: then none is counted.
        """
        place = np.searchsorted(self._instances.id, ids)
        total = self._instances.count[np.minimum(place, len(self._instances) - 1)]
        complete, done = [], []
        for i, (label, count) in enumerate(zip(ids.tolist(), pixels.tolist(), strict=True)):
            waiting = self._waiting.setdefault((key, label), Waiting(label))
            waiting.pixels += count
            self._take(waiting, pieces, stretches, i, int(total[i]))
            if waiting.pixels == total[i]:
                complete.append(i)
                done.append(self._waiting.pop((key, label)))
        return np.array(complete, np.int64), done

    def _take(
        self, waiting: Waiting, pieces: Pieces, stretches: Stretches | None, i: int, total: int
    ) -> None:
        values = pieces.values[:, pieces.begin[i] : pieces.begin[i + 1]]
        if stretches is not None:
            runs = slice(stretches.runs[i], stretches.runs[i + 1])
            waiting.runs.append((stretches.start[runs], stretches.length[runs]))
        if stretches is not None or not is_counted(self._dtype, total):
            waiting.values.append(values.copy())
            return
        bins = pieces.counted.get(i)
        if bins is None:
            bins = np.stack([histogram(channel) for channel in values])
        waiting.bins = bins if waiting.bins is None else waiting.bins + bins

    def finish(
        self, done: Sequence[Waiting], partials: Partials, statistics: Sequence[Statistic]
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
        pixels = _Assembled.of([done[i] for i in kept], self._flat, self._kernels)
        for c in range(channels):
            if len(kept):
                here = partials.at(kept, slice(c, c + 1))
                whole = pixels.partials(c, statistics, self._ignore_nan)
                found = here.finish(statistics, number[kept], **whole)
                for name, one in found.items():
                    values[name][kept, c] = one[:, 0]
            for i, counted_one in enumerate(done):
                if counted_one.bins is not None:
                    counted = Counted.of(counted_one.bins[c], self._dtype)
                    here = partials.at(slice(i, i + 1), slice(c, c + 1))
                    found = here.finish(statistics, number[i : i + 1], pixels=counted)
                    for name, one in found.items():
                        values[name][i, c] = one[0, 0]
        return values

    def finish_joints(
        self, done: Sequence[Waiting], joints: Sequence[tuple[Joint, Sequence[int]]]
    ) -> dict[str, np.ndarray]:
        """Return the joint numbers of complete instances, (instances, outputs) float64 each.

        Parameters
        ----------
        joints
            Declarations, with the index of each of their channels among the pieces'.
        """
        found = _Assembled.of(done, self._flat, self._kernels)
        assert found.places is not None
        values = np.stack([found.values(c) for c in range(len(done[0].values[0]))])
        return finished(joints, values, found.places, found.ids, self._ignore_nan)


@dataclass(frozen=True, slots=True)
class _Assembled:
    """Complete instances whose pixels were kept."""

    done: Sequence[Waiting]
    begin: np.ndarray
    ids: np.ndarray
    places: Places | None
    index: np.ndarray | None
    kernels: ModuleType

    @classmethod
    def of(cls, done: Sequence[Waiting], flat: bool, kernels: ModuleType) -> _Assembled:
        """Bring the pieces of each together."""
        number = [one.pixels for one in done]
        begin = np.concatenate([[0], np.cumsum(number)]).astype(np.int64)
        ids = np.array([one.label for one in done], np.uint64)
        runs = [part for one in done for part in one.runs]
        if not runs:
            return cls(done, begin, ids, None, None, kernels)
        start, length = (np.concatenate(some) for some in zip(*runs, strict=True))
        stretches, index = Stretches(start, length, begin).merged()
        return cls(done, begin, ids, Places(stretches, flat, kernels), index, kernels)

    def values(self, channel: int) -> np.ndarray:
        """Return all pixels in a channel of their task."""
        found = np.concatenate([part[channel] for one in self.done for part in one.values])
        return found if self.index is None else found[self.index]

    def partials(
        self, channel: int, statistics: Sequence[Statistic], ignore_nan: bool
    ) -> dict[str, Any]:
        """Return the finished partials of whole instances that statistics need."""
        return whole_partials(
            self.values(channel),
            self.begin,
            self.places,
            self.ids,
            statistics,
            ignore_nan,
            self.kernels,
        )


def whole_partials(
    values: np.ndarray,
    begin: np.ndarray,
    places: Places | None,
    ids: np.ndarray,
    statistics: Sequence[Statistic],
    ignore_nan: bool,
    kernels: ModuleType,
) -> dict[str, Any]:
    """Return the finished partials of whole instances in one channel that statistics need.

    Parameters
    ----------
    values : (n,)
        Pixels, those of an instance side by side, in the order of `places`.
    begin : (instances + 1,) int64
        Index of each instance's first pixel, and the end.
    """
    found: dict[str, Any] = {}
    if places is not None:
        found["placed"] = Placed(values, places, ignore_nan, ids)
        # Order statistics may change the order of the pixels.
        values = values.copy()
    if any("pixels" in statistic.needs for statistic in statistics):
        found["pixels"] = Pixels.of(values, begin, kernels, ignore_nan)
    return found


def finished(
    joints: Sequence[tuple[Joint, Sequence[int]]],
    values: np.ndarray,
    places: Places,
    ids: np.ndarray,
    ignore_nan: bool,
) -> dict[str, np.ndarray]:
    """Return joint numbers of whole instances, (instances, outputs) float64 each.

    Parameters
    ----------
    joints
        Declarations, with the index of each of their channels in `values`.
    values : (channels, n)
        Pixels in the order of `places`.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return {
            joint.name: joint.finish(Together(values, rows, places, ignore_nan, ids))
            for joint, rows in joints
        }
