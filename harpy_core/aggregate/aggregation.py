"""Statistics of every channel in every instance, from one pass over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core.aggregate.label_work import LabelTable, LabelWork
from harpy_core.aggregate.merging import Measured, StatisticsTable, TileWork
from harpy_core.aggregate.neighbors import TOUCHING, Neighbors, checked_neighbors, matrices
from harpy_core.aggregate.pieces import Assembly
from harpy_core.aggregate.run import Run
from harpy_core.aggregate.slabs import value_bytes
from harpy_core.aggregate.whole import JointWork, refuse_unbounded, with_split
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances, find_instances, tell_of_a_mask
from harpy_core.kernels import engine as kernels_of
from harpy_core.raster.raster import Raster
from harpy_core.running import engines, schedule
from harpy_core.running.progress import Bar, track
from harpy_core.running.tasks import image_tasks, label_tasks, label_tiles, tile_edges
from harpy_core.statistics.asked import Asked, Stats, resolved
from harpy_core.statistics.channels import (
    HISTOGRAMS,
    CountTable,
    columns,
    histograms,
    refuse_uncountable,
)
from harpy_core.statistics.declared import Statistic, words_of
from harpy_core.statistics.shapes import refuse_impossible
from harpy_core.tiles.grid import Edges, Together, between, splittable
from harpy_core.tiles.labels import checked_labels
from harpy_core.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from distributed import Client


def aggregate_stats(
    image: Any,
    labels: Any,
    stats: Stats = ("mean", "count"),
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
    spacing: Sequence[float] | None = None,
    neighbors: Neighbors | None = None,
    whole_channels: bool = False,
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
        (c, y, x) or (c, z, y, x), integers or floats: a NumPy, Dask, Zarr or xarray array. Shapes
        alone do not need it: it is not read, and may be None.
    labels
        (y, x) or (z, y, x), non-negative integers of any kind, or floats that are whole numbers; 0
        is background. Of a binary mask, `harpy_core.label_connected`.
    stats
        Names from `harpy_core.STATISTICS`, of which shapes, such as ``area`` and ``eccentricity``,
        follow from the labels alone; `harpy_core.radial_mean` and, for pairs of channels,
        `harpy_core.pearson_corr_coeff`, `harpy_core.manders_overlap_coeff` and
        `harpy_core.manders_coloc_coeff`; a `harpy_core.Statistic` or `harpy_core.Shape` of your
        own; or a function of the pixels and coordinates of one whole instance, plain or declared by
        `harpy_core.measure`.
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
        Result of `harpy_core.find_instances` for the labels. What needs whole instances (median,
        percentiles, edges, rings, weighted centroids, pairs, functions, and shapes of borders,
        hulls and holes) needs it, and takes a pass of its own over the labels where it is None.
    region
        Name of the labels that the instances belong to, as the table is to have it; None: the name
        that `labels` have where they are given by name, as in ``raster.layers``, else ``labels``.
    spacing
        Side of a pixel along (z, ) y and x, such as ``raster.spacing``: shapes, and the distances
        and borders of neighbours, are in its unit. None: in pixels.
    neighbors
        ``touching``: instances are neighbours if pixels of theirs share a side; a number: if their
        centroids are no farther apart. None: neighbours are not found.
    whole_channels
        Measure whole channels in the same read, for which tiles without labels are read too: var
        gets mean, std, min, max, q01, median and q99 of all pixels (``whole_mean``, …) and of those
        inside instances (``inside_mean``, …; each once, where instances overlap), and uns
        ``channel_histograms`` both histograms, exact. For integers of up to 16 bits. A chunk that
        is missing counts as its fill value.

    Returns
    -------
    anndata.AnnData
        One layer of float64 (instances × channels) for each statistic, the first also as X;
        obs: ``instance_id``, ``count`` (area, in pixels), ``region``, and a column of float64 for
        each shape; obsm ``spatial``: (x, y) or (x, y, z) centroid in pixels, and a data frame for
        each that takes several channels together, as pairs do; uns ``harpy_core``: provenance, and
        ``spatialdata_attrs``: what SpatialData joins table and labels by. With
        `neighbors` obsp has squidpy's ``spatial_connectivities`` (1 for neighbours) and
        ``spatial_distances`` (between centroids), and of those that touch ``spatial_borders``, the
        length of their common border (in 3D its area), sparse and symmetric.

    Raises
    ------
    InputError
        Shapes do not match, labels are negative or no whole numbers, a statistic or engine is
        unknown, the number of channel names is wrong, or labels or pixels like these have no such
        shape.
    """
    job = Aggregation.of(
        image,
        labels,
        stats,
        channels,
        engine,
        ignore_nan,
        strict,
        client,
        instances,
        spacing,
        neighbors,
        whole_channels,
    )
    wanted = None if index is None else checked_labels(index, "index")
    with track(job.pixels, "aggregate", enabled=progress) as bar:
        measured = job.measure(job.channel_edges, client, bar, wanted)
    if job.instances is None and wanted is None:
        tell_of_a_mask(measured.instances)
    return job.table(measured, region)


@dataclass(frozen=True, slots=True)
class Aggregation:
    """A measurement, checked before anything is read.

    Attributes
    ----------
    raster
        The image, its labels and channels.
    asked
        Statistics and shapes to finish.
    spacing
        Side of a pixel along each axis of the labels.
    neighbors
        What neighbours are, if they are to be found.
    engine
        Name of the engine that its tasks use: never ``auto``.
    ignore_nan, strict, instances, whole_channels
        Arguments of `aggregate_stats`.
    """

    raster: Raster
    asked: Asked
    spacing: tuple[float, ...]
    neighbors: Neighbors | None
    engine: str
    ignore_nan: bool
    strict: bool | None
    instances: Instances | None
    whole_channels: bool = False

    @classmethod
    def of(
        cls,
        image: Any,
        labels: Any,
        stats: Stats,
        channels: Sequence[str] | None,
        engine: str,
        ignore_nan: bool,
        strict: bool | None,
        client: Client | None,
        instances: Instances | None = None,
        spacing: Sequence[float] | None = None,
        neighbors: Neighbors | None = None,
        whole_channels: bool = False,
    ) -> Aggregation:
        """Check the arguments of `aggregate_stats`."""
        wanted = resolved(stats)
        in_image = wanted.in_image or ("whole_channels" if whole_channels else None)
        if image is None and in_image is not None:
            raise InputError(
                f"image = None: {in_image} is measured in an image; give one, or ask for "
                "shapes alone"
            )
        raster = Raster.of(image, labels, channels)
        wanted.joined(raster.channels)
        if whole_channels:
            refuse_uncountable(raster.pixel_type)
        sides = _checked_spacing(spacing, raster.labels.ndim)
        refuse_impossible(wanted.shapes.values(), len(sides), sides)
        near = checked_neighbors(neighbors)
        engine = engines.resolved(engine, client)
        if instances is None and wanted.needs_instances:
            instances = find_instances(raster.labels, engine=engine, client=client, strict=strict)
        return cls(
            raster, wanted, sides, near, engine, ignore_nan, strict, instances, whole_channels
        )

    @property
    def statistics(self) -> dict[str, Statistic]:
        """Statistics of each channel, by name."""
        return self.asked.statistics

    @property
    def in_image(self) -> bool:
        """Whether the image is read."""
        return self.asked.in_image is not None or self.whole_channels

    @property
    def unsplit(self) -> Together:
        """Channels that one task must have."""
        return self.asked.together(self.raster.channels)

    @property
    def pixels(self) -> int:
        """Pixels of all channels that are read, or of labels alone."""
        if not self.in_image:
            return math.prod(self.raster.labels.shape)
        edges = self.channel_edges
        return (edges[-1] - edges[0]) * math.prod(self.raster.image.shape[1:])

    @property
    def channel_edges(self) -> tuple[int, ...]:
        """Edges along c of the image's chunks that are read; of labels alone there is none."""
        if not self.in_image:
            return (0, 0)
        edges, unsplit = tile_edges(self.raster)[0], self.unsplit
        if self.statistics or self.whole_channels or unsplit is None or self.raster.lazy:
            return edges
        units = splittable(edges, unsplit)
        first = [edge for edge in units if edge <= unsplit[0]][-1]
        return between(edges, first, next(edge for edge in units if edge >= unsplit[1]))

    @property
    def bytes_per_value(self) -> int:
        """Bytes of one instance in one channel: its partials as they grow, and its statistics."""
        if not self.statistics:
            return 0
        words = words_of(self.statistics.values(), str(self.raster.pixel_type))
        whole = sum(statistic.whole for statistic in self.statistics.values())
        return value_bytes(words, len(self.statistics), whole)

    def measure(
        self, edges: tuple[int, ...], client: Client | None, bar: Bar, index: np.ndarray | None
    ) -> Measured:
        """Measure some channels.

        Parameters
        ----------
        edges
            Neighbouring ones of `channel_edges`. With the first of them the labels are measured.
        bar
            Progress bar, in pixels.
        index
            Labels to report; None reports all.
        """
        run = self.begin(edges, client)
        results = schedule.results(run.measure, run.tasks, client, lazy=self.raster.lazy)
        for task, part in results:
            run.add(task, part)
            bar.advance(task.pixels)
        return run.finish(index)

    def begin(
        self, edges: tuple[int, ...], client: Client | None, tiles: Edges | None = None
    ) -> Run:
        """Prepare the tasks on some channels, and the tables that they are merged into.

        Parameters
        ----------
        edges
            See `measure`.
        tiles
            Tiles of labels alone; None takes the labels' own.
        """
        on_labels = self._on_labels if edges[0] == self.channel_edges[0] else None
        kernels = kernels_of(self.engine)
        labels = None if on_labels is None else LabelTable(on_labels, self.instances, kernels)
        if not self.in_image:
            tiles = tiles or label_tiles(self.raster)
            tasks: Any = label_tasks(self.raster, self.strict, tiles)
            if on_labels is not None and on_labels.whole:
                tasks = self._with_split(tasks, tiles)
            work = TileWork(self.engine, (), self.ignore_nan, on_labels=on_labels)
            return Run(tasks, work, None, labels, self.instances, self.spacing)
        threads = schedule.threads_of(client)
        tasks = image_tasks(self.raster, threads, edges, self.strict, self.unsplit)
        statistics = tuple(self.statistics.values())
        joint = JointWork.of(self.asked, self.raster.channels)
        if joint is not None and not joint.within(edges):
            joint = None
        assembly = None
        if tasks and (joint or any(statistic.whole for statistic in statistics)):
            assembly = self._assembly(edges[-1] - edges[0], joint)
        if assembly is not None or (on_labels is not None and on_labels.whole):
            tasks = self._with_split(tasks, tile_edges(self.raster)[1])
        work = TileWork(
            self.engine,
            statistics,
            self.ignore_nan,
            on_labels,
            joint,
            self._flat,
            self.whole_channels,
        )
        channels = (edges[0], edges[-1])
        kind = self.raster.pixel_type
        counts = CountTable(kind, channels) if self.whole_channels else None
        number = 0 if self.instances is None else len(self.instances)
        table = StatisticsTable(
            kind, statistics, channels, kernels, assembly, joint, counts, instances=number
        )
        whole = assembly is not None
        return Run(tasks, work, table, labels, self.instances, self.spacing, whole)

    @property
    def _flat(self) -> bool:
        """Whether the image has one plane."""
        return tile_edges(self.raster)[1][0][-1] == 1

    @property
    def _on_labels(self) -> LabelWork | None:
        """What is measured of the labels, if anything."""
        shapes, touching = tuple(self.asked.shapes.values()), self.neighbors == TOUCHING
        if not shapes and not touching:
            return None
        flat, shape = len(self.spacing) == 2, tuple(self.raster.labels.shape)
        extent = (1, *shape) if flat else shape
        return LabelWork(shapes, touching, flat, extent, self.channel_edges[0])

    def _with_split(self, tasks: Any, edges: Edges) -> Any:
        """Return the tasks with the instances split between them."""
        if self.instances is None:
            raise ValueError("a statistic of whole instances needs to know where they lie")
        return with_split(tasks, self.instances, edges)

    def _assembly(self, channels: int, joint: JointWork | None) -> Assembly:
        """Make an assembly of the pieces of instances, if they are not too large."""
        if self.instances is None:
            raise ValueError("a statistic of whole instances needs to know where they lie")
        edges, kind = tile_edges(self.raster)[1], self.raster.pixel_type
        held = channels * any(one.whole for one in self.statistics.values())
        held += len(joint.channels) if joint else 0
        counting = not self.asked.placed
        refuse_unbounded(self.instances, edges, kind, held, self.asked.whole, counting)
        kernels = kernels_of(self.engine)
        return Assembly(self.instances, kind, kernels, self.ignore_nan, self._flat)

    def table(self, measured: Measured, region: str | None = None) -> AnnData:
        """Make the table of what was measured in a region; without X where there are no layers."""
        import pandas as pd
        from anndata import AnnData

        instances, layers = measured.instances, measured.layers
        counted = self.histograms(measured.counts)
        provenance = {
            "version": __version__,
            "engine": self.engine,
            "stats": [*self.statistics, *self.asked.joints, *self.asked.shapes],
            "ignore_nan": self.ignore_nan,
        }
        if self.raster.image is not None:
            provenance["image_shape"] = [int(n) for n in self.raster.image.shape]
            provenance["image_dtype"] = str(np.dtype(self.raster.image.dtype))
        if self.asked.shapes or self.neighbors is not None:
            provenance["spacing"] = list(self.spacing)
        obsp = {}
        if self.neighbors is not None:
            provenance["neighbors"] = self.neighbors
            obsp = matrices(instances, self.neighbors, measured.contacts, self.spacing)
        region = region or next(iter(self.raster.layers))
        regions = pd.Categorical.from_codes(
            np.zeros(len(instances), np.int8), categories=pd.Index([region])
        )
        rows = pd.Index(instances.id.astype(str), dtype=object)
        return AnnData(
            X=next(iter(layers.values()), None),
            obs=pd.DataFrame(
                {
                    "instance_id": instances.id,
                    "count": instances.count,
                    "region": regions,
                    **measured.shapes,
                },
                index=rows,
            ),
            var=self.channel_table(counted),
            layers=layers,
            obsm={
                "spatial": instances.centroid[:, ::-1][:, : self.raster.labels.ndim].copy(),
                **{name: self.frame(name, one, rows) for name, one in measured.joint.items()},
            },
            obsp=obsp,
            uns={
                "harpy_core": provenance,
                "spatialdata_attrs": {
                    "region": region,
                    "region_key": "region",
                    "instance_key": "instance_id",
                },
                **({} if counted is None else {HISTOGRAMS: counted}),
            },
        )

    def frame(self, name: str, values: np.ndarray, rows: Any) -> pd.DataFrame:
        """Return joint numbers as obsm has them, (instances, outputs)."""
        import pandas as pd

        return pd.DataFrame(values, index=rows, columns=list(self.asked.joints[name].outputs))

    def histograms(self, counts: np.ndarray | None) -> dict[str, Any] | None:
        """Return the histograms of all channels as a table's uns has them."""
        if counts is None:
            return None
        return histograms(counts, self.raster.pixel_type, self.raster.channels)

    def channel_table(self, counted: dict[str, Any] | None) -> pd.DataFrame:
        """Return a table's var: the channels, and what their histograms tell."""
        import pandas as pd

        if counted is None:
            return pd.DataFrame(index=pd.Index(self.raster.channels, dtype=object))
        return columns(counted)


def _checked_spacing(spacing: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    """Side of a pixel along each axis; 1 where none is given."""
    if spacing is None:
        return (1.0,) * axes
    given = np.asarray(spacing)
    numbers = given.shape == (axes,) and given.dtype.kind in "iuf"
    if not numbers or not ((given > 0) & (given < math.inf)).all():
        told = ", ".join(map(str, given.ravel().tolist()))
        raise InputError(
            f"spacing = {told}: give one positive number for each of the labels' {axes} axes"
        )
    return tuple(map(float, given))
