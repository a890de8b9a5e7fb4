"""One way to read a region of an image or of labels, whatever kind of array holds it.

Readers speak in canonical axes, (c, z, y, x) for images and (z, y, x) for labels; a missing z is
an axis of one pixel. They can be sent to a worker.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import zarr

from harpy_core.errors import InputError
from harpy_core.raster.chunks import ChunkFiles, covering
from harpy_core.raster.scratch import scratch

Region = tuple[tuple[int, int], ...]
"""First index and end along each canonical axis."""


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
    edges: tuple[tuple[int, ...], ...]

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the buffer that `read` fills for a region: at least the region's own."""

    def read(self, region: Region, out: np.ndarray) -> None:
        """Fill `out`, of the region's layout; what lies beyond the region is undefined."""

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
        self.edges = tuple(
            (*range(0, n, c), n) if n else (0,) for n, c in zip(self.shape, chunks, strict=True)
        )

    def layout(self, region: Region) -> tuple[int, ...]:
        """Shape of the region itself."""
        return _extent(region)

    def read(self, region: Region, out: np.ndarray) -> None:
        """Copy a region."""
        out[...] = self._array[self._local(region)]

    def detach(self, region: Region) -> ArrayReader:
        """The part of the array that the region covers."""
        part = np.ascontiguousarray(self._array[self._local(region)])
        origin = tuple(a for a, _ in region)
        return ArrayReader(part, part.ndim, self._chunks, origin, self.shape)

    def _local(self, region: Region) -> tuple[slice, ...]:
        return tuple(
            slice(a - o, b - o) for (a, b), o in zip(region, self._origin, strict=True)
        )


class ZarrReader:
    """Regions of a Zarr array, each chunk decoded once into place."""

    def __init__(self, array: zarr.Array, axes: int, strict: bool = False) -> None:
        self._array, self._axes, self._strict = array, axes, strict
        self._files = ChunkFiles(array, strict)
        self._lifted = array.ndim != axes
        self.shape = lifted(array.shape, axes, 1)
        self._stored = np.dtype(array.dtype).newbyteorder("=")
        self.dtype = delivered(self._stored)
        self._chunks = lifted(array.chunks, axes, 1)
        self.edges = tuple(
            (*range(0, n, c), n) if n else (0,)
            for n, c in zip(self.shape, self._chunks, strict=True)
        )

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self._array, self._axes, self._strict)

    def layout(self, region: Region) -> tuple[int, ...]:
        """A chunk's full shape where the region is one chunk, else the region's."""
        return self._chunks if self._is_chunk(region) else _extent(region)

    def read(self, region: Region, out: np.ndarray) -> None:
        """Decode the chunks that a region touches, straight into `out` where it is one chunk."""
        if self._is_chunk(region) and self._stored == out.dtype:
            self._files.read(self._index(covering(region, self._chunks)[0]), out)
            return
        chunk = scratch("chunk", int(np.prod(self._chunks)), self._stored).reshape(self._chunks)
        for index in covering(region, self._chunks):
            self._files.read(self._index(index), chunk)
            inside, outside = [], []
            for i, n, (a, b) in zip(index, self._chunks, region, strict=True):
                first, last = max(a, i * n), min(b, (i + 1) * n)
                inside.append(slice(first - i * n, last - i * n))
                outside.append(slice(first - a, last - a))
            out[tuple(outside)] = chunk[tuple(inside)]

    def detach(self, region: Region) -> ZarrReader:
        """The reader itself: it holds no pixels."""
        return self

    def _is_chunk(self, region: Region) -> bool:
        return all(
            a % n == 0 and b == min(a + n, size)
            for (a, b), n, size in zip(region, self._chunks, self.shape, strict=True)
        )

    def _index(self, index: tuple[int, ...]) -> tuple[int, ...]:
        return (*index[:-3], *index[-2:]) if self._lifted else index


def is_dask(array: Any) -> bool:
    """Whether an array is a Dask array, without importing Dask."""
    return type(array).__module__.startswith("dask.array")


def unwrapped(array: Any) -> Any:
    """The array inside an xarray.DataArray, or the array itself."""
    return array.data if type(array).__module__.startswith("xarray") else array


def check_arrays(image: Any | None, labels: Any) -> None:
    """Refuse arrays that cannot be an image and its labels.

    Raises
    ------
    InputError
        Wrong number of axes, labels that are not integers, pixels that are not numbers, shapes
        that do not match.
    """
    if labels.ndim not in (2, 3):
        raise InputError(
            f"labels have {labels.ndim} axes, shape {tuple(labels.shape)}: "
            "give (y, x) or (z, y, x)"
        )
    if np.dtype(labels.dtype).kind not in "iu":
        raise InputError(
            f"labels are {np.dtype(labels.dtype)}: give integers, e.g. labels.astype('uint32')"
        )
    if image is None:
        return
    if image.ndim not in (3, 4):
        raise InputError(
            f"image has {image.ndim} axes, shape {tuple(image.shape)}: "
            "give (c, y, x) or (c, z, y, x)"
        )
    if np.dtype(image.dtype).kind not in "biuf" or np.dtype(image.dtype).itemsize > 8:
        raise InputError(
            f"image pixels are {np.dtype(image.dtype)}: give integers or floats of at most 64 bits"
        )
    if lifted(tuple(image.shape[1:]), 3, 1) != lifted(tuple(labels.shape), 3, 1):
        raise InputError(
            f"image {tuple(image.shape)} and labels {tuple(labels.shape)} do not cover the same "
            "pixels: give labels of the image's shape without its channels"
        )


NUMPY_TILE = 2048
"""Tiles that an unchunked array is worked on in: one plane of 16-bit pixels is 8 MiB."""


def reader_of(array: Any, axes: int, strict: bool = False) -> Reader:
    """The reader of a NumPy or Zarr array.

    Parameters
    ----------
    array
        What `unwrapped` returned; Dask arrays have no reader, their blocks do.
    axes
        3 for labels, 4 for an image.
    strict
        Make missing chunks of a Zarr array errors.
    """
    if isinstance(array, zarr.Array):
        return ZarrReader(array, axes, strict)
    values = np.asarray(array)
    chunks = (1,) * (axes - 2) + (NUMPY_TILE, NUMPY_TILE)
    return ArrayReader(values, axes, chunks)
