"""The table of statistics on disk: an AnnData store, written a slab of channels at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from harpy_core.aggregate.aggregation import Aggregation
from harpy_core.aggregate.checkpoints import Checkpoints
from harpy_core.aggregate.label_work import LabelPart
from harpy_core.aggregate.layers import LayersPart, Together, stacked
from harpy_core.aggregate.merging import Measured, TilePart
from harpy_core.aggregate.neighbors import ContactPart, Neighbors
from harpy_core.aggregate.outlines import Rows, ShapePart
from harpy_core.aggregate.parents import Parents
from harpy_core.aggregate.pieces import Pieces
from harpy_core.aggregate.slabs import ROWS, SLAB_BYTES, derived_bytes, slabs_of
from harpy_core.aggregate.whole import JointWork, Wholes
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances
from harpy_core.provenance import source_digest
from harpy_core.raster.raster import Raster
from harpy_core.running.progress import track
from harpy_core.statistics.asked import Stats, identity
from harpy_core.statistics.channels import HISTOGRAMS, ChannelCounts
from harpy_core.statistics.partials import Partials
from harpy_core.statistics.places import Stretches
from harpy_core.storage import codecs
from harpy_core.storage.commits import KEPT, WorkFolder
from harpy_core.storage.destinations import Destination
from harpy_core.storage.folders import room_for
from harpy_core.storage.locks import sole_writer
from harpy_core.storage.manifest import digest_of
from harpy_core.tiles.runs import Geometry

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client

logger = logging.getLogger(__name__)

_KINDS = (
    *(LayersPart, TilePart, Geometry, Partials, Wholes, Pieces, Stretches, ChannelCounts),
    *(LabelPart, ShapePart, Rows, ContactPart),
)
"""Dataclasses that a task's result is made of."""


def aggregate_to_store(
    image: Any,
    labels: Any,
    path: str | os.PathLike[str],
    instances: Instances,
    stats: Stats = ("mean", "count"),
    channels: Sequence[str] | None = None,
    engine: str = "auto",
    client: Client | None = None,
    progress: bool = False,
    *,
    ignore_nan: bool = False,
    strict: bool | None = None,
    region: str = "labels",
    spacing: Sequence[float] | None = None,
    neighbors: Neighbors | None = None,
    layers: Mapping[str, Any] | None = None,
    whole_channels: bool = False,
    derived: Mapping[str, str] | None = None,
    slab_bytes: int = SLAB_BYTES,
    storage_options: Mapping[str, Any] | None = None,
    work_folder: str | os.PathLike[str] | None = None,
) -> None:
    """Write the table of `aggregate_stats` to a Zarr store, a slab of channels at a time.

    Memory holds one slab, however many instances and channels there are; each chunk of the image
    is still decoded once. The store appears when it is complete, annotated for SpatialData. Until
    then what tasks return is committed to a hidden folder beside it, named after the inputs and
    parameters: a run that died resumes from there, where image and labels can be identified and
    no function of your own was passed (one named ``module:name`` is known by its code).

    Parameters
    ----------
    image, labels, stats, channels, engine, client, progress, ignore_nan, strict, spacing, neighbors
        See `aggregate_stats`.
    path
        Folder of the store, or its address, s3://bucket/folder; an existing one is replaced. A
        table for an address is made in a hidden folder here, and sent when it is complete.
    instances
        Result of `find_instances` for `labels`.
    region
        Name of the labels that the instances belong to.
    layers
        Other labels by name, to be measured in the same read: their rows follow, `obs` has their
        names in ``region``, and ``parent`` and ``overlap`` as `harpy_core.aggregate_layers`.
    whole_channels
        See `aggregate_stats`; inside instances of `labels`.
    derived
        See `harpy_core.aggregate_layers`; rows of other layers are NaN.
    slab_bytes
        Memory for the statistics of a slab; a slab has at least one chunk of channels.
    storage_options
        Options of s3fs for an address, such as ``endpoint_url``; credentials come from the
        environment.
    work_folder
        Folder for the hidden folder of the work on a table at an address; None is the current one.

    Raises
    ------
    InputError
        See `aggregate_stats`; or the instances are not those of the labels.
    """
    TableJob.of(
        image,
        labels,
        path,
        instances,
        stats,
        channels,
        engine,
        client,
        ignore_nan=ignore_nan,
        strict=strict,
        region=region,
        spacing=spacing,
        neighbors=neighbors,
        layers=layers,
        whole_channels=whole_channels,
        derived=derived,
        slab_bytes=slab_bytes,
        storage_options=storage_options,
        work_folder=work_folder,
    ).write(client, progress)


@dataclass(frozen=True, slots=True)
class TableJob:
    """A table to be written, checked before anything is read.

    Attributes
    ----------
    target
        Its place.
    raster
        Image, and labels of all layers.
    together
        Measurement of each layer.
    instances
        Those of the first layer.
    slabs
        Edges of the channels that are measured at a time.
    key
        Digest of all that decides what tasks return; None where not all of it is known.
    """

    target: Destination
    raster: Raster
    together: Together
    instances: Instances
    slabs: list[tuple[int, ...]]
    key: str | None

    @classmethod
    def of(
        cls,
        image: Any,
        labels: Any,
        path: str | os.PathLike[str],
        instances: Instances,
        stats: Stats = ("mean", "count"),
        channels: Sequence[str] | None = None,
        engine: str = "auto",
        client: Client | None = None,
        *,
        ignore_nan: bool = False,
        strict: bool | None = None,
        region: str = "labels",
        spacing: Sequence[float] | None = None,
        neighbors: Neighbors | None = None,
        layers: Mapping[str, Any] | None = None,
        whole_channels: bool = False,
        derived: Mapping[str, str] | None = None,
        slab_bytes: int = SLAB_BYTES,
        storage_options: Mapping[str, Any] | None = None,
        work_folder: str | os.PathLike[str] | None = None,
    ) -> TableJob:
        """Check the arguments of `aggregate_to_store`."""
        target = Destination.of(path, storage_options, work_folder)
        target.refuse_taken(overwrite=True)
        raster = Raster.of(image, {region: labels, **(layers or {})}, channels)
        together = Together.of(
            raster,
            stats,
            engine,
            client,
            ignore_nan,
            strict,
            instances,
            whole_channels,
            derived,
            spacing=spacing,
            neighbors=neighbors,
        )
        job = together.jobs[0]
        edges = job.channel_edges
        in_channel = len(instances) * (
            job.bytes_per_value * len(together.jobs) + derived_bytes(len(together.derived))
        )
        slabs = [edges] if raster.lazy else slabs_of(edges, in_channel, slab_bytes, job.unsplit)
        key = _key(together, raster, stats, instances)
        return cls(target, raster, together, instances, slabs, key)

    @property
    def shares_a_read(self) -> bool:
        """Whether another job that reads the image can measure its tasks.

        It can for what a tile's pixels give at once. What needs whole instances, pairs of channels
        or whole channels holds more of a tile than the memory of another job has room for.
        """
        job = self.together.jobs[0]
        whole = any(statistic.whole for statistic in job.statistics.values())
        pairs = JointWork.of(job.asked, job.raster.channels) is not None
        known = self.key is not None and job.in_image and not self.raster.lazy
        return known and not (whole or pairs or job.whole_channels)

    @contextmanager
    def committing(self) -> Iterator[Checkpoints]:
        """Yield the commits of the job, so that tasks are measured before it is written.

        The caller knows that there is a key. What is committed stays.
        """
        work = self.target.work(self.key or "")
        with sole_writer(self.target.path):
            work.begin(Path.mkdir)
            with room_for(work.store, KEPT, reads=True), Checkpoints(work, _KINDS) as checkpoints:
                yield checkpoints

    def write(self, client: Client | None, progress: bool) -> None:
        """Measure what is not committed, and write the table."""
        if self.key is None:
            told = "nothing tells what the image or a function is: nothing is kept"
            logger.info("%s: %s", self.target, told)
        work = self.target.work(self.key or "alone")
        region = next(iter(self.raster.layers))
        written = _Written(work.store, self.together, region, self.slabs)
        with (
            sole_writer(self.target.path),
            _begun(work, self.key is not None) as checkpoints,
            track(self.together.jobs[0].pixels, "aggregate", enabled=progress) as bar,
        ):
            for slab in self.slabs:
                # What was found of a slab is gone before the next one is measured.
                written.add(
                    slab, self.instances, *self.together.measure(slab, client, bar, checkpoints)
                )
            written.finish()


class _Written:
    """A table that is written a slab of channels at a time.

    Parameters
    ----------
    folder
        Folder of the store.
    together
        What is measured.
    region
        Name of the labels that come first.
    slabs
        Edges of the channels of each slab.
    """

    def __init__(
        self, folder: Path, together: Together, region: str, slabs: Sequence[tuple[int, ...]]
    ) -> None:
        self._folder, self._together, self._region = folder, together, region
        self._slabs = slabs
        self._group: zarr.Group
        self._arrays: dict[str, zarr.Array] = {}
        self._rows: Any = None
        self._counts: list[np.ndarray] = []

    def add(
        self,
        slab: tuple[int, ...],
        instances: Instances,
        found: Sequence[Measured],
        parents: Sequence[Parents],
    ) -> None:
        """Write what was found in a slab; with the first one comes what the labels say."""
        _refuse_others(instances, found[0].instances)
        if slab is self._slabs[0]:
            self._begin(found, parents)
        for name, array in self._arrays.items():
            layer = self._together.names[0] if name == "X" else name
            first = 0
            for measured in found:
                last = first + len(measured.instances)
                if layer in measured.layers:
                    array[first:last, slab[0] : slab[-1]] = measured.layers[layer]
                first = last
        if found[0].joint:
            _write_elements(self._group, _frames(self._together.jobs[0], self._rows, found))
        self._counts += [one.counts for one in found if one.counts is not None]

    def _begin(self, found: Sequence[Measured], parents: Sequence[Parents]) -> None:
        without = [replace(one, layers={}, joint={}, counts=None) for one in found]
        tables = self._together.tables(without, parents)
        table = stacked(tables) if len(tables) > 1 else tables[self._region]
        self._group = write_table(self._folder, table)
        shape = (len(table), len(self._together.jobs[0].raster.channels))
        self._arrays = _create_values(self._group, self._together.names, shape, self._slabs)
        if self._together.jobs[0].asked.joints:
            self._rows = table.obs_names

    def finish(self) -> None:
        """Write what is known of whole channels, and the copy of all metadata."""
        if self._counts:
            job = self._together.jobs[0]
            counted = job.histograms(np.concatenate(self._counts, axis=1))
            var = job.channel_table(counted)
            _write_elements(self._group, {"var": var, f"uns/{HISTOGRAMS}": counted})
        with quiet_consolidation():
            zarr.consolidate_metadata(self._folder)


def _key(together: Together, raster: Raster, stats: Stats, instances: Instances) -> str | None:
    """Digest of all that decides what tasks return; None where not all of it is known."""
    asked = identity(stats)
    if raster.fingerprint is None or asked is None:
        return None
    who = hashlib.sha256()
    for column in (instances.id, instances.count, instances.bbox):
        who.update(np.ascontiguousarray(column).data)
    job = together.jobs[0]
    settings = [
        asked,
        raster.channels,
        list(raster.layers),
        job.engine,
        job.ignore_nan,
        job.strict,
        job.whole_channels,
        job.spacing,
        job.neighbors,
    ]
    return digest_of([raster.fingerprint, settings, who.hexdigest(), source_digest(__name__)])[:16]


@contextmanager
def _begun(work: WorkFolder, resume: bool) -> Iterator[Checkpoints | None]:
    """Begin the job's folder, and the commits in it if another run could use them; finish it.

    After an error the commits stay; without any, nothing does.
    """
    work.begin(Path.mkdir, resume)
    try:
        with (
            room_for(work.store, KEPT, reads=True),
            Checkpoints(work, _KINDS) if resume else nullcontext() as checkpoints,
        ):
            yield checkpoints
        work.finish(flushed=())
    except BaseException:
        if not work.records():
            shutil.rmtree(work.path, ignore_errors=True)
        raise


def _frames(job: Aggregation, rows: Any, found: Sequence[Measured]) -> dict[str, Any]:
    """Joint numbers of all layers, by their places in a table."""
    values = {name: [one.joint[name] for one in found] for name in found[0].joint}
    return {
        f"obsm/{name}": job.frame(name, np.concatenate(each), rows) for name, each in values.items()
    }


def _write_elements(group: zarr.Group, elements: Mapping[str, Any]) -> None:
    """Write parts of a table, by their places in it."""
    import anndata

    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        for name, values in elements.items():
            anndata.io.write_elem(group, name, values, dataset_kwargs={"compressors": codecs.PLAIN})


def _refuse_others(given: Instances, found: Instances) -> None:
    if not np.array_equal(found.id, given.id):
        raise InputError(
            f"instances: {len(given)} given, {len(found)} in the labels; "
            "find the instances of these labels again"
        )


def _create_values(
    group: zarr.Group,
    names: Sequence[str],
    shape: tuple[int, int],
    slabs: Sequence[tuple[int, ...]],
) -> dict[str, zarr.Array]:
    """Create X and the layers of a table, if channels are measured."""
    width = max(slab[-1] - slab[0] for slab in slabs)
    arrays = {name: create_layer(group, f"layers/{name}", shape, width) for name in names}
    if arrays:
        arrays["X"] = create_layer(group, "X", shape, width)
    return arrays


def write_table(folder: Path, table: AnnData) -> zarr.Group:
    """Write a table as `AnnData.write_zarr` does, with a checksum after every chunk."""
    import anndata

    group = zarr.open_group(folder, mode="w", zarr_format=3)
    table.strings_to_categoricals()
    with anndata.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
        anndata.io.write_elem(group, "/", table, dataset_kwargs={"compressors": codecs.PLAIN})
    return group


@contextmanager
def quiet_consolidation() -> Iterator[None]:
    """Silence Zarr's warning about consolidated metadata, on which anndata relies."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        yield


def create_layer(group: zarr.Group, name: str, shape: tuple[int, int], width: int) -> zarr.Array:
    """Create an array as anndata's format declares a dense matrix."""
    return group.create_array(
        name,
        shape=shape,
        chunks=(min(max(shape[0], 1), ROWS), max(width, 1)),
        dtype=np.float64,
        fill_value=np.nan,
        compressors=codecs.PLAIN,
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
        overwrite=True,
    )
