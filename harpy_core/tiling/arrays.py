"""The arrays that tiling writes: their chunks, files and types, and the origin of each file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from harpy_core.config.crops import Codec
from harpy_core.config.models import TILED_IMAGE
from harpy_core.errors import InputError
from harpy_core.raster.formats.format import ReusableFiles
from harpy_core.raster.raster import Raster
from harpy_core.running.schedule import in_order
from harpy_core.storage import codecs
from harpy_core.tiling.linking import Index, first_alike, linkable
from harpy_core.tiling.repeating import Box, Repeated, chunk_boxes, decoded_where_small, native

LARGEST_CHUNK = 2**31 - 1
"""Bytes that a codec takes at most."""

_CONTENT: dict[str, codecs.Content] = {"images": "image", "labels": "labels"}


@dataclass(frozen=True, slots=True)
class TiledArray:
    """An image or labels to repeat, and the storage of the larger array.

    Attributes
    ----------
    pixels
        Repeated pixels.
    kind
        ``images`` or ``labels``.
    name
        Name of the element.
    dtype
        Type of the result.
    chunks
        Chunk size along each axis.
    unit
        Pixels of one file along each axis.
    codec
        Codec of the files.
    origin
        Files of the source that are used in the result as they are; None where they cannot be.
    encoding
        Arguments for zarr.
    """

    pixels: Repeated
    kind: str
    name: str
    dtype: np.dtype
    chunks: Index
    unit: Index
    codec: Codec
    origin: ReusableFiles | None
    encoding: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> codecs.Content:
        """Kind of content, for the codec."""
        return _CONTENT[self.kind]

    @property
    def files(self) -> Iterator[Index]:
        """Yield the numbers of the files of the result."""
        counts = (-(-n // u) for n, u in zip(self.pixels.shape, self.unit, strict=True))
        return product(*map(range, counts))

    def alike(self, index: Index) -> Index:
        """Return the first file of the same content as another."""
        if self.pixels.step:
            return index
        return first_alike(index, self.unit, self.pixels.source.shape)

    def region(self, index: Index) -> Box:
        """Box of a file's pixels, clipped to the array."""
        return tuple(
            slice(i * u, min((i + 1) * u, n))
            for i, u, n in zip(index, self.unit, self.pixels.shape, strict=True)
        )

    def path(self, store: Path, index: Index) -> Path:
        """Path of a file, below its store."""
        return store.joinpath(self.kind, self.name, "s0", "c", *map(str, index))

    def origin_file(self, index: Index) -> Path:
        """Path of the source's file of the same content."""
        assert self.origin is not None
        places = zip(index, self.unit, self.pixels.source.shape, strict=True)
        return self.origin.path(tuple(i * u % n // u for i, u, n in places))

    def pixel_count(self, index: Index) -> int:
        """Number of a file's pixels inside the array."""
        return math.prod(axis.stop - axis.start for axis in self.region(index))


def tiled_image(
    raster: Raster,
    shape: Sequence[int],
    chunks: Sequence[int] | None,
    codec: Codec | None,
    shard: Sequence[int] | None,
    threads: int,
) -> TiledArray:
    """Make the image's array from the arguments of `tile_raster`."""
    source = raster.image
    whole = (shape[0], *source.shape[1:-2], *shape[1:])
    size = _chunks(chunks, source, whole)
    linked = linkable(source, size, whole) if codec is None and shard is None else None
    if linked is not None:
        return _of_source(source, whole, "images", TILED_IMAGE, linked)
    codec = codec or "lz4"
    dtype = native(source)
    pixels = Repeated(decoded_where_small(source, threads), whole)
    unit = _files(size, chunks, shard, whole)
    return _encoded_array(pixels, "images", TILED_IMAGE, dtype, size, unit, codec)


def tiled_labels(
    name: str,
    source: Any,
    shape: Sequence[int],
    chunks: Sequence[int] | None,
    codec: Codec | None,
    shard: Sequence[int] | None,
    threads: int,
) -> TiledArray:
    """Make an array of labels from the arguments of `tile_raster`; its type fits all repeats."""
    whole = (*source.shape[:-2], *shape[1:])
    wanted = None if chunks is None else chunks[1:]
    size = _chunks(wanted, source, whole)
    repeats = math.prod(-(-n // s) for n, s in zip(whole[-2:], source.shape[-2:], strict=True))
    if repeats == 1 and codec is None and shard is None:
        linked = linkable(source, size, whole)
        if linked is not None:
            return _of_source(source, whole, "labels", name, linked)
    pixels = decoded_where_small(source, threads)
    step = 0 if repeats == 1 else _largest(pixels, tuple(source.chunks), threads)
    dtype = _label_type(native(source), step, repeats)
    unit = _files(size, wanted, None if shard is None else shard[1:], whole)
    repeated = Repeated(pixels, whole, step)
    return _encoded_array(repeated, "labels", name, dtype, size, unit, codec or "zstd")


def _of_source(source: Any, whole: Index, kind: str, name: str, files: ReusableFiles) -> TiledArray:
    """Make an array whose files are the source's."""
    return TiledArray(
        pixels=Repeated(source, whole),
        kind=kind,
        name=name,
        dtype=native(source),
        chunks=tuple(source.chunks),
        unit=files.unit,
        codec="none",
        origin=files,
        encoding=files.encoding,
    )


def _encoded_array(
    pixels: Repeated,
    kind: str,
    name: str,
    dtype: np.dtype,
    chunks: Index,
    unit: Index,
    codec: Codec,
) -> TiledArray:
    if math.prod(chunks) * dtype.itemsize > LARGEST_CHUNK:
        raise InputError(
            f"tile: chunks {chunks}: {math.prod(chunks) * dtype.itemsize:,} bytes, and codecs take "
            f"at most {LARGEST_CHUNK:,}: give smaller chunks"
        )
    encoding = {
        "compressors": codecs.compressors(codec, dtype, _CONTENT[kind]),
        "shards": None if unit == chunks else unit,
    }
    return TiledArray(pixels, kind, name, dtype, chunks, unit, codec, None, encoding)


def _chunks(wanted: Sequence[int] | None, source: Any, shape: Index) -> Index:
    """Chunks along all axes; longer than an axis only if the source's are, to be linked."""
    own = tuple(source.chunks)
    if wanted is not None:
        wanted = (*wanted[:-2], *own[len(wanted) - 2 : -2], *wanted[-2:])
    return tuple(
        w if w == o else min(w, n) for w, o, n in zip(wanted or own, own, shape, strict=True)
    )


def _files(
    chunks: Index, wanted: Sequence[int] | None, shard: Sequence[int] | None, shape: Index
) -> Index:
    """Pixels of a file along all axes: as many chunks as a shard has, but none past the end."""
    if shard is None or wanted is None:
        return chunks
    counts = [s // w for s, w in zip(shard, wanted, strict=True)]
    counts = [*counts[:-2], *(1 for _ in chunks[len(counts) :]), *counts[-2:]]
    return tuple(
        min(count, -(-n // c)) * c for count, n, c in zip(counts, shape, chunks, strict=True)
    )


def check_linkable(array: TiledArray) -> None:
    """Refuse linking that would encode every file.

    Raises
    ------
    InputError
        No chunk is equal to another, or to a file of the source.
    """
    if array.origin is None and all(array.alike(index) == index for index in array.files):
        source = array.pixels.source
        raise InputError(
            f"tile: method link with chunks {array.chunks}: no chunk is equal to another or to a "
            f"file of the source (shape {tuple(source.shape)}); use method: copy"
        )


def _largest(pixels: Any, chunks: Index, threads: int) -> int:
    """Find the largest label, chunk by chunk."""

    def extremes(region: Box) -> tuple[int, int]:
        values = pixels[region]
        return int(values.min()), int(values.max())

    largest = 0
    for low, high in in_order(extremes, chunk_boxes(pixels.shape, chunks), threads=threads):
        if low < 0:
            raise InputError(f"tile: labels hold {low}: make them 0 (background) or positive")
        largest = max(largest, high)
    return largest


def _label_type(dtype: np.dtype, step: int, repeats: int) -> np.dtype:
    """Return the source's type, or the smallest unsigned one that fits all repeats' labels."""
    for candidate in (dtype, np.dtype(np.uint32), np.dtype(np.uint64)):
        if step * repeats <= np.iinfo(candidate).max:
            return candidate
    raise InputError(
        f"tile: {repeats} repeats of labels up to {step} do not fit 64 bits: "
        "number the labels from 1 on, or tile to a smaller y and x"
    )
