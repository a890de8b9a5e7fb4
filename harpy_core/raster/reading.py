"""One way to read a region of an image or of labels, whatever kind of array holds it.

Readers speak in canonical axes, (c, z, y, x) for images and (z, y, x) for labels; a missing z is
an axis of one pixel. They can be sent to a worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from harpy_core.raster.chunks import covering
from harpy_core.raster.formats import owner_of
from harpy_core.raster.views import AxesView, ChannelView, stored_in
from harpy_core.tiles.grid import Edges, Region, regular_edges
from harpy_core.tiles.scratch import scratch


@dataclass(frozen=True, slots=True)
class Gap:
    """A chunk that is not stored, and was taken as the array's fill value.

    Attributes
    ----------
    region
        Its pixels, along each canonical axis.
    name
        Which chunk it is, of which array.
    """

    region: Region
    name: str


class Reader(Protocol):
    """What the jobs ask of an image or of labels.

    Attributes
    ----------
    shape
        Pixels along each canonical axis.
    dtype
        Type of the pixels as they are delivered: native byte order, at least 32 bits where float.
    edges
        Along each canonical axis, where chunks begin, and the end of the last.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    edges: Edges

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the buffer that `read` fills for a region: at least the region's own."""

    def read(self, region: Region, out: np.ndarray) -> Sequence[Gap]:
        """Fill `out`, of the region's layout; what lies beyond the region is undefined.

        Returns
        -------
        The chunks that are missing, where the reader looks for them.
        """

    def detach(self, region: Region) -> Reader:
        """A reader of this region that is cheap to send to another process."""


def delivered(dtype: np.dtype) -> np.dtype:
    """The type in which pixels of a stored type are measured."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f" and dtype.itemsize == 2:
        return np.dtype(np.float32)
    return dtype.newbyteorder("=")


def lifted(values: tuple[Any, ...], axes: int, single: Any) -> tuple[Any, ...]:
    """Insert what stands for one pixel of z where an array has no z axis."""
    return values if len(values) == axes else (*values[:-2], single, *values[-2:])


def _extent(region: Region) -> tuple[int, ...]:
    return tuple(b - a for a, b in region)


class ArrayReader:
    """Regions of a NumPy array, or of anything that slices like one.

    Parameters
    ----------
    array
        2D or 3D labels, 3D or 4D image.
    axes
        3 for labels, 4 for an image.
    chunks
        Size of the tiles it is worked on in, along each canonical axis.
    origin
        Where the array lies in the whole that regions are counted in.
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

    def detach(self, region: Region) -> ArrayReader:
        """The part of the array that the region covers."""
        part = np.ascontiguousarray(self._array[self._local(region)])
        origin = tuple(a for a, _ in region)
        return ArrayReader(part, part.ndim, self._chunks, origin, self.shape)

    def _local(self, region: Region) -> tuple[slice, ...]:
        return tuple(slice(a - o, b - o) for (a, b), o in zip(region, self._origin, strict=True))


class ChunkReader:
    """Regions of an array on disk or at an address, each chunk decoded once into place."""

    def __init__(self, array: Any, axes: int, strict: bool | None = False) -> None:
        self._array, self._axes, self._strict = array, axes, strict
        stored = stored_in(array)
        owner = owner_of(stored)
        assert owner is not None
        self._files, self._stored_chunks = owner.chunks(stored, strict), stored.chunks
        self._kept = array.kept if isinstance(array, AxesView) else tuple(range(array.ndim))
        self._lifted = array.ndim != axes
        self.shape = lifted(array.shape, axes, 1)
        self._stored = np.dtype(array.dtype).newbyteorder("=")
        self.dtype = delivered(self._stored)
        self._chunks = lifted(array.chunks, axes, 1)
        self.edges = regular_edges(self.shape, self._chunks)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self._array, self._axes, self._strict)

    def layout(self, region: Region) -> tuple[int, ...]:
        """A chunk's full shape where the region is one chunk, else the region's."""
        return self._chunks if self._is_chunk(region) else _extent(region)

    def read(self, region: Region, out: np.ndarray) -> Sequence[Gap]:
        """Decode the chunks that a region touches, straight into `out` where it is one chunk."""
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

    def detach(self, region: Region) -> ChunkReader:
        """The reader itself: it holds no pixels."""
        return self

    def _is_chunk(self, region: Region) -> bool:
        return all(
            a % n == 0 and b == min(a + n, size)
            for (a, b), n, size in zip(region, self._chunks, self.shape, strict=True)
        )

    def _decode(self, index: tuple[int, ...], out: np.ndarray) -> list[Gap]:
        own = (*index[:-3], *index[-2:]) if self._lifted else index
        place = [0] * len(self._stored_chunks)
        for axis, i in zip(self._kept, own, strict=True):
            place[axis] = i
        if self._files.read(tuple(place), out.reshape(self._stored_chunks)):
            return []
        grid = zip(index, self._chunks, self.shape, strict=True)
        return [
            Gap(
                tuple((i * n, min((i + 1) * n, size)) for i, n, size in grid),
                f"{self._files.name}: chunk {tuple(place)}",
            )
        ]


class ViewReader:
    """Regions of a channel view; a chunk with some of the channels is decoded once for them all."""

    def __init__(self, reader: ChunkReader, indices: tuple[int, ...]) -> None:
        self._reader, self._indices = reader, indices
        self.shape = (len(indices), *reader.shape[1:])
        self.dtype = reader.dtype
        source = np.searchsorted(reader.edges[0], indices, side="right")
        changes = np.flatnonzero(np.diff(source)) + 1
        self.edges = ((0, *changes.tolist(), len(indices)), *reader.edges[1:])

    def layout(self, region: Region) -> tuple[int, ...]:
        """Planes of the region as the reader behind lays them out."""
        first, last = region[0]
        return (last - first, *self._reader.layout(self._behind(region))[1:])

    def read(self, region: Region, out: np.ndarray) -> Sequence[Gap]:
        """Decode the chunks behind a group of channels and keep those of the view."""
        behind = self._behind(region)
        shape = self._reader.layout(behind)
        buffer = scratch("view", int(np.prod(shape)), self.dtype).reshape(shape)
        gaps = self._reader.read(behind, buffer)
        for place, channel in enumerate(self._indices[slice(*region[0])]):
            out[place] = buffer[channel - behind[0][0]]
        return gaps

    def detach(self, region: Region) -> ViewReader:
        """The reader itself: it holds no pixels."""
        return self

    def _behind(self, region: Region) -> Region:
        """The chunk along c that holds a group of channels, or the chunks from first to last."""
        channels = self._indices[slice(*region[0])]
        edges = self._reader.edges[0]
        first = max(e for e in edges if e <= channels[0])
        last = min(e for e in edges if e > channels[-1])
        return ((first, last), *region[1:])


def is_dask(array: Any) -> bool:
    """Whether an array is a Dask array, without importing Dask."""
    return type(array).__module__.startswith("dask.array")


NUMPY_TILE = 2048
"""Tiles that an unchunked array is worked on in: one plane of 16-bit pixels is 8 MiB."""


def reader_of(array: Any, axes: int, strict: bool | None = False) -> Reader:
    """The reader of an array in memory, on disk or at an address.

    Parameters
    ----------
    array
        An array of a `harpy_core.raster.Raster`; Dask arrays have no reader, their blocks do.
    axes
        3 for labels, 4 for an image.
    strict
        Make missing chunks of a Zarr array errors; None tells of them, False takes them as filled.
    """
    if isinstance(array, ChannelView):
        return ViewReader(ChunkReader(array.array, axes, strict), array.indices)
    if owner_of(stored_in(array)) is not None:
        return ChunkReader(array, axes, strict)
    values = np.asarray(array)
    chunks = (1,) * (axes - 2) + (NUMPY_TILE, NUMPY_TILE)
    return ArrayReader(values, axes, chunks)
