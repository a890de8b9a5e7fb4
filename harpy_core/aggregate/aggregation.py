"""Statistics of every channel in every instance, from one pass over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core import __version__
from harpy_core.instances.finding import GeometryTable, Instances
from harpy_core.kernels import engine as kernels_of
from harpy_core.kernels import layout
from harpy_core.raster.raster import Raster
from harpy_core.running import engines, schedule
from harpy_core.running.progress import Bar, track
from harpy_core.running.tasks import Task, image_tasks, tile_edges
from harpy_core.statistics.declared import Statistic, chosen
from harpy_core.statistics.moments import PixelSums, finish, measure_pixels, merge
from harpy_core.tiles.labels import checked_labels
from harpy_core.tiles.runs import Geometry, encode_runs, measure_geometry

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client


@dataclass(frozen=True, slots=True)
class TilePart:
    """What one task adds: only the instances it holds.

    Attributes
    ----------
    ids : (instances,) uint64
    geometry
        Of the instances' pixels in the tile.
    sums
        One for each group of channels that the task read, with the group.
    """

    ids: np.ndarray
    geometry: Geometry
    sums: list[tuple[slice, PixelSums]]


def measure_tile(task: Task, engine: str, full: bool, ignore_nan: bool) -> TilePart | None:
    """Measure one tile: its labels encoded once, each of its image chunks decoded once."""
    kernels = kernels_of(engine)
    runs = encode_runs(task.read_labels(), kernels, task.plane_shape())
    if runs.slots == 0:
        return None
    geometry = measure_geometry(runs, kernels, task.origin)
    count = geometry.totals[:, 0]
    sums = [
        (channels, measure_pixels(planes, runs, count, kernels, full, ignore_nan))
        for channels, planes in task.read_planes()
    ]
    return TilePart(runs.ids, geometry, sums)


class StatisticsTable:
    """The sums of all instances in some channels, merged as tiles arrive.

    Parameters
    ----------
    dtype
        Type of the pixels.
    full
        Whether statistics beyond sum and count are wanted.
    channels
        First channel, and one past the last.
    engine
        Whose index of labels is used.
    """

    def __init__(self, dtype: np.dtype, full: bool, channels: tuple[int, int], engine: str) -> None:
        self._first = channels[0]
        self._index = kernels_of(engine).LabelIndex()
        self._geometry = GeometryTable()
        self._sums = PixelSums.empty(dtype, full, 0, channels[1] - channels[0])

    def add(self, part: TilePart) -> None:
        """Merge a tile."""
        rows = self._index.rows(part.ids)
        if len(self._index) > len(self._sums.whole):
            self._sums = self._sums.grown(max(len(self._index), 2 * len(self._sums.whole)))
        if part.sums[0][0].start == self._first:
            self._geometry.add(rows, part.geometry)
        for channels, sums in part.sums:
            place = slice(channels.start - self._first, channels.stop - self._first)
            here = self._sums.at(rows, place)
            merge(here, sums)
            self._sums.put(rows, place, here)

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
        channels = self._sums.whole.shape[1]
        layers = {name: np.full((len(rows), channels), np.nan) for name in statistics}
        if "count" in layers:
            layers["count"][:] = 0.0
        for c in range(channels):
            moments = finish(self._sums.at(rows[present], slice(c, c + 1)), count[present])
            for name, statistic in statistics.items():
                layers[name][present, c] = statistic.finish(moments)[:, 0]
        return layers


def aggregate_stats(
    image: Any,
    labels: Any,
    stats: Sequence[str] | str = ("mean", "count"),
    channels: Sequence[str] | None = None,
    index: Sequence[int] | np.ndarray | None = None,
    engine: str = "auto",
    client: Client | None = None,
    progress: bool = False,
    *,
    ignore_nan: bool = False,
    strict: bool = False,
) -> AnnData:
    """Statistics of every channel in every instance.

    Each chunk of the image is decoded once, whatever the statistics; tiles without labels are not
    read. Integer images are summed in integers: the result does not depend on chunks, engine,
    number of workers or order.

    Parameters
    ----------
    image
        (c, y, x) or (c, z, y, x), integers or floats: a NumPy, Dask, Zarr or xarray array.
    labels
        (y, x) or (z, y, x), non-negative integers of any kind; 0 is background.
    stats
        Names from `harpy_core.STATISTICS`.
    channels
        A name for each channel; ``"0"``, ``"1"``, … without.
    index
        Labels to report, in this order; one that is not in the image gets count 0 and NaN
        statistics. All labels, in ascending order, without.
    engine
        ``numpy``, ``numba``, ``cupy`` (an NVIDIA GPU for each worker), or ``auto``: ``cupy`` where
        every worker has a GPU that works, else ``numba``.
    client
        A Dask client to run on; None uses the cores of this process.
    progress
        Show a progress bar.
    ignore_nan
        Leave NaN pixels of a float image out, instead of letting them make the statistics of
        their own instance and channel NaN.
    strict
        Make a missing chunk of a Zarr array an error that names it; without, it is the array's
        fill value, as Zarr has it.

    Returns
    -------
    anndata.AnnData
        One layer of float64 (instances × channels) for each statistic, the first also as X;
        obs: ``instance_id`` and ``count`` (pixels); obsm ``spatial``: (x, y) or (x, y, z) centroid
        in pixels; uns ``harpy_core``: provenance.

    Raises
    ------
    InputError
        Shapes that do not match, negative or float labels, an unknown statistic or engine, a
        wrong number of channel names.
    """
    job = Aggregation.of(image, labels, stats, channels, engine, ignore_nan, strict, client)
    wanted = None if index is None else checked_labels(index, "index")
    with track(job.pixels, "aggregate", enabled=progress) as bar:
        instances, layers = job.measure(job.channel_edges, client, bar, wanted)
    return job.table(instances, layers)


@dataclass(frozen=True, slots=True)
class Aggregation:
    """What is measured, checked before anything is read.

    Attributes
    ----------
    raster
        The image, its labels and channels.
    statistics
        What to finish, by name.
    engine
        The one its tasks use: never ``auto``.
    ignore_nan, strict
        As in `aggregate_stats`.
    """

    raster: Raster
    statistics: dict[str, Statistic]
    engine: str
    ignore_nan: bool
    strict: bool

    @classmethod
    def of(
        cls,
        image: Any,
        labels: Any,
        stats: Sequence[str] | str,
        channels: Sequence[str] | None,
        engine: str,
        ignore_nan: bool,
        strict: bool,
        client: Client | None,
    ) -> Aggregation:
        """Check the arguments of `aggregate_stats`; see there."""
        statistics = chosen(stats)
        raster = Raster.of(image, labels, channels)
        return cls(raster, statistics, engines.resolved(engine, client), ignore_nan, strict)

    @property
    def full(self) -> bool:
        """Whether a statistic needs more than sum and count."""
        return any(statistic.full for statistic in self.statistics.values())

    @property
    def pixels(self) -> int:
        """Pixels of all channels."""
        return math.prod(self.raster.image.shape)

    @property
    def channel_edges(self) -> tuple[int, ...]:
        """Where the image's chunks begin along c."""
        return tile_edges(self.raster)[0]

    @property
    def bytes_per_value(self) -> int:
        """Memory of one instance in one channel: its sums while they grow, and its statistics."""
        words = sum(layout.words(self.raster.pixel_type, self.full))
        return 8 * (2 * words + len(self.statistics))

    def measure(
        self, edges: tuple[int, ...], client: Client | None, bar: Bar, index: np.ndarray | None
    ) -> tuple[Instances, dict[str, np.ndarray]]:
        """Instances, and of each statistic (instances, c) float64, in some channels.

        Parameters
        ----------
        edges
            Some neighbouring ones of `channel_edges`.
        bar
            Told of every pixel that is done.
        index
            Labels to report; all without.
        """
        tasks = image_tasks(self.raster, schedule.threads_of(client), edges, self.strict)
        work = partial(measure_tile, engine=self.engine, full=self.full, ignore_nan=self.ignore_nan)
        table = StatisticsTable(
            self.raster.pixel_type, self.full, (edges[0], edges[-1]), self.engine
        )
        for task, part in schedule.results(work, tasks, client, lazy=self.raster.lazy):
            if part is not None:
                table.add(part)
            bar.advance(task.pixels)
        return table.finish(self.statistics, index)

    def table(self, instances: Instances, layers: dict[str, np.ndarray]) -> AnnData:
        """The table of some instances; without X where there are no layers."""
        import pandas as pd
        from anndata import AnnData

        provenance = {
            "version": __version__,
            "engine": self.engine,
            "stats": list(self.statistics),
            "image_shape": [int(n) for n in self.raster.image.shape],
            "image_dtype": str(np.dtype(self.raster.image.dtype)),
            "ignore_nan": self.ignore_nan,
        }
        rows = pd.Index(instances.id.astype(str), dtype=object)
        return AnnData(
            X=next(iter(layers.values()), None),
            obs=pd.DataFrame({"instance_id": instances.id, "count": instances.count}, index=rows),
            var=pd.DataFrame(index=pd.Index(self.raster.channels, dtype=object)),
            layers=layers,
            obsm={"spatial": instances.centroid[:, ::-1][:, : self.raster.labels.ndim].copy()},
            uns={"harpy_core": provenance},
        )
