"""Repeat an image and its labels to any size, chunk by chunk.

Chunks with equal content need be stored once: where `method` is ``"link"``, they are hard links to
the source's chunk files, or to the first such chunk of the result.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numcodecs
import numpy as np
import zarr
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec
from zarr.core.metadata.v2 import ArrayV2Metadata
from zarr.storage import LocalStore

from harpy_core.errors import InputError
from harpy_core.manifest import staging
from harpy_core.progress import Bar, track
from harpy_core.raster import spatialdata_store
from harpy_core.raster.opening import Raster
from harpy_core.raster.scratch import scratch

logger = logging.getLogger(__name__)

Index = tuple[int, ...]
Region = tuple[slice, ...]
Item = TypeVar("Item")
Result = TypeVar("Result")

IN_MEMORY = 256 * 2**20
"""Bytes: a smaller source is decoded once; blocks of several chunks grow no larger."""

_SHUFFLES: dict[int, Literal["noshuffle", "shuffle", "bitshuffle"]] = {
    0: "noshuffle",
    1: "shuffle",
    2: "bitshuffle",
}
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True)
class _Part:
    """An image or labels to repeat, and the larger array they fill.

    Attributes
    ----------
    source
        What regions are read from.
    target
        The array to fill.
    step
        Labels only: what is added for each repeat; 0 leaves values as they are.
    shared
        Equal files of the target are one.
    linked
        The source's files stand in the target as they are.
    """

    source: Any
    target: zarr.Array
    step: int = 0
    shared: bool = False
    linked: bool = False

    @property
    def unit(self) -> Index:
        """Pixels of one file of the target along each axis."""
        return tuple(self.target.shards or self.target.chunks)

    @property
    def files(self) -> Iterator[Index]:
        """Indices of the target's files."""
        counts = (-(-n // u) for n, u in zip(self.target.shape, self.unit, strict=True))
        return product(*map(range, counts))


def tile_raster(
    raster: Raster,
    path: str | os.PathLike[str],
    shape: tuple[int, int, int],
    chunks: tuple[int, int, int] | None = None,
    method: Literal["link", "copy"] = "link",
    progress: bool = False,
    threads: int | None = None,
) -> None:
    """Repeat an image and its labels along c, y and x to exactly a target size.

    Parameters
    ----------
    raster
        What to repeat. A z axis is kept as it is.
    path
        SpatialData store to make, with elements ``image`` and ``labels``. It appears whole or not
        at all.
    shape
        Target (c, y, x) in channels and pixels. The last repeat is cropped; instances it cuts keep
        what is left of them.
    chunks
        Chunk size along c, y and x; the source's without.
    method
        ``"link"`` stores equal chunks once, as hard links; ``"copy"`` writes every chunk, and is
        the only way where nothing can be shared.
    progress
        Show a bar on a terminal.
    threads
        Chunks worked on at the same time; one for each core without.

    Notes
    -----
    Repeat k of channel ``CD3`` is named ``CD3_k``, the first keeps its name. Repeats along y and x
    are counted row by row, and a label of repeat k is the source's plus k times its largest, so
    every repeat has labels of its own; their type grows where it must. Repeats along c share them.

    Raises
    ------
    InputError
        Sizes that are not positive, labels that do not fit 64 bits or are negative, or nothing to
        link.
    """
    _check_sizes(shape, chunks, method)
    workers = threads or len(os.sched_getaffinity(0))
    with staging(path) as folder, ThreadPoolExecutor(workers) as pool:
        root = spatialdata_store.create(folder)
        parts = (
            _image_part(root, raster, shape, chunks, method),
            _labels_part(pool, root, raster.labels, shape, chunks, method),
        )
        spatialdata_store.consolidate(root)
        total = sum(math.prod(part.target.shape) for part in parts)
        with track(total, "tile", enabled=progress) as bar:
            for part in parts:
                if part.shared:
                    _share(pool, part, bar)
                else:
                    _write(pool, part, _blocks(part), bar)


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


def _check_sizes(shape: Sequence[int], chunks: Sequence[int] | None, method: str) -> None:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"tile: shape {tuple(shape)}: give positive sizes along c, y and x")
    if chunks is not None and (len(chunks) != 3 or min(chunks) < 1):
        raise InputError(f"tile: chunks {tuple(chunks)}: give positive sizes along c, y and x")
    if method not in ("link", "copy"):
        raise InputError(f"tile: method {method!r}: choose link or copy")


def _image_part(
    root: zarr.Group,
    raster: Raster,
    shape: Sequence[int],
    chunks: Sequence[int] | None,
    method: str,
) -> _Part:
    """Lay out the image."""
    source = raster.image
    whole = (shape[0], *source.shape[1:-2], *shape[1:])
    size = _chunks(chunks, source, whole)
    linked = _link_encoding(source, size, whole) if method == "link" else None
    names = repeated_names(raster.channels, shape[0])
    target = spatialdata_store.create_image(
        root, "image", whole, size, _native(source), names, **(linked or {})
    )
    if linked is not None:
        return _Part(source, target, shared=True, linked=True)
    part = _Part(_readable(source), target, shared=method == "link")
    if part.shared and all(_first_alike(index, part) == index for index in part.files):
        raise InputError(
            f"tile: method link with chunks {size}: no chunk is equal to another or to a file of "
            f"the source (chunks {tuple(source.chunks)}, shape {tuple(source.shape)}); "
            "use method: copy"
        )
    return part


def _labels_part(
    pool: ThreadPoolExecutor,
    root: zarr.Group,
    source: Any,
    shape: Sequence[int],
    chunks: Sequence[int] | None,
    method: str,
) -> _Part:
    """Lay out the labels, with a type that holds those of all repeats."""
    whole = (*source.shape[:-2], *shape[1:])
    size = _chunks(None if chunks is None else chunks[1:], source, whole)
    repeats = math.prod(-(-n // s) for n, s in zip(whole[-2:], source.shape[-2:], strict=True))
    once = repeats == 1
    linked = _link_encoding(source, size, whole) if once and method == "link" else None
    if linked is not None:
        target = spatialdata_store.create_labels(
            root, "labels", whole, size, _native(source), **linked
        )
        return _Part(source, target, shared=True, linked=True)
    pixels = _readable(source)
    step = 0 if once else _largest(pool, pixels, tuple(source.chunks))
    dtype = _label_type(_native(source), step, repeats)
    target = spatialdata_store.create_labels(root, "labels", whole, size, dtype)
    return _Part(pixels, target, step)


def _native(array: Any) -> np.dtype:
    return np.dtype(array.dtype).newbyteorder("=")


def _readable(array: Any) -> Any:
    """The array itself, or its values where they are few."""
    size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    return np.asarray(array[...]) if size <= IN_MEMORY else array


def _chunks(wanted: Sequence[int] | None, source: Any, shape: Index) -> Index:
    """Chunks along all axes; longer than the axis only where the source's are, to be linked."""
    own = tuple(source.chunks)
    if wanted is not None:
        wanted = (*wanted[:-2], *own[len(wanted) - 2 : -2], *wanted[-2:])
    return tuple(
        w if w == o else min(w, n) for w, o, n in zip(wanted or own, own, shape, strict=True)
    )


def _largest(pool: ThreadPoolExecutor, pixels: Any, chunks: Index) -> int:
    """Largest label, read chunk by chunk."""

    def extremes(region: Region) -> tuple[int, int]:
        values = pixels[region]
        return int(values.min()), int(values.max())

    largest = 0
    for low, high in _in_order(pool, extremes, _regions(tuple(pixels.shape), chunks)):
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


# Writing ----------------------------------------------------------------------------------------


def _regions(shape: Index, blocks: Index) -> Iterator[Region]:
    starts = (range(0, n, b) for n, b in zip(shape, blocks, strict=True))
    for corner in product(*starts):
        yield tuple(slice(a, min(a + b, n)) for a, b, n in zip(corner, blocks, shape, strict=True))


def _blocks(part: _Part) -> Iterator[Region]:
    """Whole files of the target, several at once where the source's chunks are larger.

    Otherwise a large source chunk would be decoded for each of the many files it goes into.
    """
    unit = part.unit
    if isinstance(part.source, np.ndarray):
        return _regions(part.target.shape, unit)
    blocks = tuple(-(-c // u) * u for c, u in zip(part.source.chunks, unit, strict=True))
    if math.prod(blocks) * part.target.dtype.itemsize > IN_MEMORY:
        blocks = unit
    return _regions(part.target.shape, blocks)


def _write(pool: ThreadPoolExecutor, part: _Part, regions: Iterable[Region], bar: Bar) -> None:
    def write(region: Region) -> int:
        size = tuple(axis.stop - axis.start for axis in region)
        values = scratch("tile", math.prod(size), part.target.dtype).reshape(size)
        _fill(values, region, part)
        part.target[region] = values
        return values.size

    for done in _in_order(pool, write, regions):
        bar.advance(done)


def _fill(out: np.ndarray, region: Region, part: _Part) -> None:
    """Assemble a region of the target from the repeats it touches."""
    across = -(-part.target.shape[-1] // part.source.shape[-1])
    pieces = (_pieces(axis, n) for axis, n in zip(region, part.source.shape, strict=True))
    for piece in product(*pieces):
        repeats, inside, outside = zip(*piece, strict=True)
        values = part.source[inside]
        place = out[outside]
        place[...] = values
        shift = part.step * (repeats[-2] * across + repeats[-1])
        if shift:
            np.add(place, out.dtype.type(shift), out=place, where=values != 0)


def _pieces(part: slice, size: int) -> list[tuple[int, slice, slice]]:
    """Along one axis: number of the repeat, where it is read, and where it goes."""
    found = []
    at = part.start
    while at < part.stop:
        repeat, first = divmod(at, size)
        length = min(size - first, part.stop - at)
        place = at - part.start
        found.append((repeat, slice(first, first + length), slice(place, place + length)))
        at += length
    return found


def _pixels(region: Region) -> int:
    return math.prod(part.stop - part.start for part in region)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """Results of `work` on the items; after an error nothing more is begun."""
    futures = [pool.submit(work, item) for item in items]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


# Sharing files ----------------------------------------------------------------------------------


def _share(pool: ThreadPoolExecutor, part: _Part, bar: Bar) -> None:
    """Store each distinct file once: the source's own, or written; link the others to it."""
    first = {index: _first_alike(index, part) for index in part.files}
    if part.linked:
        origin = {index: _source_file(part, index) for index in first}
    else:
        _write(pool, part, (_region(part, index) for index in sorted(set(first.values()))), bar)
        origin = {a: _file(part.target, b) for a, b in first.items() if a != b}

    def link(index: Index) -> bool:
        return _linked(origin[index], _file(part.target, index))

    copied = 0
    for index, linked in zip(origin, _in_order(pool, link, origin), strict=True):
        copied += not linked
        bar.advance(_pixels(_region(part, index)))
    if copied:
        logger.warning(
            "%s: %d of %d chunk files were copied: they cannot be linked across file systems",
            part.target.path,
            copied,
            len(origin),
        )


def _first_alike(index: Index, part: _Part) -> Index:
    """The first file of the target whose pixels are the same as those of file `index`."""
    # Multiples of the unit come back to where they were in the source after this many files.
    periods = (n // math.gcd(n, u) for n, u in zip(part.source.shape, part.unit, strict=True))
    return tuple(i % period for i, period in zip(index, periods, strict=True))


def _region(part: _Part, index: Index) -> Region:
    return tuple(
        slice(i * u, min((i + 1) * u, n))
        for i, u, n in zip(index, part.unit, part.target.shape, strict=True)
    )


def _file(array: zarr.Array, index: Index) -> Path:
    store = cast(LocalStore, array.store_path.store)
    return Path(store.root) / array.path / array.metadata.encode_chunk_key(index)


def _source_file(part: _Part, index: Index) -> Path:
    places = zip(index, part.unit, part.source.shape, strict=True)
    return _file(part.source, tuple(i * u % n // u for i, u, n in places))


def _linked(existing: Path, new: Path) -> bool:
    """Give a file a second name; False where it had to be copied."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(existing, new)
    except FileNotFoundError:
        return True  # a chunk that is all background has no file
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        shutil.copyfile(existing, new)
        return False
    return True


def _link_encoding(source: Any, chunks: Index, shape: Index) -> dict[str, Any] | None:
    """How to declare a target whose files are the source's; None where they cannot be."""
    encoding = _file_encoding(source)
    if encoding is None or tuple(source.chunks) != chunks:
        return None
    unit = source.shards or source.chunks
    fits = all(
        target <= own or own % u == 0
        for own, target, u in zip(source.shape, shape, unit, strict=True)
    )
    return encoding if fits else None


def _file_encoding(source: Any) -> dict[str, Any] | None:
    """How the files of a local array are encoded, in the terms of Zarr 3."""
    if not isinstance(source, zarr.Array) or not isinstance(source.store_path.store, LocalStore):
        return None
    metadata = source.metadata
    if not isinstance(metadata, ArrayV2Metadata):
        return {
            "filters": source.filters,
            "serializer": source.serializer,
            "compressors": source.compressors,
            "shards": source.shards,
            "fill_value": source.fill_value,
        }
    compressors = _as_v3(metadata.compressor, source.dtype.itemsize)
    if metadata.filters or metadata.order != "C" or compressors is None:
        return None
    return {
        "serializer": BytesCodec(endian="big" if source.dtype.byteorder == ">" else "little"),
        "compressors": compressors,
        "fill_value": metadata.fill_value or 0,
    }


def _as_v3(compressor: Any, itemsize: int) -> list[Any] | None:
    """The Zarr 3 codec that reads what a Zarr 2 compressor wrote; None where there is none."""
    if compressor is None:
        return []
    if isinstance(compressor, numcodecs.Blosc):
        # Decoding goes by the header of each file; -1 chose the shuffle by the size of the items.
        return [
            BloscCodec(
                cname=compressor.cname,
                clevel=compressor.clevel,
                shuffle=_SHUFFLES.get(compressor.shuffle, "shuffle"),
                typesize=itemsize,
                blocksize=compressor.blocksize,
            )
        ]
    if isinstance(compressor, numcodecs.Zstd):
        return [ZstdCodec(level=compressor.level)]
    if isinstance(compressor, numcodecs.GZip):
        return [GzipCodec(level=compressor.level)]
    return None
