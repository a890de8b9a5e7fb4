"""Statistics of every channel in every instance, from one pass over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core import __version__
from harpy_core.aggregate.merging import StatisticsTable, measure_tile
from harpy_core.aggregate.whole import Assembly, refuse_unbounded, with_split
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances, find_instances
from harpy_core.kernels import engine as kernels_of
from harpy_core.raster.raster import Raster
from harpy_core.running import engines, schedule
from harpy_core.running.progress import Bar, track
from harpy_core.running.tasks import image_tasks, tile_edges
from harpy_core.statistics.declared import Statistic, chosen, words_of
from harpy_core.tiles.labels import checked_labels

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client


def aggregate_stats(
    image: Any,
    labels: Any,
    stats: Sequence[str | Statistic] | str | Statistic = ("mean", "count"),
    channels: Sequence[str] | None = None,
    index: Sequence[int] | np.ndarray | None = None,
    engine: str = "auto",
    client: Client | None = None,
    progress: bool = False,
    *,
    ignore_nan: bool = False,
    strict: bool | None = None,
    instances: Instances | None = None,
    region: str | None = None,
) -> AnnData:
    """Statistics of every channel in every instance.

    Each chunk of the image is decoded once, whatever the statistics; tiles without labels are not
    read. The number of workers and the order of arrival change nothing. Nor do chunks and engine
    change a bit of any statistic of integers of up to 16 bits, of the count, sum, mean and extremes
    of wider ones, or of the median and all else that is finished from sorted pixels, of any type.
    Variance, skewness and kurtosis of integers of 32 and 64 bits, and sums and moments of floats,
    are sums in float64: other chunks or another engine may change their last digits (a part in
    10^12 of the terms summed).

    Parameters
    ----------
    image
        (c, y, x) or (c, z, y, x), integers or floats: a NumPy, Dask, Zarr or xarray array.
    labels
        (y, x) or (z, y, x), non-negative integers of any kind; 0 is background.
    stats
        Names from `harpy_core.STATISTICS`, or a `harpy_core.Statistic` of your own.
    channels
        Name of each channel; None names them ``"0"``, ``"1"``, ….
    index
        Labels to report, in this order; one that is not in the image gets count 0 and NaN
        statistics. None reports all labels, in ascending order.
    engine
        ``numpy``, ``numba``, ``cupy`` (an NVIDIA GPU for each worker), or ``auto``: ``cupy`` where
        every worker has a working GPU, else ``numba``.
    client
        Dask client to run on; None uses the cores of this process.
    progress
        Show a progress bar.
    ignore_nan
        Leave NaN pixels of a float image out, instead of letting them make the statistics of
        their own instance and channel NaN.
    strict
        What a chunk is that a Zarr array does not store. None: an error that names it where an
        instance has pixels in the image's, else the array's fill value; True: an error wherever it
        is read, in the labels too; False: the fill value everywhere, as Zarr has it. What Dask
        reads is filled by whoever made the array.
    instances
        Result of `harpy_core.find_instances` for the labels. Median and percentiles need it, and
        take a pass of their own over the labels where it is None.
    region
        Name of the labels that the instances belong to, as the table is to have it; None: the name
        that `labels` have where they are given by name, as in ``raster.layers``, else ``labels``.

    Returns
    -------
    anndata.AnnData
        One layer of float64 (instances × channels) for each statistic, the first also as X;
        obs: ``instance_id``, ``count`` (area, in pixels) and ``region``; obsm ``spatial``: (x, y)
        or (x, y, z) centroid in pixels; uns ``harpy_core``: provenance, and ``spatialdata_attrs``:
        what SpatialData joins table and labels by.

    Raises
    ------
    InputError
        Shapes do not match, labels are negative or floats, a statistic or engine is unknown, or
        the number of channel names is wrong.
    """
    job = Aggregation.of(
        image, labels, stats, channels, engine, ignore_nan, strict, client, instances
    )
    wanted = None if index is None else checked_labels(index, "index")
    with track(job.pixels, "aggregate", enabled=progress) as bar:
        instances, layers = job.measure(job.channel_edges, client, bar, wanted)
    return job.table(instances, layers, region)


@dataclass(frozen=True, slots=True)
class Aggregation:
    """A measurement, checked before anything is read.

    Attributes
    ----------
    raster
        The image, its labels and channels.
    statistics
        Statistics to finish, by name.
    engine
        Name of the engine that its tasks use: never ``auto``.
    ignore_nan, strict, instances
        Arguments of `aggregate_stats`.
    """

    raster: Raster
    statistics: dict[str, Statistic]
    engine: str
    ignore_nan: bool
    strict: bool | None
    instances: Instances | None

    @classmethod
    def of(
        cls,
        image: Any,
        labels: Any,
        stats: Sequence[str | Statistic] | str | Statistic,
        channels: Sequence[str] | None,
        engine: str,
        ignore_nan: bool,
        strict: bool | None,
        client: Client | None,
        instances: Instances | None = None,
    ) -> Aggregation:
        """Check the arguments of `aggregate_stats`."""
        statistics = chosen(stats)
        raster = Raster.of(image, labels, channels)
        engine = engines.resolved(engine, client)
        whole = [name for name, statistic in statistics.items() if statistic.whole]
        if instances is None and whole:
            instances = find_instances(raster.labels, engine=engine, client=client, strict=strict)
        return cls(raster, statistics, engine, ignore_nan, strict, instances)

    @property
    def whole(self) -> list[str]:
        """The statistics that need whole instances."""
        return [name for name, statistic in self.statistics.items() if statistic.whole]

    @property
    def pixels(self) -> int:
        """Pixels of all channels."""
        return math.prod(self.raster.image.shape)

    @property
    def channel_edges(self) -> tuple[int, ...]:
        """Edges of the image's chunks along c."""
        return tile_edges(self.raster)[0]

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one instance in one channel: its partials as they grow, and its statistics."""
        words = words_of(self.statistics.values(), str(self.raster.pixel_type))
        return 8 * (2 * words + len(self.statistics))

    def measure(
        self, edges: tuple[int, ...], client: Client | None, bar: Bar, index: np.ndarray | None
    ) -> tuple[Instances, dict[str, np.ndarray]]:
        """Return instances, and each statistic, (instances, c) float64, in some channels.

        Parameters
        ----------
        edges
            Neighbouring ones of `channel_edges`.
        bar
            Progress bar, in pixels.
        index
            Labels to report; None reports all.
        """
        tasks = image_tasks(self.raster, schedule.threads_of(client), edges, self.strict)
        statistics = tuple(self.statistics.values())
        assembly = None
        if self.whole and tasks:
            tasks, assembly = self._assembled(tasks, edges[-1] - edges[0])
        work = partial(
            measure_tile, engine=self.engine, statistics=statistics, ignore_nan=self.ignore_nan
        )
        channels = (edges[0], edges[-1])
        kind, kernels = self.raster.pixel_type, kernels_of(self.engine)
        table = StatisticsTable(kind, statistics, channels, kernels, assembly)
        for task, part in schedule.results(work, tasks, client, lazy=self.raster.lazy):
            if part is not None:
                table.add(part)
            bar.advance(task.pixels)
        if assembly is not None and not table.holds(self.instances):
            raise InputError(
                "instances: not those of the labels; find the instances of these labels again"
            )
        return table.finish(index)

    def _assembled(self, tasks: Any, channels: int) -> tuple[Any, Assembly]:
        """Return the tasks with the instances split between them, and an assembly of pieces."""
        if self.instances is None:
            raise ValueError("a statistic of whole instances needs to know where they lie")
        edges = tile_edges(self.raster)[1]
        kind = self.raster.pixel_type
        refuse_unbounded(self.instances, edges, kind, channels, self.whole)
        assembly = Assembly(self.instances, kind, kernels_of(self.engine), self.ignore_nan)
        return with_split(tasks, self.instances, edges), assembly

    def table(
        self, instances: Instances, layers: dict[str, np.ndarray], region: str | None = None
    ) -> AnnData:
        """Make the table of some instances of a region; without X where there are no layers."""
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
        region = region or next(iter(self.raster.layers))
        regions = pd.Categorical.from_codes(
            np.zeros(len(instances), np.int8), categories=pd.Index([region])
        )
        rows = pd.Index(instances.id.astype(str), dtype=object)
        return AnnData(
            X=next(iter(layers.values()), None),
            obs=pd.DataFrame(
                {"instance_id": instances.id, "count": instances.count, "region": regions},
                index=rows,
            ),
            var=pd.DataFrame(index=pd.Index(self.raster.channels, dtype=object)),
            layers=layers,
            obsm={"spatial": instances.centroid[:, ::-1][:, : self.raster.labels.ndim].copy()},
            uns={
                "harpy_core": provenance,
                "spatialdata_attrs": {
                    "region": region,
                    "region_key": "region",
                    "instance_key": "instance_id",
                },
            },
        )
