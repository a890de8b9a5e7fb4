"""The tiles of an image, and the tasks a job makes of them.

A tile is one spatial chunk of the image, or a few neighbouring ones if they are tiny; a task is one
tile with some or all of its channels. The pixels that a task reads depend on shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, zip_longest
from types import ModuleType
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.kernels.blosc import Encoded
from harpy_core.phases import phase
from harpy_core.raster.raster import Raster
from harpy_core.raster.reading import ArrayReader, Gap, Reader, ReaderAhead, RunSource, delivered
from harpy_core.tiles.grid import (
    Edges,
    Region,
    Together,
    coarsened,
    regions_of,
    split_channels,
)
from harpy_core.tiles.runs import RunTable, encode_runs
from harpy_core.tiles.scratch import scratch


@dataclass(frozen=True, slots=True)
class Task:
    """Some channels of one tile, and the readers of their pixels.

    Attributes
    ----------
    region
        Region of the tile, along z, y and x.
    channels
        Edges of the groups of channels to read one after the other; empty for a job on labels.
    labels, image
        Readers of the pixels; the image is None for a job on labels alone.
    split : (n,) uint64
        Labels of its instances that extend into other tiles, if a job needs them.
    beside
        Readers of other labels whose instances need the image's pixels too.
    """

    region: Region
    channels: tuple[int, ...]
    labels: Reader
    image: Reader | None
    split: np.ndarray | None = None
    beside: tuple[Reader, ...] = ()

    @property
    def pixels(self) -> int:
        """Number of image pixels in all its channels, or of label pixels without an image."""
        return _pixels(self.region, self.channels)

    @property
    def origin(self) -> tuple[int, int, int]:
        """First pixel of the tile, (z, y, x)."""
        z, y, x = (a for a, _ in self.region)
        return z, y, x

    def detached(self) -> Task:
        """Return the task with no more pixels than it needs, to be sent to another process."""
        image = self.image
        if image is not None:
            image = image.detach(((self.channels[0], self.channels[-1]), *self.region))
        return replace(self, labels=self.labels.detach(self.region), image=image)

    def read_labels(self) -> np.ndarray:
        """Read the tile's labels, (z, y, x), into a buffer that the thread reuses."""
        shape = self.labels.layout(self.region)
        buffer = scratch("labels", math.prod(shape), self.labels.dtype).reshape(shape)
        with phase("decode"):
            self.labels.read(self.region, buffer)
        # Contiguous at the image's edge too, or the kernels would be compiled again for it.
        return np.ascontiguousarray(buffer[tuple(slice(0, b - a) for a, b in self.region)])

    def read_runs(
        self, kernels: ModuleType, plane_shape: tuple[int, int, int] | None = None
    ) -> tuple[RunTable, np.ndarray | None]:
        """Read the runs of the tile, and its labels; None where these are no image.

        Parameters
        ----------
        kernels
            The engine's module.
        plane_shape
            Shape of the (z, y, x) buffers that the runs will be used on, if they are padded.
        """
        if isinstance(self.labels, RunSource):
            extent = tuple(b - a for a, b in self.region)
            _, height, width = plane_shape or extent
            return self.labels.runs(self.region, width, height * width), None
        labels = self.read_labels()
        return encode_runs(labels, kernels, plane_shape), labels

    def plane_shape(self) -> tuple[int, int, int]:
        """Shape of the (z, y, x) buffers in which the image's channels arrive."""
        if self.image is None:
            raise ValueError("a task on labels alone has no planes")
        group = (self.channels[0], self.channels[1])
        z, y, x = self.image.layout((group, *self.region))[1:]
        return z, y, x

    def read_planes(self, encoded: bool = False) -> Iterator[tuple[slice, np.ndarray | Encoded]]:
        """Yield each group of channels, and its pixels, (c, plane), in a reused buffer.

        Parameters
        ----------
        encoded
            Leave chunks encoded that an engine may decode itself.
        """
        if self.image is None:
            raise ValueError("a task on labels alone has no planes")
        groups = [((first, last), *self.region) for first, last in pairwise(self.channels)]
        for region, following in zip_longest(groups, groups[1:]):
            (first, last), *_ = region
            if following is not None and isinstance(self.image, ReaderAhead):
                self.image.ahead(following)
            stored = self.image.stored(region) if encoded else None
            read = partial(self._read, self.image, region)
            if stored is None:
                yield slice(first, last), read()
            else:
                layout = self.image.layout(region)
                shape = (last - first, math.prod(layout[1:]))
                size = math.prod(layout) * self.image.dtype.itemsize
                yield slice(first, last), Encoded(stored, shape, self.image.dtype, size, read)

    def _read(self, image: Reader, region: Region) -> np.ndarray:
        """Read the pixels of some channels, (c, plane), into a buffer that the thread reuses."""
        channels = region[0][1] - region[0][0]
        shape = image.layout(region)
        buffer = scratch("image", math.prod(shape), image.dtype).reshape(shape)
        with phase("decode"):
            gaps = image.read(region, buffer)
        for gap in gaps:
            self._refuse(gap)
        return buffer[:channels].reshape(channels, -1)

    def _refuse(self, gap: Gap) -> None:
        """Refuse a missing chunk where an instance has pixels: its values would be made up."""
        spans = zip(gap.region[1:], self.region, strict=True)
        inside = tuple((max(a, first), min(b, last)) for (a, b), (first, last) in spans)
        for reader in (self.labels, *self.beside):
            labels = np.empty(reader.layout(inside), reader.dtype)
            reader.read(inside, labels)
            there = labels[tuple(slice(0, b - a) for a, b in inside)]
            found = there[there != 0]
            if found.size:
                raise InputError(
                    f"{gap.name} is missing, where instance {found.min()} has pixels: "
                    "restore it; or, where the writer leaves out chunks of background, take it as "
                    "its fill value: strict=False (in a config: source.missing_chunks: fill)"
                )


def _pixels(region: Region, channels: tuple[int, ...]) -> int:
    planes = channels[-1] - channels[0] if channels else 1
    return planes * math.prod(b - a for a, b in region)


def label_tasks(
    raster: Raster, strict: bool | None = None, edges: Edges | None = None
) -> list[Task] | list[LazyTask]:
    """Make tasks on labels alone.

    Parameters
    ----------
    strict
        Make missing chunks of Zarr arrays errors; None does of an image's where an instance has
        pixels, False takes them as filled.
    edges
        Edges of the tiles; None takes `label_tiles`.
    """
    edges = edges or label_tiles(raster)
    regions = regions_of(edges)
    if raster.lazy:
        blocks = _blocks(raster.labels, edges)
        return [
            LazyTask(region, (), block, []) for region, block in zip(regions, blocks, strict=True)
        ]
    reader = raster.label_reader(strict)
    return [Task(region, (), reader, None) for region in regions]


def label_tiles(raster: Raster) -> Edges:
    """Edges of the tiles of tasks on labels alone, along z, y and x."""
    return coarsened(raster.label_edges())


def image_tasks(
    raster: Raster,
    threads: int,
    channels: tuple[int, ...] | None = None,
    strict: bool | None = None,
    together: Together = None,
) -> list[Task] | list[LazyTask]:
    """Make tasks on an image and its labels, tiled by the image's chunks.

    Parameters
    ----------
    threads
        Tasks that can run at the same time.
    channels
        Some of the edges of the image's chunks along c; None takes all channels, as does a lazy
        image: every block of a Dask image is in one task.
    strict
        Make missing chunks of Zarr arrays errors; None does of an image's where an instance has
        pixels, False takes them as filled.
    together
        Channels that one task must have.
    """
    edges, spatial = tile_edges(raster)
    regions = regions_of(spatial)
    if raster.lazy:
        return _lazy_tasks(raster, edges, spatial, regions)
    pixels, reader = raster.image_reader(strict), raster.label_reader(strict)
    groups = split_channels(channels or edges, len(regions), threads, together)
    return [Task(region, group, reader, pixels) for region in regions for group in groups]


def tile_edges(raster: Raster) -> tuple[tuple[int, ...], Edges]:
    """Edges of the chunks of channels, and of the tiles along z, y and x.

    Tiles of a Dask image span all z, so that each is a task of its own in any job.
    """
    channels, *chunks = raster.image_edges()
    z, y, x = coarsened(tuple(chunks))
    return channels, ((0, z[-1]), y, x) if raster.lazy else (z, y, x)


@dataclass(frozen=True, slots=True)
class LazyTask:
    """A tile of Dask arrays: its label block and its image blocks, not yet computed."""

    region: Region
    channels: tuple[int, ...]
    labels: Any
    image: list[Any]
    split: np.ndarray | None = None

    @property
    def pixels(self) -> int:
        """Number of image pixels in all its channels, or of label pixels without an image."""
        return _pixels(self.region, self.channels)

    def on_blocks(self, labels: np.ndarray, blocks: list[np.ndarray]) -> Task:
        """Return the task on its computed blocks."""
        origin = tuple(a for a, _ in self.region)
        extent = tuple(b - a for a, b in self.region)
        reader = ArrayReader(np.asarray(labels), 3, extent, origin)
        image = BlockReader(blocks, self.channels, origin) if blocks else None
        return Task(self.region, self.channels, reader, image, self.split)

    def without_blocks(self) -> LazyTask:
        """Return the task alone, to be sent beside its computed blocks."""
        return LazyTask(self.region, self.channels, None, [], self.split)


@dataclass(frozen=True, slots=True)
class LayeredTask:
    """Tasks on the same tile and channels with the labels of one layer each: one read of the image.

    Attributes
    ----------
    tasks
        The first has the image.
    """

    tasks: tuple[Task, ...]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> LayeredTask:
        """Put tasks together."""
        first, *others = tasks
        beside = tuple(task.labels for task in others)
        without = (replace(task, image=None) for task in others)
        return cls((replace(first, beside=beside), *without))

    @property
    def region(self) -> Region:
        """Region of the tile."""
        return self.tasks[0].region

    @property
    def pixels(self) -> int:
        """Number of image pixels in all its channels."""
        return self.tasks[0].pixels

    def detached(self) -> LayeredTask:
        """Return it with no more pixels than it needs, to be sent to another process."""
        first, *others = (task.detached() for task in self.tasks)
        return LayeredTask.of((first, *others))


@dataclass(frozen=True, slots=True)
class LazyLayeredTask:
    """Lazy tasks on the same tile with the labels of one layer each."""

    tasks: tuple[LazyTask, ...]

    @property
    def region(self) -> Region:
        """Region of the tile."""
        return self.tasks[0].region

    @property
    def pixels(self) -> int:
        """Number of image pixels in all its channels."""
        return self.tasks[0].pixels

    @property
    def labels(self) -> list[Any]:
        """The label blocks, not yet computed."""
        return [task.labels for task in self.tasks]

    @property
    def image(self) -> list[Any]:
        """The image blocks, not yet computed."""
        return self.tasks[0].image

    def on_blocks(self, labels: list[np.ndarray], blocks: list[np.ndarray]) -> LayeredTask:
        """Return the tasks on their computed blocks."""
        each = zip(self.tasks, labels, strict=True)
        return LayeredTask.of([task.on_blocks(one, blocks) for task, one in each])

    def without_blocks(self) -> LazyLayeredTask:
        """Return the tasks alone, to be sent beside their computed blocks."""
        return LazyLayeredTask(tuple(task.without_blocks() for task in self.tasks))


class BlockReader:
    """Reader of the image blocks of one tile, one after the other along c."""

    def __init__(
        self, blocks: list[np.ndarray], channels: tuple[int, ...], origin: tuple[int, ...]
    ) -> None:
        self._blocks = {
            first: ArrayReader(np.asarray(block), 4, block.shape, (first, *origin))
            for first, block in zip(channels, blocks, strict=False)
        }
        self.dtype = delivered(blocks[0].dtype)
        self.shape = (channels[-1], *blocks[0].shape[1:])
        self.edges: Edges = (channels,)

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the region itself."""
        return self._blocks[region[0][0]].layout(region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Gap]:
        """Copy a region; nothing is missing."""
        return self._blocks[region[0][0]].read(region, out)

    def stored(self, region: Region) -> None:
        """Return None: nothing is encoded here."""

    def detach(self, region: Region) -> BlockReader:
        """Return the reader itself: its blocks are where they are used."""
        return self


def _lazy_tasks(
    raster: Raster, channels: tuple[int, ...], edges: Edges, regions: list[Region]
) -> list[LazyTask]:
    label_blocks = _blocks(raster.labels, edges)
    image_blocks = np.array(_blocks(raster.image, (channels, *edges)), dtype=object)
    by_tile = image_blocks.reshape(-1, len(regions)).T
    return [
        LazyTask(region, channels, block, list(planes))
        for region, block, planes in zip(regions, label_blocks, by_tile, strict=True)
    ]


def _blocks(array: Any, edges: Edges) -> list[Any]:
    """Return blocks between the given edges, row by row, as delayed values."""
    canonical = array if array.ndim == len(edges) else array[..., np.newaxis, :, :]
    sizes = tuple(tuple(b - a for a, b in pairwise(axis)) for axis in edges)
    return list(canonical.rechunk(sizes).to_delayed().ravel())
