"""Extraction of one crop of every instance, in one pass over the image, batch by batch."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from harpy_core.config.crops import Codec, CropSettings, Padding
from harpy_core.extract import estimate
from harpy_core.extract.crops import Crops, open_crops
from harpy_core.extract.finishing import Finish, refuse_uncuttable, refuse_unfit_padding
from harpy_core.extract.layout import CropLayout, refuse_overflow
from harpy_core.extract.store import CropStore
from harpy_core.extract.strip_tasks import Cut, LazyStripTask, StripTask
from harpy_core.extract.tasks import JoinTask, cut_strip, join_fragments
from harpy_core.extract.turning import angles
from harpy_core.extract.windows import CropPlan, Strip, Windows, plan_crops, windows_of
from harpy_core.instances.finding import Instances, find_instances
from harpy_core.kernels import AUTO
from harpy_core.provenance import source_digest
from harpy_core.raster.raster import Raster
from harpy_core.running import engines, schedule
from harpy_core.running.progress import track
from harpy_core.running.tasks import LazyTask, Task, image_tasks, tile_edges
from harpy_core.storage.commits import WorkFolder
from harpy_core.storage.destinations import Destination
from harpy_core.storage.locks import sole_writer
from harpy_core.storage.manifest import digest_of
from harpy_core.tiles.grid import Together, split_channels
from harpy_core.version import __version__

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)


def extract_instances(
    image: Any,
    labels: Any,
    path: str | os.PathLike[str],
    *,
    diameter: int | Sequence[int] = 50,
    batch_size: int = 500,
    remove_background: bool = True,
    extract_mask: bool = False,
    neighbor_mask: bool = False,
    padding: Padding = 0,
    windows: Mapping[str, Mapping[str, Any]] | None = None,
    resolution: float | None = None,
    spacing: Sequence[float] | None = None,
    rotate: bool = False,
    channels: Sequence[str] | None = None,
    index: Sequence[int] | np.ndarray | None = None,
    dtype: str | None = None,
    scale: float | None = None,
    codec: Codec = "lz4",
    shard_size: int | None = None,
    shuffle: int | None = None,
    engine: str = "auto",
    client: Client | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: bool = False,
    instances: Instances | None = None,
    strict: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
    work_folder: str | os.PathLike[str] | None = None,
) -> Crops:
    """Write one centred crop of every instance, all channels, to a Zarr store.

    The window starts at the centroid (mean of the pixel indices, rounded half to even) less
    ``diameter // 2`` and is `diameter` long in y and x; z is kept whole, or windowed in the same
    way where `diameter` has three numbers. What lies outside the image is as `padding` says. Each
    chunk of the image is decoded once. A run that died resumes where it stopped.

    Parameters
    ----------
    image
        (c, y, x) or (c, z, y, x): a NumPy, Dask, Zarr or xarray array.
    labels
        (y, x) or (z, y, x), non-negative integers, or floats that are whole numbers; 0 is
        background. Of a binary mask, `harpy_core.label_connected`.
    path
        Folder of the store, which appears when it is complete. Until then the work is in a hidden
        folder beside it, named after the inputs and parameters. Or its address, s3://bucket/folder:
        workers send each file there as it is made, and what a reader opens it by comes last.
    diameter
        Side of a window, in pixels; or its sides, (y, x) or (z, y, x).
    batch_size
        Crops in a chunk of the store.
    remove_background
        Set pixels outside the instance to 0.
    extract_mask
        Also write ``mask``, 1 where a pixel belongs to the instance.
    neighbor_mask
        Give ``mask`` a second channel, 1 where a pixel belongs to another instance, whether that
        has a crop or not.
    padding
        Pixels outside the image, where the background is kept: a number, or ``edge``, ``reflect``
        or ``symmetric``, by which `numpy.pad` continues the part of the window inside the image.
        Masks are 0 there.
    windows
        Further windows by name, cut in the same read: ``{"context": {"diameter": 192}}`` makes the
        array ``image_context``, and ``mask_context`` with masks; see `Crops.window`. Each may have
        a ``resolution`` of its own.
    resolution
        Micrometres of a pixel of the crops along y and x, to which windows are resampled (z is
        left as it is): `diameter` is then in these pixels. Pixels are interpolated linearly in
        float64, as means of k x k samples where they are k times as large as the image's, rounded
        up, and rounded once; masks take the nearest pixel. What lies outside the instance is 0
        before that.
    spacing
        Side of the image's pixels in micrometres along (z, ) y and x, such as ``raster.spacing``;
        required with `resolution`.
    rotate
        Turn each window about its middle, by at most a right angle, so that the longest axis of
        its instance, by second moments, lies along x; one without a longest axis is not turned.
        Takes one more pass over the labels. For images of one plane.
    channels
        Name of each channel.
    index
        Labels of the instances to crop; None crops all of them.
    dtype
        ``float16`` or ``float32`` to store pixels multiplied by `scale` (in float64, rounded
        once); None stores them as they are, in the image's type.
    scale
        Factor of the pixels; required with `dtype`, and only then.
    codec
        ``lz4`` is read fastest; ``zstd`` is smaller, with the background less than half; ``none``
        leaves chunks as they are.
    shard_size
        Crops in one file, a multiple of `batch_size`; None makes each chunk a file.
    shuffle
        Seed of a random order of the instances, for training that reads a store in its order. All
        crops then go through temporary files of about the store's size beside it. None keeps
        neighbours together, which needs few of them.
    engine
        ``numpy``, ``numba``, ``cupy`` (an NVIDIA GPU for each worker), or ``auto``: ``cupy`` where
        every worker has a working GPU, else ``numba``.
    client
        Dask client to run on; None uses the cores of this process.
    resume
        Resume from the batches that an earlier, interrupted run committed, where image and labels
        can be identified: a Dask array can be where each task that begins its graph reads a Zarr
        or NumPy array.
    overwrite
        Replace a store that exists at `path`; at an address, from the beginning of the run.
    progress
        Show a progress bar.
    instances
        Result of `find_instances` for `labels`, or part of it; saves a pass over the labels.
    strict
        What a chunk is that a Zarr array does not store. None: an error that names it where an
        instance has pixels in the image's, else the array's fill value; True: an error wherever it
        is read, in the labels too; False: the fill value everywhere, as Zarr has it. What Dask
        reads is filled by whoever made the array.
    storage_options
        Options of s3fs for an address, such as ``endpoint_url``; credentials come from the
        environment, of each worker.
    work_folder
        Folder, which all workers see, for the hidden folder of the work on a store at an address:
        records of what was sent, and fragments; None is the current folder.

    Returns
    -------
    Crops
        The finished store: ``image`` (i, c, z, y, x), ``instance_id`` (i,),
        ``centroid`` (i, 3) as (z, y, x), ``mask`` (i, 1, z, y, x) where asked for, or
        (i, 2, z, y, x) with neighbours, the same of each of `windows`, and, where windows are
        turned, ``angle`` (i,): the longest axis's, from x towards y, in radians.

    Raises
    ------
    InputError
        Sizes are impossible, arrays do not match, labels are not there, the path is taken, or the
        disk is full or too small; or the server refuses.
    """
    target = Destination.of(path, storage_options, work_folder)
    raster = Raster.of(image, labels, channels)
    engine = engines.resolved(engine, client)
    settings = checked_settings(
        raster,
        diameter=diameter,
        batch_size=batch_size,
        remove_background=remove_background,
        extract_mask=extract_mask,
        neighbor_mask=neighbor_mask,
        padding=padding,
        windows=windows,
        resolution=resolution,
        spacing=spacing,
        rotate=rotate,
        dtype=dtype,
        scale=scale,
        codec=codec,
        shard_size=shard_size,
        shuffle=shuffle,
    )
    target.refuse_taken(overwrite)
    with sole_writer(target.path):
        if instances is None:
            instances = find_instances(
                raster.labels, engine=engine, client=client, progress=progress, strict=strict
            )
        if index is not None:
            instances = instances.chosen(index)
        job = Extraction.of(raster, instances, settings, target, strict, engine, client)
        known = raster.fingerprint is not None
        if resume and not known:
            logger.info("%s: nothing tells what the image holds: started over", target)
        job.crops.begin(resume and known)
        job.run(engine, client, progress)
        job.finish(engine)
    return open_crops(path, storage_options=storage_options)


def checked_settings(raster: Raster, **given: Any) -> CropSettings:
    """Return the settings of crops, checked by themselves and against the image.

    Parameters
    ----------
    raster
        The image.
    given
        Arguments of `extract_instances`.
    """
    settings = CropSettings.of(**given).on(None)
    pixels = np.dtype(raster.image.dtype)
    refuse_overflow(settings, pixels)
    refuse_unfit_padding(settings, pixels)
    refuse_uncuttable(settings, pixels, tile_edges(raster)[1][0][-1])
    return settings


def stored_ratio(raster: Raster, instances: Instances, settings: CropSettings) -> float:
    """Estimate the bytes on disk per byte of crops, from a sample of them.

    Parameters
    ----------
    raster
        The image and its labels.
    instances
        Instances that will be cropped.
    settings
        Settings by which they will be cut and kept.
    """
    layout = CropLayout.of(raster, settings, instances)
    finish = Finish.of(layout, settings, _extent(raster), AUTO)
    return estimate.stored_ratio(
        raster, instances, finish, settings.deep, settings.remove_background
    )


def _extent(raster: Raster) -> tuple[int, int, int]:
    """Planes, rows and columns of an image."""
    z, y, x = (along[-1] for along in tile_edges(raster)[1])
    return z, y, x


def committed_bytes(
    raster: Raster,
    instances: Instances,
    settings: CropSettings,
    path: str | os.PathLike[str],
    strict: bool | None = None,
) -> int:
    """Bytes of the crops that an interrupted run has left for the next one to resume from.

    Parameters
    ----------
    raster
        Image and labels.
    instances
        Instances that will be cropped.
    settings
        Settings by which they will be cut and kept.
    path
        Folder of the store.
    strict
        As in `extract_instances`.
    """
    work = _work_folder(raster, instances, settings, Destination.of(path), strict)
    layout = CropLayout.of(raster, settings, instances)
    finish = Finish.of(layout, settings, _extent(raster), AUTO)
    return CropStore(work, finish).committed_bytes(settings.shuffle is not None)


def _work_folder(
    raster: Raster,
    instances: Instances,
    settings: CropSettings,
    target: Destination,
    strict: bool | None,
) -> WorkFolder:
    """Return the working folder, named after all that decides the crops."""
    who = hashlib.sha256(instances.id.tobytes()).hexdigest()
    code = source_digest(__name__)
    key = digest_of([raster.fingerprint, settings.model_dump(), who, code, strict])[:16]
    return target.work(key, at_once=True)


@dataclass(frozen=True, slots=True)
class Extraction:
    """State of one extraction.

    Attributes
    ----------
    raster, instances, settings, strict
        Arguments of `extract_instances`.
    angle : (n,) float64
        Angle by which the window of each instance is turned.
    windows
        Windows of the instances.
    plan
        Strips, and the windows that each fills.
    crops
        Store of the crops.
    """

    raster: Raster
    instances: Instances
    settings: CropSettings
    strict: bool | None
    angle: np.ndarray
    windows: Windows
    plan: CropPlan
    crops: CropStore

    @classmethod
    def of(
        cls,
        raster: Raster,
        instances: Instances,
        settings: CropSettings,
        target: Destination,
        strict: bool | None,
        engine: str,
        client: Client | None,
    ) -> Extraction:
        """Decide which pixels go to which window.

        Parameters
        ----------
        raster, instances, settings, target, strict, engine, client
            See `extract_instances`; the labels are read where windows are turned.
        """
        angle = np.zeros(len(instances))
        if settings.rotate:
            # Without a resolution windows are not resampled: their pixels count as squares.
            sides = settings.spacing if settings.resolution else None
            angle = angles(raster.labels, instances.id, sides, engine, client, strict)
        layout = CropLayout.of(raster, settings, instances)
        _, edges = tile_edges(raster)
        image = _extent(raster)
        windows = windows_of(
            instances, layout.size, settings.deep, image[1:], settings.surroundings
        )
        tall = not raster.lazy
        plan = plan_crops(windows, edges, layout.chunk, layout.batch, tall, settings.shuffle)
        work = _work_folder(raster, instances, settings, target, strict)
        crops = CropStore(work, Finish.of(layout, settings, image, engine))
        return cls(raster, instances, settings, strict, angle, windows, plan, crops)

    def run(self, engine: str, client: Client | None, progress: bool) -> None:
        """Cut all strips, then finish the batches that need several."""
        done = self.crops.committed()
        cut = partial(cut_strip, engine=engine, remove_background=self.settings.remove_background)
        tasks = self.strip_tasks(done, schedule.threads_of(client))
        with track(sum(t.pixels for t in tasks), "extract", enabled=progress) as bar:
            for task, _ in schedule.results(cut, tasks, client, lazy=self.raster.lazy):
                bar.advance(task.pixels)
        joins = self._joins(done)
        with track(len(joins), "join", unit="batch", enabled=progress) as bar:
            for _ in schedule.in_order(join_fragments, joins, client):
                bar.advance(1)

    def finish(self, engine: str) -> None:
        """Add what describes the crops, and move the store to its place."""
        settings, order = self.settings, self.plan.order
        described = {"instance_id": self.instances.id, "centroid": self.instances.centroid}
        if settings.rotate:
            described["angle"] = self.angle
        self.crops.finish(
            {name: values[order] for name, values in described.items()},
            {
                "channels": self.raster.channels,
                "diameter": settings.diameter,
                "remove_background": settings.remove_background,
                "scale": settings.scale,
                "source": self.raster.content,
                "parameters": settings.model_dump(),
                "engine": engine,
                "versions": {"harpy_core": __version__},
            },
        )

    def strip_tasks(
        self, done: frozenset[str], threads: int, together: Together = None
    ) -> list[StripTask] | list[LazyStripTask]:
        """Make the tasks of the strips.

        Parameters
        ----------
        done
            Names of the files that are committed.
        threads
            Tasks that can run at the same time.
        together
            Channels that one task must have.
        """
        strips = self.plan.strips
        if self.raster.lazy:
            tasks = image_tasks(self.raster, threads)
            tiles = {task.region[1:]: cast(LazyTask, task) for task in tasks}
            return [LazyStripTask(tiles[s.tiles[0][1:]], self._cut(s, done)) for s in strips]
        pixels = self.raster.image_reader(self.strict)
        reader = self.raster.label_reader(self.strict)
        groups = split_channels(pixels.edges[0], len(strips), threads, together)
        if self.crops.layout.group > 1 and self.crops.layout.group == pixels.shape[0]:
            groups = [pixels.edges[0]]
        return [
            StripTask([Task(r, group, reader, pixels) for r in strip.tiles], self._cut(strip, done))
            for strip in strips
            for group in groups
        ]

    def _cut(self, strip: Strip, done: frozenset[str]) -> Cut:
        mine = np.concatenate([strip.inside, *(part.instances for part in strip.parts)])
        corner, angle = self.windows.corner[mine], self.angle[mine]
        return Cut(strip, self.instances.id[mine], corner, angle, self.crops, done)

    def _joins(self, done: frozenset[str]) -> list[JoinTask]:
        """Return the tasks of the batches that no strip fills alone."""
        pieces = self.plan.pieces
        files = np.stack([pieces.strip, pieces.part, pieces.number, pieces.count], axis=1)
        batches = range(self.plan.filled, self.plan.batches)
        bounds = np.searchsorted(pieces.batch, [*batches, self.plan.batches]).tolist()
        joins = []
        for batch, (a, b) in zip(batches, pairwise(bounds), strict=True):
            spans = zip(pieces.first[a:b].tolist(), pieces.last[a:b].tolist(), strict=True)
            slots = [pieces.slot[first:last] for first, last in spans]
            found = [((s, p), (n, c)) for s, p, n, c in files[a:b].tolist()]
            first = batch * self.plan.batch
            mine = self.plan.order[first : first + self.plan.batch]
            corner, angle = self.windows.corner[mine], self.angle[mine]
            joins.append(JoinTask(batch, found, slots, corner, angle, self.crops, done))
        return joins
