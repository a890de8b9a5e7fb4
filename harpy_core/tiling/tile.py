"""Repeat an image and its labels to any size, file by file.

A chunk file whose pixels are in a file of the source, or in another one of the result, is not
encoded again: it is that file under a second name (`method` ``"link"``) or a copy of it
(``"copy"``). Files are whole once they have their names, in a working folder that is named after
the inputs and parameters; so a run that died resumes where it stopped.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from harpy_core.config.crops import Codec
from harpy_core.config.models import TILED_LABELS
from harpy_core.errors import InputError
from harpy_core.provenance import source_digest
from harpy_core.raster.fingerprints import fingerprint
from harpy_core.raster.polygons import PolygonLabels
from harpy_core.raster.raster import Raster
from harpy_core.running.progress import Bar, track
from harpy_core.running.schedule import in_order, threads_of
from harpy_core.storage import codecs, shards, spatialdata_store
from harpy_core.storage.commits import KEPT, WorkFolder
from harpy_core.storage.folders import room_for
from harpy_core.storage.locks import sole_writer
from harpy_core.storage.manifest import digest_of
from harpy_core.tiles.scratch import scratch
from harpy_core.tiling.arrays import TiledArray, check_linkable, tiled_image, tiled_labels
from harpy_core.tiling.limits import AT_WORK, HELD
from harpy_core.tiling.linking import Index, Method, Way, repeat_file
from harpy_core.tiling.repeating import Box, Decoded

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tiled:
    """Numbers of the chunk files of a tiled store, by origin.

    Attributes
    ----------
    encoded
        Files written from pixels.
    linked, cloned, copied
        Files made from one of the same content: as its second name, sharing its blocks, or copied.
    kept
        Files left by a run that died.
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
    """Repeat an image and its layers of labels along c, y and x to exactly a target size.

    Parameters
    ----------
    raster
        Image and labels to repeat. A z axis is kept as it is.
    path
        SpatialData store to make, with elements ``image`` and ``labels``, the first layer, and the
        other layers by their names. It appears whole or not at all; files finished by a run that
        died are kept beside it for the next one.
    shape
        Target (c, y, x) in channels and pixels. The last repeat is cropped; instances it cuts keep
        what is left of them.
    chunks
        Chunk size along c, y and x; None takes the source's.
    method
        Way to repeat chunk files of equal content: ``"link"`` gives one file several names (if the
        file system cannot: clones, else copies, with a warning), ``"copy"`` makes a file for each.
    codec
        ``lz4``, ``zstd`` or ``none``; None uses the source's files as they are where they fit, and
        writes others with LZ4 (an image) or Zstandard (labels).
    shard
        Size of a file along c, y and x, in multiples of the chunks; None makes each chunk a file.
    progress
        Show a bar on a terminal.
    threads
        Cores to use; None uses all. For each, two files are in progress, and in memory: their
        pixels, encoded and not, and those of the source.

    Returns
    -------
    Numbers of the chunk files, by origin.

    Notes
    -----
    Repeat k of channel ``CD3`` is named ``CD3_k``, the first keeps its name. Repeats along y and x
    are counted row by row, and a label of repeat k is the source's plus k times the largest of its
    layer, so every repeat has labels of its own; their type grows if needed. Repeats along c share
    them.

    Raises
    ------
    InputError
        Sizes are not positive, labels do not fit 64 bits or are negative, a layer has the name of
        the first in the store, there is nothing to link, the disk is too small, or another run is
        working on the same path.
    """
    _check_sizes(shape, chunks, shard, method)
    layers = _renamed(raster.layers)
    threads = AT_WORK * (threads or threads_of(None))
    target = Path(path)
    with sole_writer(target):
        image = tiled_image(raster, shape, chunks, codec, shard, threads)
        if method == "link":
            check_linkable(image)
        labels = [
            tiled_labels(name, array, shape, chunks, codec, shard, threads)
            for name, array in layers.items()
        ]
        names = repeated_names(raster.channels, shape[0])
        found = fingerprint(raster.image, *layers.values())
        asked = [shape, chunks, method, codec, shard, list(layers)]
        key = digest_of([found, names, asked, source_digest(__name__)])[:16]
        work = WorkFolder(target, key)
        work.begin(partial(_write_metadata, image, labels, names), resume=found is not None)
        total = sum(math.prod(array.pixels.shape) for array in (image, *labels))
        with track(total, "tile", enabled=progress) as bar:
            ways = _make((image, *labels), work, method, threads, bar)
        work.finish(("images", "labels"))
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
    """Make unique names for `count` channels by repeating some.

    Parameters
    ----------
    names
        Unique names of the channels that are repeated.
    count
        Number of channels in all.

    Returns
    -------
    The names, then the names with ``_1``, then with ``_2``; more underscores if such a name is
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


def _renamed(layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return layers by their names in the store, if they can be tiled."""
    (first, labels), *others = layers.items()
    renamed = {TILED_LABELS: labels, **dict(others)}
    if len(renamed) < len(layers):
        raise InputError(
            f"tile: the store calls {first!r} {TILED_LABELS!r}; rename the other layer"
        )
    for name, array in layers.items():
        if isinstance(array, PolygonLabels):
            raise InputError(f"tile: {name!r} are polygons; give a label image, or leave tile out")
    return renamed


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


# Making it --------------------------------------------------------------------------------------


def _write_metadata(
    image: TiledArray, labels: Sequence[TiledArray], names: list[str], folder: Path
) -> None:
    """Write a store without pixels."""
    root = spatialdata_store.create(folder)
    spatialdata_store.create_image(
        root, image.name, image.pixels.shape, image.chunks, image.dtype, names, **image.encoding
    )
    for layer in labels:
        spatialdata_store.create_labels(
            root, layer.name, layer.pixels.shape, layer.chunks, layer.dtype, **layer.encoding
        )
    spatialdata_store.consolidate(root)


def _make(
    arrays: Sequence[TiledArray], work: WorkFolder, method: Method, threads: int, bar: Bar
) -> Counter[str]:
    """Encode the files that are unlike any other, then make the others from them."""
    ways = Counter[str]()
    blocks: list[list[_Block]] = []
    repeats: list[_Repeat] = []
    for array in arrays:
        encoded, others = _missing(array, work.store)
        blocks.append([_Block(array, work, files) for files in _together(array, encoded)])
        repeats += [_Repeat(array, work, method, index, origin) for index, origin in others.items()]
    # Images keep the disk busy, and labels the cores: side by side they take less time.
    for files, pixels in in_order(_Block.write, _side_by_side(blocks), threads=threads):
        ways["encoded"] += files
        bar.advance(pixels)
    if method == "copy":
        _check_room(work, [repeat.origin for repeat in repeats])
    for way, pixels in in_order(_Repeat.make, repeats, threads=threads):
        ways[way] += 1
        bar.advance(pixels)
    ways["kept"] = sum(1 for array in arrays for _ in array.files) - ways.total()
    return ways


def _missing(array: TiledArray, store: Path) -> tuple[list[Index], dict[Index, Path]]:
    """Return the files to be encoded, and the file that each of the others is made from."""
    missing = [index for index in array.files if not array.path(store, index).exists()]
    if array.origin is not None:
        return [], {index: array.origin_file(index) for index in missing}
    origins = {index: array.alike(index) for index in missing}
    return (
        [index for index, origin in origins.items() if origin == index],
        {i: array.path(store, origin) for i, origin in origins.items() if origin != i},
    )


def _side_by_side(blocks: Sequence[Sequence[_Block]]) -> list[_Block]:
    """Interleave the blocks of several arrays, so that all arrays end together."""
    ranked = [
        ((number + 0.5) / len(of_array), block)
        for of_array in blocks
        for number, block in enumerate(of_array)
    ]
    return [block for _, block in sorted(ranked, key=lambda entry: entry[0])]


def _together(array: TiledArray, files: Iterable[Index]) -> list[list[Index]]:
    """Group files that are written together, because they need the same chunks of the source.

    Otherwise a large source chunk would be decoded for each of the many files it goes into.
    """
    source = array.pixels.source
    counts = [1] * len(array.unit)
    if not isinstance(source, Decoded):
        counts = [-(-c // u) for c, u in zip(source.chunks, array.unit, strict=True)]
        sizes = (c * u for c, u in zip(counts, array.unit, strict=True))
        read = math.prod(min(n, size) for n, size in zip(source.shape, sizes, strict=True))
        if read * array.dtype.itemsize > HELD:
            counts = [1] * len(array.unit)
    blocks: dict[Index, list[Index]] = {}
    for index in files:
        block = tuple(i // n for i, n in zip(index, counts, strict=True))
        blocks.setdefault(block, []).append(index)
    return list(blocks.values())


@dataclass(frozen=True, slots=True)
class _Block:
    """Files to write from pixels.

    Attributes
    ----------
    array
        Array that they belong to.
    work
        Working folder.
    files
        Numbers of the files.
    """

    array: TiledArray
    work: WorkFolder
    files: list[Index]

    def write(self) -> tuple[int, int]:
        """Write the files; return their number, and that of their pixels."""
        array = self.array
        regions = [array.region(index) for index in self.files]
        held = array.pixels.held(_around(regions))
        for index, region in zip(self.files, regions, strict=True):
            values = scratch("tile", math.prod(array.unit), array.dtype).reshape(array.unit)
            inside = values[tuple(slice(axis.stop - axis.start) for axis in region)]
            if inside.shape != values.shape:
                values[...] = 0
            held.fill(inside, region)
            content = self._encoded(values, held.whole)
            if content:
                self._commit(array.path(self.work.store, index), content)
        return len(self.files), sum(map(array.pixel_count, self.files))

    def _encoded(self, values: np.ndarray, whole: bool) -> list[bytes]:
        """Encode a file; nothing if it is all background, which Zarr does not store.

        In an image that is `whole` it is stored all the same: a missing chunk would be taken for
        lost where an instance has pixels.
        """
        array = self.array
        always = whole and array.kind == "images"
        chunks = [
            codecs.encode(array.codec, np.ascontiguousarray(chunk), array.content)
            if always or _holds_something(chunk)
            else None
            for chunk in _split(values, array.chunks)
        ]
        if not any(chunks):
            return []
        return list(shards.packed(chunks) if array.unit != array.chunks else chunks[0] or ())

    def _commit(self, path: Path, content: list[bytes]) -> None:
        """Give the file its name once it is whole and on disk."""
        self.work.place(path, content)


@dataclass(frozen=True, slots=True)
class _Repeat:
    """A file to make from another one of the same content.

    Attributes
    ----------
    array
        Array that it belongs to.
    work
        Working folder.
    method
        Way to make it.
    index
        Number of the file.
    origin
        Path of the other file.
    """

    array: TiledArray
    work: WorkFolder
    method: Method
    index: Index
    origin: Path

    def make(self) -> tuple[Way, int]:
        """Make it; return the way it was made, and the number of its pixels."""
        new = self.array.path(self.work.store, self.index)
        with room_for(new, KEPT, reads=True):
            new.parent.mkdir(parents=True, exist_ok=True)
            way = repeat_file(self.origin, new, self.method, self.work.temporary())
        return way, self.array.pixel_count(self.index)


def _around(regions: Sequence[Box]) -> Box:
    """Return the smallest region that contains all."""
    return tuple(
        slice(min(axis.start for axis in axes), max(axis.stop for axis in axes))
        for axes in zip(*regions, strict=True)
    )


def _split(values: np.ndarray, chunks: Index) -> Iterator[np.ndarray]:
    """Yield the chunks of a file, in the order of a shard's index."""
    starts = (range(0, n, c) for n, c in zip(values.shape, chunks, strict=True))
    for corner in product(*starts):
        yield values[tuple(slice(a, a + c) for a, c in zip(corner, chunks, strict=True))]


def _holds_something(values: np.ndarray) -> bool:
    """Whether a bit is set; a few pixels show it in most files that are not empty."""
    some = values[..., :: max(values.shape[-1] // 16, 1)]
    return bool(some.any()) or bool(np.ascontiguousarray(values).view(np.uint8).any())


def _check_room(work: WorkFolder, origins: Iterable[Path]) -> None:
    """Refuse to start copies that the disk cannot hold."""
    sizes: Counter[Path] = Counter(origins)
    needed = sum(n * path.stat().st_size for path, n in sizes.items() if path.exists())
    free = shutil.disk_usage(work.path).free
    if needed > free:
        raise InputError(
            f"{work.target.parent}: the tiled store takes {needed / 1e9:.1f} GB more, "
            f"{free / 1e9:.1f} GB are free: free some and run again, {KEPT}; or use method: link"
        )
