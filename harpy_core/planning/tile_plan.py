"""Plan of the tiled store: its shape, and what making it writes and holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from harpy_core.config.models import Tile
from harpy_core.planning.parts import TASK_BYTES, Plan
from harpy_core.raster.info import RasterInfo, itemsize
from harpy_core.tiling.limits import AT_WORK, HELD, IN_MEMORY

LABELS_RATIO = 20
"""Bytes of labels per byte on disk, at least; dense and sparse tissue have 37 to 250."""

_LARGEST_LABEL = 8
"""Bytes of a label at most: how large those of all repeats become is known once they are read."""


def tiled(source: RasterInfo, tile: Tile) -> RasterInfo:
    """Describe the raster that a source becomes."""
    depth = source.image_shape[1:-2]
    return dataclasses.replace(
        source,
        channels=[str(channel) for channel in range(tile.c)],
        numbers=None,
        image_shape=(tile.c, *depth, tile.y, tile.x),
        image_chunks=(tile.chunks[0], *source.image_chunks[1:-2], *tile.chunks[1:]),
        labels_shape=(*depth, tile.y, tile.x),
        labels_chunks=(*source.labels_chunks[:-2], *tile.chunks[1:]),
    )


def at_work(cores: int) -> int:
    """Number of tasks that tiling has at work, and in memory, on some cores."""
    return AT_WORK * cores


def tile_plan(source: RasterInfo, tile: Tile, others: int = 0) -> Plan:
    """Plan the tiled store: each distinct chunk once if they are linked, and all labels.

    Parameters
    ----------
    source
        What is repeated.
    tile
        Section of the config.
    others
        Number of other layers of labels that are repeated too.

    Returns
    -------
    Plan whose tasks are files; `at_work` of them are held at a time.
    """
    info = tiled(source, tile)
    shape, chunks = info.image_shape, info.image_chunks
    own = (len(source.channels), *source.image_shape[1:])
    counts = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    pixel = itemsize(info.image_dtype)
    chunk = math.prod(chunks) * pixel
    on_grid = all(n <= o or o % c == 0 for n, o, c in zip(shape, own, chunks, strict=True))
    as_it_is = tile.codec is None and tile.shard is None and chunks == source.image_chunks
    files_stand = as_it_is and on_grid
    written = math.prod(counts) * chunk
    if tile.method == "link":
        # The rule of `harpy_core.tiling.linking`, which is slow to import.
        periods = [n // math.gcd(n, c) for n, c in zip(own, chunks, strict=True)]
        written = 0 if files_stand else math.prod(map(min, counts, periods)) * chunk
    pixels = math.prod(info.labels_shape)
    labels = pixels * (itemsize(info.labels_dtype) + others * _LARGEST_LABEL)
    shard = tile.shard or tile.chunks
    file = (shard[0], *chunks[1:-2], *shard[1:])
    image_kept, image_file = (
        (0, chunk) if files_stand else _held(own, source.image_chunks, pixel, file, pixel)
    )
    labels_kept, labels_file = _held(
        source.labels_shape,
        source.labels_chunks,
        itemsize(source.labels_dtype),
        file[1:] if len(source.labels_shape) == len(file) - 1 else file[-2:],
        _LARGEST_LABEL,
    )
    return Plan(
        stage="tile",
        tasks=math.prod(counts),
        bytes_read=written,
        bytes_written=written + labels,
        bytes_stored=written + labels // LABELS_RATIO,
        bytes_per_task=TASK_BYTES + max(image_file, labels_file),
        result_bytes=image_kept + labels_kept + others * _kept_at_most(source),
        instances=None,
    )


def _kept_at_most(source: RasterInfo) -> int:
    """Bytes of the chunks of another layer that are kept; its type and its chunks are not known."""
    padded = 1
    for n, c in zip(source.labels_shape, source.labels_chunks, strict=True):
        padded *= n + c
    return min(padded * _LARGEST_LABEL, IN_MEMORY)


def _held(
    shape: Sequence[int], chunks: Sequence[int], pixel: int, file: Sequence[int], written: int
) -> tuple[int, int]:
    """Bytes of an array's source that all tasks share, and of one task.

    Parameters
    ----------
    shape, chunks, pixel
        Of the source: pixels along each axis, and bytes of one.
    file, written
        Of the result: pixels of a file along each axis, and bytes of one.
    """
    whole = math.prod(-(-n // c) * c for n, c in zip(shape, chunks, strict=True)) * pixel
    # A chunk, and the file that it is decoded from.
    decoding = 2 * math.prod(chunks) * pixel
    # Pixels of a file, a chunk of them in one piece, and both encoded.
    encoding = 3 * math.prod(file) * written
    if whole <= IN_MEMORY:
        return whole, decoding + encoding
    # As `harpy_core.tiling.tile` has it: files that are made of the same chunks go together.
    together = [-(-c // f) * f for c, f in zip(chunks, file, strict=True)]
    read = math.prod(map(min, shape, together)) * written
    alone = math.prod(map(min, shape, file)) * written
    return 0, decoding + encoding + (read if read <= HELD else alone)
