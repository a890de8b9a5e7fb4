"""Repeat an image and its labels to any size, file by file.

A chunk file whose pixels stand in the source, or in another file of the result, is not encoded
again: it is that file under a second name (`method` ``"link"``) or a copy of it (``"copy"``).
Files are whole when they have their names, in a working folder that is named after the inputs and
parameters; so a run that died goes on where it stopped.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from harpy_core.config import Codec
from harpy_core.errors import InputError
from harpy_core.manifest import digest_of, replace_folder, sole_writer
from harpy_core.progress import Bar, track
from harpy_core.provenance import source_digest
from harpy_core.raster import codecs, shards, spatialdata_store
from harpy_core.raster.fingerprints import fingerprint
from harpy_core.raster.linking import (
    Index,
    Method,
    Way,
    chunk_file,
    first_alike,
    link_encoding,
    repeat_file,
)
from harpy_core.raster.opening import Raster
from harpy_core.raster.reading import reader_of
from harpy_core.raster.repeating import Region, Repeated
from harpy_core.raster.scratch import scratch
from harpy_core.schedule import in_order, threads_of
from harpy_core.writing import write_flushed

logger = logging.getLogger(__name__)

IN_MEMORY = 2**30
"""Bytes: a smaller source is decoded once, and kept."""
HELD = 2**28
"""Bytes of a larger source that a thread holds, for files that are made of the same chunks."""
AT_WORK = 2
"""Files worked on for each core: one is encoded while another is on its way to the disk."""
LARGEST_CHUNK = 2**31 - 1
"""Bytes that a codec takes."""

_STORE = "store"
_PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class Tiled:
    """How the chunk files of a tiled store came about.

    Attributes
    ----------
    encoded
        Written from pixels.
    linked, cloned, copied
        Made from a file that holds the same: as its second name, sharing its blocks, or copied.
    kept
        There already from a run that died.
    """

    encoded: int = 0
    linked: int = 0
    cloned: int = 0
    copied: int = 0
    kept: int = 0

    def __str__(self) -> str:
        ways = {
            "encoded": self.encoded,
            "linked": self.linked,
            "cloned (they share blocks)": self.cloned,
            "copied": self.copied,
            "kept from a run that died": self.kept,
        }
        told = [f"{count:,} {way}" for way, count in ways.items() if count]
        return f"chunk files: {', '.join(told) or 'none'}"


@dataclass(frozen=True, slots=True)
class _Part:
    """An image or labels to repeat, and how the larger array is stored.

    Attributes
    ----------
    pixels
        What is repeated.
    kind
        ``images`` or ``labels``.
    name
        Of the element.
    dtype
        Of the result.
    chunks
        Along each axis.
    unit
        Pixels of one file along each axis.
    codec
        What files are encoded with.
    origin
        The array whose files stand in the result as they are; None where they cannot.
    encoding
        What zarr is told.
    """

    pixels: Repeated
    kind: str
    name: str
    dtype: np.dtype
    chunks: Index
    unit: Index
    codec: Codec
    origin: zarr.Array | None
    encoding: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> Iterator[Index]:
        """Numbers of the files of the result."""
        counts = (-(-n // u) for n, u in zip(self.pixels.shape, self.unit, strict=True))
        return product(*map(range, counts))

    def alike(self, index: Index) -> Index:
        """The first file that holds the same as another."""
        if self.pixels.step:
            return index
        return first_alike(index, self.unit, self.pixels.source.shape)

    def region(self, index: Index) -> Region:
        """Pixels of a file, as far as the array goes."""
        return tuple(
            slice(i * u, min((i + 1) * u, n))
            for i, u, n in zip(index, self.unit, self.pixels.shape, strict=True)
        )

    def path(self, store: Path, index: Index) -> Path:
        """Where a file is, below its store."""
        return store.joinpath(self.kind, self.name, "s0", "c", *map(str, index))

    def origin_file(self, index: Index) -> Path:
        """The source's file that holds the same."""
        assert self.origin is not None
        places = zip(index, self.unit, self.origin.shape, strict=True)
        return chunk_file(self.origin, tuple(i * u % n // u for i, u, n in places))

    def pixel_count(self, index: Index) -> int:
        """Pixels of a file, as far as the array goes."""
        return math.prod(axis.stop - axis.start for axis in self.region(index))


def tile_raster(
    raster: Raster,
    path: str | os.PathLike[str],
    shape: tuple[int, int, int],
    chunks: tuple[int, int, int] | None = None,
    method: Method = "link",
    *,
    codec: Codec | None = None,
    shard: tuple[int, int, int] | None = None,
    progress: bool = False,
    threads: int | None = None,
) -> Tiled:
    """Repeat an image and its labels along c, y and x to exactly a target size.

    Parameters
    ----------
    raster
        What to repeat. A z axis is kept as it is.
    path
        SpatialData store to make, with elements ``image`` and ``labels``. It appears whole or not
        at all; what a run that died has finished is kept beside it for the next one.
    shape
        Target (c, y, x) in channels and pixels. The last repeat is cropped; instances it cuts keep
        what is left of them.
    chunks
        Chunk size along c, y and x; the source's without.
    method
        How chunk files that hold the same come about: ``"link"`` gives one file several names
        (where the file system cannot: clones, else copies, with a warning), ``"copy"`` makes a file
        for each.
    codec
        ``lz4``, ``zstd`` or ``none``; without, the source's files are taken as they are where they
        fit, and others are written with LZ4 (an image) or Zstandard (labels).
    shard
        Size of a file along c, y and x, in multiples of the chunks; without, each chunk is a file.
    progress
        Show a bar on a terminal.
    threads
        Cores to use; all without. For each, two files are worked on at a time, and in memory: their
        pixels, encoded and not, and what they are made of.

    Returns
    -------
    How the chunk files came about.

    Notes
    -----
    Repeat k of channel ``CD3`` is named ``CD3_k``, the first keeps its name. Repeats along y and x
    are counted row by row, and a label of repeat k is the source's plus k times its largest, so
    every repeat has labels of its own; their type grows where it must. Repeats along c share them.

    Raises
    ------
    InputError
        Sizes that are not positive, labels that do not fit 64 bits or are negative, nothing to
        link, a disk that is too small, or another run at work on the same path.
    """
    _check_sizes(shape, chunks, shard, method)
    threads = AT_WORK * (threads or threads_of(None))
    target = Path(path)
    with sole_writer(target):
        image = _image_part(raster, shape, chunks, codec, shard, threads)
        if method == "link":
            _check_linkable(image)
        labels = _labels_part(raster.labels, shape, chunks, codec, shard, threads)
        names = repeated_names(raster.channels, shape[0])
        found = fingerprint(raster.image, raster.labels)
        asked = [shape, chunks, method, codec, shard]
        key = digest_of([found, names, asked, source_digest(__name__)])[:16]
        work = _begin(target.with_name(f".{target.name}.partial-{key}"), image, labels, names)
        ways: Counter[str] = Counter()
        total = sum(math.prod(part.pixels.shape) for part in (image, labels))
        with track(total, "tile", enabled=progress) as bar:
            for part in (image, labels):
                ways += _make(part, work, method, threads, bar)
        replace_folder(work / _STORE, target)
        for left in target.parent.glob(f".{target.name}.partial-*"):
            shutil.rmtree(left, ignore_errors=True)
    if method == "link" and (ways["cloned"] or ways["copied"]):
        logger.warning(
            "%s: %d of %d chunk files could not be linked: %d share blocks, %d were copied; "
            "put source and result on one file system to save that space",
            target,
            ways["cloned"] + ways["copied"],
            ways.total(),
            ways["cloned"],
            ways["copied"],
        )
    ways.pop("absent", None)
    return Tiled(**ways)


def repeated_names(names: Sequence[str], count: int) -> list[str]:
    """Unique names for `count` channels made by repeating some.

    Parameters
    ----------
    names
        Unique names of the channels that are repeated.
    count
        Channels in all.

    Returns
    -------
    The names, then the names with ``_1``, then with ``_2``; more underscores where such a name is
    taken already.
    """
    joint = "_"
    while True:
        found = [
            name if k == 0 else f"{name}{joint}{k}"
            for k in range(-(-count // len(names)))
            for name in names
        ][:count]
        if len(set(found)) == count:
            return found
        joint += "_"


def _check_sizes(
    shape: Sequence[int],
    chunks: Sequence[int] | None,
    shard: Sequence[int] | None,
    method: str,
) -> None:
    for name, sizes in (("shape", shape), ("chunks", chunks), ("shard", shard)):
        if sizes is not None and (len(sizes) != 3 or min(sizes) < 1):
            raise InputError(f"tile: {name} {tuple(sizes)}: give positive sizes along c, y and x")
    if method not in ("link", "copy"):
        raise InputError(f"tile: method {method!r}: choose link or copy")
    if shard is not None and (
        chunks is None or any(s % c for s, c in zip(shard, chunks, strict=True))
    ):
        raise InputError(
            f"tile: shard {tuple(shard)} with chunks {chunks}: give multiples of the chunks"
        )


# What goes where --------------------------------------------------------------------------------


def _image_part(
    raster: Raster,
    shape: Sequence[int],
    chunks: Sequence[int] | None,
    codec: Codec | None,
    shard: Sequence[int] | None,
    threads: int,
) -> _Part:
    source = raster.image
    whole = (shape[0], *source.shape[1:-2], *shape[1:])
    size = _chunks(chunks, source, whole)
    linked = link_encoding(source, size, whole) if codec is None and shard is None else None
    if linked is not None:
        return _of_source(source, whole, "images", linked)
    codec = codec or "lz4"
    dtype = _native(source)
    pixels = Repeated(_readable(source, threads), whole)
    return _encoded_part(pixels, "images", dtype, size, _files(size, chunks, shard, whole), codec)


def _labels_part(
    source: Any,
    shape: Sequence[int],
    chunks: Sequence[int] | None,
    codec: Codec | None,
    shard: Sequence[int] | None,
    threads: int,
) -> _Part:
    """The labels, with a type that holds those of all repeats."""
    whole = (*source.shape[:-2], *shape[1:])
    wanted = None if chunks is None else chunks[1:]
    size = _chunks(wanted, source, whole)
    repeats = math.prod(-(-n // s) for n, s in zip(whole[-2:], source.shape[-2:], strict=True))
    if repeats == 1 and codec is None and shard is None:
        linked = link_encoding(source, size, whole)
        if linked is not None:
            return _of_source(source, whole, "labels", linked)
    pixels = _readable(source, threads)
    step = 0 if repeats == 1 else _largest(pixels, tuple(source.chunks), threads)
    dtype = _label_type(_native(source), step, repeats)
    unit = _files(size, wanted, None if shard is None else shard[1:], whole)
    repeated = Repeated(pixels, whole, step)
    return _encoded_part(repeated, "labels", dtype, size, unit, codec or "zstd")


def _of_source(source: zarr.Array, whole: Index, kind: str, encoding: dict[str, Any]) -> _Part:
    """An array whose files are the source's."""
    return _Part(
        pixels=Repeated(source, whole),
        kind=kind,
        name=_NAMES[kind],
        dtype=_native(source),
        chunks=tuple(source.chunks),
        unit=tuple(source.shards or source.chunks),
        codec="none",
        origin=source,
        encoding=encoding,
    )


def _encoded_part(
    pixels: Repeated, kind: str, dtype: np.dtype, chunks: Index, unit: Index, codec: Codec
) -> _Part:
    if math.prod(chunks) * dtype.itemsize > LARGEST_CHUNK:
        raise InputError(
            f"tile: chunks {chunks}: {math.prod(chunks) * dtype.itemsize:,} bytes, and codecs take "
            f"at most {LARGEST_CHUNK:,}: give smaller chunks"
        )
    encoding = {
        "compressors": codecs.compressors(codec, dtype, _CONTENT[kind]),
        "shards": None if unit == chunks else unit,
    }
    return _Part(pixels, kind, _NAMES[kind], dtype, chunks, unit, codec, None, encoding)


_NAMES = {"images": "image", "labels": "labels"}
_CONTENT: dict[str, codecs.Content] = {"images": "image", "labels": "labels"}


def _native(array: Any) -> np.dtype:
    return np.dtype(array.dtype).newbyteorder("=")


def _readable(array: Any, threads: int) -> Any:
    """The array itself, or its values where they are few."""
    if math.prod(array.shape) * np.dtype(array.dtype).itemsize > IN_MEMORY:
        return array
    values = np.empty(array.shape, _native(array))
    reader = reader_of(array, array.ndim)

    def read(region: Region) -> None:
        asked = tuple((axis.start, axis.stop) for axis in region)
        layout = reader.layout(asked)
        decoded = scratch("tile", math.prod(layout), reader.dtype).reshape(layout)
        reader.read(asked, decoded)
        values[region] = decoded[tuple(slice(b - a) for a, b in asked)]

    for _ in in_order(read, _regions(array.shape, array.chunks), threads=threads):
        pass
    return values


def _regions(shape: Index, size: Index) -> Iterator[Region]:
    """The chunks of an array."""
    for corner in product(*(range(0, n, s) for n, s in zip(shape, size, strict=True))):
        yield tuple(slice(a, min(a + s, n)) for a, s, n in zip(corner, size, shape, strict=True))


def _chunks(wanted: Sequence[int] | None, source: Any, shape: Index) -> Index:
    """Chunks along all axes; longer than the axis only where the source's are, to be linked."""
    own = tuple(source.chunks)
    if wanted is not None:
        wanted = (*wanted[:-2], *own[len(wanted) - 2 : -2], *wanted[-2:])
    return tuple(
        w if w == o else min(w, n) for w, o, n in zip(wanted or own, own, shape, strict=True)
    )


def _files(
    chunks: Index, wanted: Sequence[int] | None, shard: Sequence[int] | None, shape: Index
) -> Index:
    """Pixels of a file along all axes: so many chunks as a shard has, but none past the end."""
    if shard is None or wanted is None:
        return chunks
    counts = [s // w for s, w in zip(shard, wanted, strict=True)]
    counts = [*counts[:-2], *(1 for _ in chunks[len(counts) :]), *counts[-2:]]
    return tuple(
        min(count, -(-n // c)) * c for count, n, c in zip(counts, shape, chunks, strict=True)
    )


def _check_linkable(part: _Part) -> None:
    if part.origin is None and all(part.alike(index) == index for index in part.files):
        source = part.pixels.source
        raise InputError(
            f"tile: method link with chunks {part.chunks}: no chunk is equal to another or to a "
            f"file of the source (shape {tuple(source.shape)}); use method: copy"
        )


def _largest(pixels: Any, chunks: Index, threads: int) -> int:
    """Largest label, read chunk by chunk."""

    def extremes(region: Region) -> tuple[int, int]:
        values = pixels[region]
        return int(values.min()), int(values.max())

    largest = 0
    for low, high in in_order(extremes, _regions(pixels.shape, chunks), threads=threads):
        if low < 0:
            raise InputError(f"tile: labels hold {low}: make them 0 (background) or positive")
        largest = max(largest, high)
    return largest


def _label_type(dtype: np.dtype, step: int, repeats: int) -> np.dtype:
    """The source's type, or the smallest unsigned one that holds the labels of all repeats."""
    for candidate in (dtype, np.dtype(np.uint32), np.dtype(np.uint64)):
        if step * repeats <= np.iinfo(candidate).max:
            return candidate
    raise InputError(
        f"tile: {repeats} repeats of labels up to {step} do not fit 64 bits: "
        "number the labels from 1 on, or tile to a smaller y and x"
    )


# Making it --------------------------------------------------------------------------------------


def _begin(work: Path, image: _Part, labels: _Part, names: list[str]) -> Path:
    """The working folder, with all metadata; what it holds of an earlier run stays."""
    partial = work / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if not (work / _STORE).exists():
        root = spatialdata_store.create(partial / _STORE)
        spatialdata_store.create_image(
            root, image.name, image.pixels.shape, image.chunks, image.dtype, names, **image.encoding
        )
        spatialdata_store.create_labels(
            root, labels.name, labels.pixels.shape, labels.chunks, labels.dtype, **labels.encoding
        )
        spatialdata_store.consolidate(root)
        os.replace(partial / _STORE, work / _STORE)
    return work


def _make(part: _Part, work: Path, method: Method, threads: int, bar: Bar) -> Counter[str]:
    """Encode the files that are like no other, then make the others from them."""
    store, ways = work / _STORE, Counter[str]()
    missing = [index for index in part.files if not part.path(store, index).exists()]
    if part.origin is None:
        distinct = set(map(part.alike, part.files))
        encoded = [index for index in missing if index in distinct]
        write = _Writer(part, work)
        for files in in_order(write, _blocks(part, encoded), threads=threads):
            ways["encoded"] += files
            bar.advance(files * math.prod(part.unit))
        missing = [index for index in missing if index not in distinct]
        origins = {index: part.path(store, part.alike(index)) for index in missing}
    else:
        origins = {index: part.origin_file(index) for index in missing}
    if method == "copy":
        _check_room(work, origins.values())

    def repeat(index: Index) -> tuple[int, Way]:
        new = part.path(store, index)
        with _room_for(new):
            new.parent.mkdir(parents=True, exist_ok=True)
            way = repeat_file(origins[index], new, method, _temporary(work))
        return part.pixel_count(index), way

    for pixels, way in in_order(repeat, origins, threads=threads):
        ways[way] += 1
        bar.advance(pixels)
    ways["kept"] = sum(1 for _ in part.files) - ways.total()
    return ways


def _blocks(part: _Part, files: Iterable[Index]) -> list[list[Index]]:
    """Files that are written together, as they are made of the same chunks of the source.

    Otherwise a large source chunk would be decoded for each of the many files it goes into.
    """
    source = part.pixels.source
    counts = [1] * len(part.unit)
    if not isinstance(source, np.ndarray):
        counts = [-(-c // u) for c, u in zip(source.chunks, part.unit, strict=True)]
        sizes = (c * u for c, u in zip(counts, part.unit, strict=True))
        read = math.prod(min(n, size) for n, size in zip(source.shape, sizes, strict=True))
        if read * part.dtype.itemsize > HELD:
            counts = [1] * len(part.unit)
    blocks: dict[Index, list[Index]] = {}
    for index in files:
        block = tuple(i // n for i, n in zip(index, counts, strict=True))
        blocks.setdefault(block, []).append(index)
    return list(blocks.values())


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes files from pixels, a block at a time."""

    part: _Part
    work: Path

    def __call__(self, files: list[Index]) -> int:
        """Write the files of one block; how many there were."""
        part = self.part
        regions = [part.region(index) for index in files]
        held = part.pixels.held(_around(regions))
        for index, region in zip(files, regions, strict=True):
            values = scratch("tile", math.prod(part.unit), part.dtype).reshape(part.unit)
            inside = values[tuple(slice(axis.stop - axis.start) for axis in region)]
            if inside.shape != values.shape:
                values[...] = 0
            held.fill(inside, region)
            pieces = self._encoded(values)
            if pieces:
                self._commit(part.path(self.work / _STORE, index), pieces)
        return len(files)

    def _encoded(self, values: np.ndarray) -> list[shards.Piece]:
        """The content of a file; nothing where it is all background, which Zarr does not store."""
        part = self.part
        content = _CONTENT[part.kind]
        chunks = [
            codecs.encode(part.codec, np.ascontiguousarray(chunk), content)
            if _holds_something(chunk)
            else None
            for chunk in _split(values, part.chunks)
        ]
        if not any(chunks):
            return []
        return list(shards.packed(chunks)) if part.unit != part.chunks else [chunks[0]]

    def _commit(self, path: Path, pieces: Iterable[shards.Piece]) -> None:
        """Give the file its name when it is whole and on disk."""
        temporary = _temporary(self.work)
        with _room_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_flushed(temporary, [piece for piece in pieces if piece])
            os.replace(temporary, path)


def _around(regions: Sequence[Region]) -> Region:
    """The smallest region that holds some."""
    return tuple(
        slice(min(axis.start for axis in axes), max(axis.stop for axis in axes))
        for axes in zip(*regions, strict=True)
    )


def _split(values: np.ndarray, chunks: Index) -> Iterator[np.ndarray]:
    """The chunks of a file, in the order of a shard's index."""
    starts = (range(0, n, c) for n, c in zip(values.shape, chunks, strict=True))
    for corner in product(*starts):
        yield values[tuple(slice(a, a + c) for a, c in zip(corner, chunks, strict=True))]


def _holds_something(values: np.ndarray) -> bool:
    """Whether a bit is set; most of what is not empty shows it in a few pixels."""
    some = values[..., :: max(values.shape[-1] // 16, 1)]
    return bool(some.any()) or bool(np.ascontiguousarray(values).view(np.uint8).any())


def _temporary(work: Path) -> Path:
    return work / _PARTIAL / f"{os.getpid()}-{threading.get_ident()}"


def _check_room(work: Path, origins: Iterable[Path]) -> None:
    """Refuse to begin copies that the disk cannot hold."""
    sizes: Counter[Path] = Counter(origins)
    needed = sum(n * path.stat().st_size for path, n in sizes.items() if path.exists())
    free = shutil.disk_usage(work).free
    if needed > free:
        raise InputError(
            f"{work.parent}: the tiled store takes {needed / 1e9:.1f} GB more, {free / 1e9:.1f} GB "
            "are free: free some and run again, what is written stays; or use method: link"
        )


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """Tell a full disk in one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{path}: cannot be written ({error.strerror}): free some space and run again, "
            "what is written stays"
        ) from error
