"""The tiles that a stage works on, and their memory: arithmetic on shapes alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from harpy_core.raster.info import RasterInfo, itemsize
from harpy_core.tiles.grid import Edges, coarsened, regular_edges, split_channels

RUN_BYTES = 16
PIXELS_PER_RUN = 20
"""Pixels per run, assumed; dense tissue has a run for every 26, of 16 bytes in a run table."""

WORD = 8


@dataclass(frozen=True, slots=True)
class TileShape:
    """An image and its labels in canonical axes, and the memory of one tile of them.

    Attributes
    ----------
    names
        Names of the channels in use.
    channels_read
        Number of channels decoded for them: a chunk is decoded whole.
    channel_edges
        Edges of the channels in use that lie in the same chunk.
    group
        Number of channels in a chunk.
    together
        Number of channels in use in a chunk, at most.
    plane, tile
        Number of pixels of the whole and of the largest tile, along z, y and x.
    tiles, rows, columns
        Number of tiles, in all and along y and x.
    lazy
        Whether the arrays are Dask arrays: a task holds all channels of its tile.
    pixel, held, label
        Bytes of a pixel on disk and in memory, and of a label.
    dtype
        Type of the pixels.
    image_buffer
        Bytes of a tile's pixels in the channels that are decoded together.
    chunk_buffer
        Bytes of a chunk that is decoded before a part of it is copied.
    image_file, label_file
        Bytes of an incompressible chunk on disk: a mapped file counts as memory of its process
        while it is decoded.
    computed
        Bytes that it takes to compute labels from what is stored: floats, or a mask.
    depth, area
        Number of pixels of the whole along z, and along (y, x).
    side
        Number of pixels of the largest tile along (y, x).
    """

    names: tuple[str, ...]
    channels_read: int
    channel_edges: tuple[int, ...]
    group: int
    together: int
    plane: int
    tile: int
    tiles: int
    lazy: bool
    pixel: int
    held: int
    dtype: str
    label: int
    image_buffer: int
    chunk_buffer: int
    image_file: int
    label_file: int
    computed: int
    rows: int
    columns: int
    depth: int
    area: tuple[int, int]
    side: tuple[int, int]

    @classmethod
    def of(cls, info: RasterInfo) -> TileShape:
        shape, chunks = _canonical(info.image_shape), _canonical(info.image_chunks)
        tiles = spatial_tiles(info)
        widest = [max((b - a for a, b in pairwise(axis)), default=1) for axis in tiles]
        tile = math.prod(widest)
        pixel, label = itemsize(info.image_dtype), itemsize(info.labels_dtype)
        held = max(pixel, 4) if "float" in info.image_dtype else pixel
        # A chunk that is a tile is decoded in place, including what is beyond the image's edge.
        alone = widest == [min(c, n) for c, n in zip(chunks[1:], shape[1:], strict=True)]
        group = chunks[0] if alone else min(chunks[0], shape[0])
        plane = math.prod(chunks[1:]) if alone else tile
        own = _canonical((1, *info.labels_chunks))[1:]
        as_tiles = widest == [min(c, n) for c, n in zip(own, shape[1:], strict=True)]
        in_place = alone and held == pixel and info.image_dtype != "bool"
        edges = _channel_edges(info.in_use, chunks[0])
        together = max((b - a for a, b in pairwise(edges)), default=1)
        computed = _computed(info, tile, math.prod(own)) + tile * info.placing
        # A view of some channels is copied from the chunk that holds them.
        copied = together if len(info.channels) < shape[0] else 0
        return cls(
            names=tuple(info.channels),
            channels_read=min((len(edges) - 1) * chunks[0], shape[0]),
            channel_edges=edges,
            group=chunks[0],
            together=together,
            plane=math.prod(shape[1:]),
            tile=tile,
            tiles=math.prod(len(axis) - 1 for axis in tiles),
            lazy=info.lazy,
            pixel=pixel,
            held=held,
            dtype=info.image_dtype,
            label=label,
            image_buffer=(group + copied) * plane * held,
            chunk_buffer=max(
                0 if in_place else math.prod(chunks) * pixel,
                math.prod(own) * label - (tile * label if as_tiles else 0),
            )
            + info.rearranged,
            image_file=math.prod(chunks) * pixel,
            label_file=math.prod(own)
            * (itemsize(info.labels_stored) if info.labels_stored else label),
            computed=computed,
            rows=len(tiles[1]) - 1,
            columns=len(tiles[2]) - 1,
            depth=shape[1],
            area=(shape[2], shape[3]),
            side=(widest[1], widest[2]),
        )

    def groups(self, tiles: int, threads: int) -> int:
        """Number of tasks that share the channels of a tile: see `split_channels`."""
        return 1 if self.lazy else len(split_channels(self.channel_edges, tiles, threads))

    @property
    def channels(self) -> int:
        """Number of channels in use."""
        return len(self.names)

    @property
    def runs(self) -> int:
        """Number of runs of a tile, at most."""
        return 2 * self.tile // PIXELS_PER_RUN

    @property
    def device_labels(self) -> int:
        """Bytes on a GPU of a tile's labels, and of its runs as they are found, of three words."""
        return self.tile * self.label + self.runs * 3 * WORD

    @property
    def device_planes(self) -> int:
        """Bytes on a GPU of a tile's planes, each on a border of 16 bytes, as they are decoded.

        Decoding takes the chunk, its streams (16 bytes each, one for a kibibyte at most) and what
        the streams hold.
        """
        decoding = 2 * self.image_buffer + self.image_buffer // 64 + 2048
        return self.image_buffer + 16 * self.group + decoding

    @property
    def reading(self) -> int:
        """Bytes of the labels and planes of a tile, and of the chunks they are decoded from."""
        files = max(self.image_file, self.label_file)
        # Dask computes all blocks of a task before it runs; a chunk of them is decoded at a time.
        blocks = self.tile * (self.channels * self.pixel + self.label) if self.lazy else 0
        return blocks + self.image_buffer + self.chunk_buffer + files + self.label_buffer

    @property
    def label_buffer(self) -> int:
        """Bytes of a tile's labels and of its runs."""
        return self.tile * self.label + self.runs * RUN_BYTES + self.computed


def spatial_tiles(info: RasterInfo) -> Edges:
    """Edges of the tiles of a raster along z, y and x, as `harpy_core.running.tasks` has them."""
    shape, chunks = _canonical(info.image_shape), _canonical(info.image_chunks)
    z, y, x = coarsened(regular_edges(shape, chunks)[1:])
    return ((0, z[-1]), y, x) if info.lazy else (z, y, x)


def _channel_edges(numbers: Sequence[int], chunk: int) -> tuple[int, ...]:
    """Edges of channels whose numbers lie in the same chunk along c."""
    changes = [i for i, (a, b) in enumerate(pairwise(numbers), 1) if a // chunk != b // chunk]
    return (0, *changes, len(numbers)) if numbers else (0,)


def _canonical(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(values) if len(values) == 4 else (values[0], 1, *values[1:])


def _computed(info: RasterInfo, tile: int, chunk: int) -> int:
    """Bytes of the stored labels and of what is made of them, before they are copied."""
    if not info.labels_stored:
        return 0
    stored, label = itemsize(info.labels_stored), itemsize(info.labels_dtype)
    # A mask is labelled by its own chunks; floats are converted and compared.
    return chunk * (stored + 2 * label) if info.label_connected else tile * (stored + label + 2)
