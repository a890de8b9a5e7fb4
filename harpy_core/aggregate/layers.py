"""Statistics of several label layers in one read of the image, and which instance has which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core.aggregate.aggregation import Aggregation
from harpy_core.aggregate.checkpoints import Checkpoints
from harpy_core.aggregate.derived import DerivedColumn, derived_columns, with_derived
from harpy_core.aggregate.merging import (
    Measured,
    Steps,
    TilePart,
    TileWork,
    as_one,
    in_one_read,
)
from harpy_core.aggregate.neighbors import Neighbors
from harpy_core.aggregate.parents import NO_OVERLAPS, Parents
from harpy_core.aggregate.run import Run
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances, tell_of_a_mask
from harpy_core.kernels import engine as kernels_of
from harpy_core.raster import open_layer
from harpy_core.raster.growing import expand_labels, label_rings, subtract_labels
from harpy_core.raster.raster import Raster
from harpy_core.running import schedule
from harpy_core.running.progress import Bar, track
from harpy_core.running.tasks import LayeredTask, LazyLayeredTask, label_tiles
from harpy_core.statistics.asked import Stats, resolved

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client

    from harpy_core.raster.info import RasterInfo


def aggregate_layers(
    image: Any,
    layers: Mapping[str, Any],
    stats: Stats = ("mean", "count"),
    channels: Sequence[str] | None = None,
    engine: str = "auto",
    client: Client | None = None,
    progress: bool = False,
    *,
    ignore_nan: bool = False,
    strict: bool | None = None,
    spacing: Sequence[float] | None = None,
    neighbors: Neighbors | None = None,
    whole_channels: bool = False,
    derived: Mapping[str, str] | None = None,
) -> dict[str, AnnData]:
    """Statistics of every channel in every instance of several layers, in one read of the image.

    Parameters
    ----------
    image
        See `harpy_core.aggregate_stats`.
    layers
        Labels by name, such as ``{"cell": cells, "nucleus": nuclei}``: arrays of one shape. They
        may be made of each other: `harpy_core.subtract_labels`, `harpy_core.label_rings`.
    stats, channels, engine, client, progress, ignore_nan, strict, spacing, neighbors
        See `harpy_core.aggregate_stats`.
    whole_channels
        See `harpy_core.aggregate_stats`; inside instances of the first layer, in its table.
    derived
        Differences and quotients of two of `stats` by name, such as ``{"ratio": "nucleus.mean /
        cytoplasm.mean", "signal": "cell.mean - ring.mean", "fraction": "nucleus.area /
        cell.area"}``; without a prefix, of the first layer. They are in the table of the first
        operand's layer: in layers or, of two shapes, in obs. An instance is matched with that of
        the same label where both layers are made of the same labels (`harpy_core.expand_labels`,
        `harpy_core.label_rings`, `harpy_core.subtract_labels`), and else with its parent's, for
        which the second layer must be the first of all or made of it. What has no match or is
        divided by 0 is NaN.

    Returns
    -------
    A table for each layer, by name, as `harpy_core.aggregate_stats` returns. In obs of all but the
    first, ``parent`` is the instance of the first layer that has most of an instance's pixels, the
    smaller label of two with as many, 0 if none has any; ``overlap`` is their number.

    Raises
    ------
    InputError
        See `harpy_core.aggregate_stats`; or there is no layer, or their shapes differ; or what is
        derived is not of `stats`, or its instances cannot be matched.
    """
    raster = Raster.of(image, layers, channels)
    together = Together.of(
        raster,
        stats,
        engine,
        client,
        ignore_nan,
        strict,
        whole_channels=whole_channels,
        derived=derived,
        spacing=spacing,
        neighbors=neighbors,
    )
    first = together.jobs[0]
    with track(first.pixels, "aggregate", enabled=progress) as bar:
        found, parents = together.measure(first.channel_edges, client, bar)
    tell_of_a_mask(found[0].instances, next(iter(layers)))
    return together.tables(found, parents)


@dataclass(frozen=True, slots=True)
class Together:
    """Measurements of one image in several layers.

    Attributes
    ----------
    jobs
        Measurement of each layer, by its name in the job's raster.
    derived
        Columns derived from theirs.
    """

    jobs: tuple[Aggregation, ...]
    derived: tuple[DerivedColumn, ...] = ()

    @classmethod
    def of(
        cls,
        raster: Raster,
        stats: Stats,
        engine: str,
        client: Client | None,
        ignore_nan: bool,
        strict: bool | None,
        instances: Instances | None = None,
        whole_channels: bool = False,
        derived: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Together:
        """Check what is asked for, and prepare the measurement of each layer of a raster.

        Parameters
        ----------
        instances
            Those of the first layer, if they are known.
        whole_channels
            Whether whole channels are measured, with the first layer.
        derived
            Formulas of derived columns, by name.
        options
            `spacing` and `neighbors` of `harpy_core.aggregate_stats`.
        """
        _refuse_unlike(raster.layers)
        columns = derived_columns(derived, raster.origins, resolved(stats))
        return cls(
            tuple(
                Aggregation.of(
                    raster.image,
                    {name: labels},
                    stats,
                    raster.channels if raster.image is not None else None,
                    engine,
                    ignore_nan,
                    strict,
                    client,
                    None if number else instances,
                    whole_channels=whole_channels and number == 0,
                    **options,
                )
                for number, (name, labels) in enumerate(raster.layers.items())
            ),
            columns,
        )

    def measure(
        self,
        edges: tuple[int, ...],
        client: Client | None,
        bar: Bar,
        checkpoints: Checkpoints | None = None,
    ) -> tuple[list[Measured], list[Parents]]:
        """Measure some channels in all layers; see `Aggregation.measure`.

        Parameters
        ----------
        checkpoints
            Commits of what tasks return: those of an earlier run are used, more are made.
        """
        raster = self.jobs[0].raster
        runs, tasks, works = self.begin(edges, client)
        work = partial(measure_layers, works=works, first=edges[0])
        parents = [Parents() for _ in runs[1:]]
        measured = partial(schedule.results, work, client=client, lazy=raster.lazy)
        arriving = measured(tasks)
        if checkpoints is not None:
            arriving = checkpoints.of(tasks).arriving(tasks, measured)
        for task, part in arriving:
            for run, one, own in zip(runs, task.tasks, part.parts, strict=True):
                run.add(one, own)
            for found, shared in zip(parents, part.overlaps, strict=True):
                found.add(*shared)
            bar.advance(task.pixels)
        return with_derived([run.finish(None) for run in runs], parents, self.derived), parents

    def begin(
        self, edges: tuple[int, ...], client: Client | None
    ) -> tuple[list[Run], list[Any], tuple[TileWork, ...]]:
        """Prepare the measurement of some channels.

        Returns
        -------
        The run of each layer; the tasks, each on one tile of all layers; what they measure in each.
        """
        raster = self.jobs[0].raster
        runs = [job.begin(edges, client, label_tiles(raster)) for job in self.jobs]
        put = LazyLayeredTask if raster.lazy else LayeredTask.of
        tasks = [put(tuple(each)) for each in zip(*(run.tasks for run in runs), strict=True)]
        return runs, tasks, tuple(run.work for run in runs)

    @property
    def names(self) -> list[str]:
        """Names of the statistics of channels, and of what is derived from them."""
        derived = (one.declared for one in self.derived)
        return [*self.jobs[0].statistics, *(one.name for one in derived if not one.of_shapes)]

    def tables(self, found: Sequence[Measured], parents: Sequence[Parents]) -> dict[str, AnnData]:
        """Make the table of each layer, by name."""
        tables = {}
        for job, measured, above in zip(self.jobs, found, (None, *parents), strict=True):
            name = next(iter(job.raster.layers))
            tables[name] = job.table(measured, name)
            if self.derived:
                formulas = {one.declared.name: one.declared.formula for one in self.derived}
                tables[name].uns["harpy_core"]["derived"] = formulas
            if above is not None:
                tell_of_a_mask(measured.instances, name)
                parent, overlap = above.of(measured.instances.id)
                tables[name].obs["parent"], tables[name].obs["overlap"] = parent, overlap
        return tables


def opened_layers(
    info: RasterInfo, sections: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Raster]:
    """Open the layers of a config's section aggregate that have labels of their own.

    Parameters
    ----------
    info
        The image.
    sections
        `config.measures.Layer` of each as builtins, by name.

    Returns
    -------
    The image with the labels of each of these layers, by the layer's name.

    Raises
    ------
    InputError
        Labels of a layer cannot be opened, or do not lie on the image; the line names the layer.
    """
    opened = {}
    for name, section in (sections or {}).items():
        if section["labels"] is None:
            continue
        try:
            place = section["scale"], section["translation"]
            opened[name] = open_layer(info, section["labels"], *place, section["label_connected"])
        except InputError as error:
            raise type(error)(f"layer {name}: labels = {section['labels']}: {error}") from error
    return opened


def made_layers(
    sections: Mapping[str, Mapping[str, Any]] | None,
    raster: Raster,
    opened: Mapping[str, Raster],
) -> dict[str, Any]:
    """Make the layers of a config's section aggregate.

    Parameters
    ----------
    sections
        See `opened_layers`.
    raster
        The image, and the labels that layers are made of where they name no others.
    opened
        Result of `opened_layers`.

    Raises
    ------
    InputError
        A layer has the name of the raster's labels.
    """
    region, labels = next(iter(raster.layers.items()))
    made: dict[str, Any] = {}
    for name, section in (sections or {}).items():
        if name == region:
            raise InputError(f"layers: {name!r} is the name of the labels too; rename the layer")
        base = made.get(section["of"], labels)
        if section["labels"] is not None:
            made[name] = opened[name].labels
        elif section["expand"] is not None:
            made[name] = expand_labels(base, section["expand"])
        elif section["ring"] is not None:
            made[name] = label_rings(base, *section["ring"])
        else:
            made[name] = subtract_labels(base, made[section["without"]])
    return made


def stacked(tables: Mapping[str, AnnData]) -> AnnData:
    """Put the tables of layers below each other, as one table of several regions, without values.

    Its `obs` says the region of each row, whose name is ``region-id``; an id is unique within its
    region.
    """
    import anndata
    import pandas as pd

    names = list(tables)
    columns = {
        column: kept.dtype for table in tables.values() for column, kept in table.obs.items()
    }
    parts = []
    for name, table in tables.items():
        part = anndata.AnnData(obs=table.obs, var=table.var, obsm=table.obsm, obsp=table.obsp)
        part.obs_names = pd.Index([f"{name}-{i}" for i in table.obs_names], dtype=object)
        part.obs["region"] = pd.Categorical(part.obs["region"], categories=names)
        for column, kind in columns.items():
            if column not in part.obs:
                # No instance is 0; a column of floats is one that was derived for another layer.
                part.obs[column] = np.full(len(part), np.nan if kind.kind == "f" else 0, kind)
        parts.append(part)
    whole = anndata.concat(parts, merge="same", pairwise=True)
    whole.uns = dict(tables[names[0]].uns)
    whole.uns["spatialdata_attrs"] = {
        **whole.uns["spatialdata_attrs"],
        "region": names if len(names) > 1 else names[0],
    }
    whole.var = tables[names[0]].var
    return whole


def _refuse_unlike(layers: Mapping[str, Any]) -> None:
    (first, array), *others = layers.items()
    for name, other in others:
        if tuple(other.shape) != tuple(array.shape):
            raise InputError(
                f"layers: {first!r} {tuple(array.shape)} and {name!r} {tuple(other.shape)} do not "
                "cover the same pixels: give labels of the same image"
            )


@dataclass(frozen=True, slots=True)
class LayersPart:
    """Contribution of a tile to several layers.

    Attributes
    ----------
    parts
        Contribution to each layer.
    overlaps
        Of each layer but the first: labels of its instances and of those of the first, (pairs, 2),
        and the number of pixels that both have; nothing where another task on the tile has it.
    """

    parts: list[TilePart | None]
    overlaps: list[tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of_channels(cls, found: Sequence[LayersPart]) -> LayersPart:
        """Put together the contributions of a tile's channels, which were measured apart."""
        each = zip(*(one.parts for one in found), strict=True)
        parts = [TilePart.of_channels(parts) for parts in each]
        # Overlaps come with the first channels.
        return cls(parts, found[0].overlaps)


def measure_layers(task: LayeredTask, works: Sequence[TileWork], first: int) -> LayersPart:
    """Measure a tile in the labels of each layer, with one read of its planes.

    Parameters
    ----------
    works
        What is measured of each layer.
    first
        First channel of the job: of the tasks on a tile, the one that has it finds overlaps.
    """
    (found,) = in_one_read(task.tasks[0], [layered_steps(task, works, first)])
    return found


def layered_steps(task: LayeredTask, works: Sequence[TileWork], first: int) -> Steps[LayersPart]:
    """Measure a tile in the labels of each layer step by step; see `TileWork.steps`.

    Parameters
    ----------
    works, first
        As in `measure_layers`.
    """
    image = task.tasks[0]
    kernels = kernels_of(works[0].engine)
    plane_shape = None if image.image is None else image.plane_shape()
    tables, measurements = [], []
    for one, work in zip(task.tasks, works, strict=True):
        runs, labels = one.read_runs(kernels, plane_shape)
        if len(works) > 1 and labels is not None:
            # The next layer is read into the same buffer.
            labels = labels.copy()
        tables.append(runs)
        measurements.append(work.steps(one, labels, runs))
    parts = yield from as_one(measurements)
    if image.channels[:1] not in ((), (first,)):
        return LayersPart(parts, [NO_OVERLAPS for _ in tables[1:]])
    overlaps = []
    for runs in tables[1:]:
        pairs, pixels = kernels.overlaps(
            runs.start,
            runs.length,
            runs.slot,
            tables[0].start,
            tables[0].length,
            tables[0].slot,
        )
        ids = np.stack([runs.ids[pairs[:, 0]], tables[0].ids[pairs[:, 1]]], axis=1)
        overlaps.append((ids, pixels))
    return LayersPart(parts, overlaps)
