"""Readers of regions of an image or of labels, whatever kind of array holds them.

Readers use canonical axes, (c, z, y, x) for images and (z, y, x) for labels; a missing z is an axis
of one pixel. They can be sent to a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from harpy_core.raster.chunks import covering
from harpy_core.raster.formats import owner_of
from harpy_core.raster.formats.format import ChunksAhead, StoredChunks
from harpy_core.raster.grown import LabelView
from harpy_core.raster.polygons import PolygonLabels, PolygonReader
from harpy_core.raster.views import AxesView, ChannelView, stored_in
from harpy_core.tiles.grid import Edges, Region, regular_edges
from harpy_core.tiles.runs import RunTable
from harpy_core.tiles.scratch import scratch


@dataclass(frozen=True, slots=True)
class Gap:
    """A chunk that is not stored, and reads as the array's fill value.

    Attributes
    ----------
    region
        Region of its pixels, along each canonical axis.
    name
        Name of the array, and number of the chunk.
    """

    region: Region
    name: str


class Reader(Protocol):
    """Interface of the jobs to an image or to labels.

    Attributes
    ----------
    shape
        Number of pixels along each canonical axis.
    dtype
        Type of the pixels as they are delivered: native byte order, at least 32 bits for floats.
    edges
        Edges of the chunks along each canonical axis.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    edges: Edges

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the buffer that `read` fills for a region: at least that of the region."""

    def read(self, region: Region, out: np.ndarray) -> Sequence[Gap]:
        """Fill `out`, of the region's layout; what lies beyond the region is undefined.

        Returns
        -------
        The chunks that are missing, if the reader looks for them.
        """

    def stored(self, region: Region) -> np.ndarray | None:
        """Return the stored content of a region that is one chunk in Blosc's format, uint8."""

    def detach(self, region: Region) -> Reader:
        """Return a reader of this region that is cheap to send to another process."""


@runtime_checkable
class RunSource(Protocol):
    """A reader of labels that has their runs, of which several may share a pixel."""

    def runs(self, region: Region, row_stride: int, plane_stride: int) -> RunTable:
        """Return the runs of a region, in planes of these strides."""


@runtime_checkable
class ReaderAhead(Protocol):
    """A reader of pixels that have a way to come."""

    def ahead(self, region: Region) -> None:
        """Have a region fetched, while others are worked on, that `read` will be asked for."""


def delivered(dtype: np.dtype) -> np.dtype:
    """Type in which pixels of a stored type are measured."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f" and dtype.itemsize == 2:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


def lifted(values: tuple[Any, ...], axes: int, single: Any) -> tuple[Any, ...]:
    """Insert `single`, for one pixel of z, if an array has no z axis."""
    return values if len(values) == axes else (*values[:-2], single, *values[-2:])


def _extent(region: Region) -> tuple[int, ...]:
    return tuple(b - a for a, b in region)


class ArrayReader:
    """Reader of a NumPy array, or of anything that slices like one.

    Parameters
    ----------
    array
        Labels in 2D or 3D, or an image in 3D or 4D.
    axes
        Number of canonical axes: 3 for labels, 4 for an image.
    chunks
        Size of the tiles in which it is worked on, along each canonical axis.
    origin
        Place of the array's first pixel in the whole in which regions are counted.
    """

    def __init__(
        self,
        array: np.ndarray,
        axes: int,
        chunks: tuple[int, ...],
        origin: tuple[int, ...] | None = None,
        whole: tuple[int, ...] | None = None,
    ) -> None:
        self._array = array if array.ndim == axes else np.expand_dims(array, -3)
        self._origin = origin or (0,) * axes
        self.shape = whole or self._array.shape
        self.dtype = delivered(array.dtype)
        self._chunks = chunks
        self.edges = regular_edges(self.shape, chunks)

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the region itself."""
        return _extent(region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Gap]:
        """Copy a region; nothing is missing."""
        out[...] = self._array[self._local(region)]
        return ()

    def stored(self, region: Region) -> None:
        """Return None: nothing is encoded here."""

    def detach(self, region: Region) -> ArrayReader:
        """Return a reader of the part of the array that the region covers."""
        part = np.ascontiguousarray(self._array[self._local(region)])
        origin = tuple(a for a, _ in region)
        return ArrayReader(part, part.ndim, self._chunks, origin, self.shape)

    def _local(self, region: Region) -> tuple[slice, ...]:
        return tuple(slice(a - o, b - o) for (a, b), o in zip(region, self._origin, strict=True))


class ChunkReader:
    """Reader of an array on disk or at an address, each chunk decoded once into place."""

    def __init__(self, array: Any, axes: int, strict: bool | None = False) -> None:
        self._array, self._axes, self._strict = array, axes, strict
        stored = stored_in(array)
        owner = owner_of(stored)
        assert owner is not None
        self._files, self._stored_chunks = owner.chunks(stored, strict), stored.chunks
        self._view = array if isinstance(array, AxesView) else None
        self._in_place = self._view is None or self._view.in_place
        self._lifted = array.ndim != axes
        self.shape = lifted(array.shape, axes, 1)
        self._stored = np.dtype(array.dtype).newbyteorder("=")
        self.dtype = delivered(self._stored)
        self._chunks = lifted(array.chunks, axes, 1)
        self.edges = regular_edges(self.shape, self._chunks)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self._array, self._axes, self._strict)

    def layout(self, region: Region) -> tuple[int, ...]:
        """Full shape of a chunk if the region is one chunk, else the region's."""
        return self._chunks if self._is_chunk(region) else _extent(region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Gap]:
        """Decode the chunks that a region touches, straight into `out` if it is one chunk."""
        if self._is_chunk(region) and self._stored == out.dtype:
            return self._decode(covering(region, self._chunks)[0], out)
        gaps: list[Gap] = []
        chunk = scratch("chunk", int(np.prod(self._chunks)), self._stored).reshape(self._chunks)
        for index in covering(region, self._chunks):
            gaps += self._decode(index, chunk)
            inside, outside = [], []
            for i, n, (a, b) in zip(index, self._chunks, region, strict=True):
                first, last = max(a, i * n), min(b, (i + 1) * n)
                inside.append(slice(first - i * n, last - i * n))
                outside.append(slice(first - a, last - a))
            out[tuple(outside)] = chunk[tuple(inside)]
        return gaps

    def stored(self, region: Region) -> np.ndarray | None:
        """Return the chunk's content, if the region is one that `read` decodes in place."""
        in_place = self._in_place and self._is_chunk(region) and self._stored == self.dtype
        if not in_place or not isinstance(self._files, StoredChunks):
            return None
        return self._files.stored(self._place(covering(region, self._chunks)[0]))

    def ahead(self, region: Region) -> None:
        """Have the chunks that a region touches fetched."""
        if isinstance(self._files, ChunksAhead):
            for index in covering(region, self._chunks):
                self._files.ahead(self._place(index))

    def detach(self, region: Region) -> ChunkReader:
        """Return the reader itself: it holds no pixels."""
        return self

    def _is_chunk(self, region: Region) -> bool:
        return all(
            a % n == 0 and b == min(a + n, size)
            for (a, b), n, size in zip(region, self._chunks, self.shape, strict=True)
        )

    def _decode(self, index: tuple[int, ...], out: np.ndarray) -> list[Gap]:
        place = self._place(index)
        if self._read_chunk(place, out):
            return []
        grid = zip(index, self._chunks, self.shape, strict=True)
        return [
            Gap(
                tuple((i * n, min((i + 1) * n, size)) for i, n, size in grid),
                f"{self._files.name}: chunk {place}",
            )
        ]

    def _read_chunk(self, place: tuple[int, ...], out: np.ndarray) -> bool:
        """Decode a chunk into `out`, with the axes of the view."""
        if self._view is None or self._in_place:
            return self._files.read(place, out.reshape(self._stored_chunks))
        shape = self._stored_chunks
        stored = scratch("stored", int(np.prod(shape)), self._stored).reshape(shape)
        there = self._files.read(place, stored)
        kept = set(self._view.order)
        inside = tuple(
            slice(None) if i in kept else slice(at % n, at % n + 1)
            for i, (at, n) in enumerate(zip(self._view.at, shape, strict=True))
        )
        out[...] = self._view.arranged(stored[inside]).reshape(out.shape)
        return there

    def _place(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """Index of a chunk among the stored ones, from that along the canonical axes."""
        own = (*index[:-3], *index[-2:]) if self._lifted else index
        if self._view is None:
            return own
        place = [at // n for at, n in zip(self._view.at, self._stored_chunks, strict=True)]
        for axis, i in zip(self._view.order, own, strict=True):
            if axis is not None:
                place[axis] = i
        return tuple(place)


class ViewReader:
    """Reader of a channel view; a chunk with several of its channels is decoded once for all."""

    def __init__(self, reader: ChunkReader, indices: tuple[int, ...]) -> None:
        self._reader, self._indices = reader, indices
        self.shape = (len(indices), *reader.shape[1:])
        self.dtype = reader.dtype
        source = np.searchsorted(reader.edges[0], indices, side="right")
        changes = np.flatnonzero(np.diff(source)) + 1
        self.edges = ((0, *changes.tolist(), len(indices)), *reader.edges[1:])

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the region's planes in the layout of the reader behind."""
        first, last = region[0]
        return (last - first, *self._reader.layout(self._behind(region))[1:])

    def read(self, region: Region, out: np.ndarray) -> Sequence[Gap]:
        """Decode the chunks behind a group of channels and keep the view's channels."""
        behind = self._behind(region)
        shape = self._reader.layout(behind)
        buffer = scratch("view", int(np.prod(shape)), self.dtype).reshape(shape)
        gaps = self._reader.read(behind, buffer)
        for place, channel in enumerate(self._indices[slice(*region[0])]):
            out[place] = buffer[channel - behind[0][0]]
        return gaps

    def stored(self, region: Region) -> None:
        """Return None: a chunk holds other channels too."""

    def ahead(self, region: Region) -> None:
        """Have the chunks behind a group of channels fetched."""
        self._reader.ahead(self._behind(region))

    def detach(self, region: Region) -> ViewReader:
        """Return the reader itself: it holds no pixels."""
        return self

    def _behind(self, region: Region) -> Region:
        """Region of the chunk along c that holds a group of channels, or of first to last."""
        channels = self._indices[slice(*region[0])]
        edges = self._reader.edges[0]
        first = max(e for e in edges if e <= channels[0])
        last = min(e for e in edges if e > channels[-1])
        return ((first, last), *region[1:])


def is_dask(array: Any) -> bool:
    """Whether an array is a Dask array, without importing Dask."""
    return type(array).__module__.startswith("dask.array")


NUMPY_TILE = 2048
"""Side of the tiles of an unchunked array: one plane of 16-bit pixels is 8 MiB."""


def reader_of(array: Any, axes: int, strict: bool | None = False) -> Reader:
    """Make the reader of an array in memory, on disk or at an address.

    Parameters
    ----------
    array
        Array of a `harpy_core.raster.Raster`; Dask arrays have no reader, their blocks do.
    axes
        Number of canonical axes: 3 for labels, 4 for an image.
    strict
        Make missing chunks of a Zarr array errors; None reports them, False takes them as filled.
    """
    if isinstance(array, PolygonLabels):
        return PolygonReader(array)
    if isinstance(array, LabelView):
        reader: Reader = array.reader(*(reader_of(one, axes, strict) for one in array.arrays))
        return reader
    if isinstance(array, ChannelView):
        return ViewReader(ChunkReader(array.array, axes, strict), array.indices)
    if owner_of(stored_in(array)) is not None:
        return ChunkReader(array, axes, strict)
    values = np.asarray(array)
    chunks = (1,) * (axes - 2) + (NUMPY_TILE, NUMPY_TILE)
    return ArrayReader(values, axes, chunks)
