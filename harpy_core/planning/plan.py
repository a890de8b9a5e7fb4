"""What a job will read, write and hold in memory: known from shapes alone, before it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from harpy_core.aggregate.slabs import SLAB_BYTES, slabs_of
from harpy_core.config.crops import CropSettings
from harpy_core.extract.strips import part_size, strip_shape
from harpy_core.raster.info import RasterInfo, itemsize
from harpy_core.statistics.declared import Statistic, chosen, words_of
from harpy_core.tiles.grid import coarsened, regular_edges, split_channels

if TYPE_CHECKING:
    from harpy_core.instances.finding import Instances

CELLS_PER_PIXEL = 1 / 1900
"""Density taken where the instances are not counted yet: dense tissue at half a micron a pixel."""

RUN_BYTES = 16
PIXELS_PER_RUN = 20
"""Dense tissue has a run for every 26 pixels, and a run table 16 bytes for each."""

_WORD = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """One job, before it runs.

    Attributes
    ----------
    stage
        ``instances``, ``aggregate`` or ``extract``.
    tasks
        Pieces of work that can run at the same time.
    bytes_read
        Decoded pixels and labels; on disk they are smaller where they are compressed.
    bytes_written
        The result before compression.
    bytes_stored
        What it takes of the disk: compressed as far as that is known, with temporary files, and
        without what an interrupted run has left there.
    bytes_per_task
        Memory of one task at work.
    result_bytes
        Memory of the result in the process that merges it.
    instances
        Instances, counted or (None) guessed from the area.
    device_bytes_per_task
        Memory of one task on a GPU, where the engine is cupy; a worker's tasks share its GPU.
    """

    stage: str
    tasks: int
    bytes_read: int
    bytes_written: int
    bytes_stored: int
    bytes_per_task: int
    result_bytes: int
    instances: int | None
    device_bytes_per_task: int = 0

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written

    def memory(self, threads: int) -> int:
        """Bytes held at most by `threads` tasks at work and the result."""
        return threads * self.bytes_per_task + self.result_bytes


@dataclass(frozen=True, slots=True)
class _Shape:
    """An image and its labels in canonical axes, and what one tile of them takes."""

    channels: int
    group: int
    plane: int
    tile: int
    tiles: int
    pixel: int
    held: int
    dtype: str
    label: int
    image_buffer: int
    chunk_buffer: int
    rows: int
    columns: int
    depth: int
    area: tuple[int, int]

    @classmethod
    def of(cls, info: RasterInfo) -> _Shape:
        shape, chunks = _canonical(info.image_shape), _canonical(info.image_chunks)
        edges = regular_edges(shape, chunks)
        tiles = coarsened(edges[1:])
        widest = [max((b - a for a, b in pairwise(axis)), default=1) for axis in tiles]
        tile = math.prod(widest)
        pixel, label = itemsize(info.image_dtype), itemsize(info.labels_dtype)
        held = max(pixel, 4) if "float" in info.image_dtype else pixel
        # A chunk that is a tile is decoded in place, with what lies beyond the image's edge.
        alone = widest == [min(c, n) for c, n in zip(chunks[1:], shape[1:], strict=True)]
        planes = chunks[0] * math.prod(chunks[1:]) if alone else min(chunks[0], shape[0]) * tile
        own = _canonical((1, *info.labels_chunks))[1:]
        as_tiles = widest == [min(c, n) for c, n in zip(own, shape[1:], strict=True)]
        in_place = alone and held == pixel and info.image_dtype != "bool"
        chosen_channels = len(info.channels) < shape[0]
        return cls(
            channels=len(info.channels),
            group=chunks[0],
            plane=math.prod(shape[1:]),
            tile=tile,
            tiles=math.prod(len(axis) - 1 for axis in tiles),
            pixel=pixel,
            held=held,
            dtype=info.image_dtype,
            label=label,
            # A view of some channels is copied from the chunk that holds them.
            image_buffer=planes * held * (1 + chosen_channels),
            chunk_buffer=max(
                0 if in_place else math.prod(chunks) * pixel,
                math.prod(own) * label - (tile * label if as_tiles else 0),
            ),
            rows=len(tiles[1]) - 1,
            columns=len(tiles[2]) - 1,
            depth=shape[1],
            area=(shape[2], shape[3]),
        )

    @property
    def channel_edges(self) -> tuple[int, ...]:
        return regular_edges((self.channels,), (self.group,))[0]

    @property
    def runs(self) -> int:
        """Most runs of a tile."""
        return 2 * self.tile // PIXELS_PER_RUN

    @property
    def device_labels(self) -> int:
        """Bytes on a GPU of a tile's labels, and of the runs as they are found: three words."""
        return self.tile * self.label + self.runs * 3 * _WORD

    @property
    def device_planes(self) -> int:
        """Bytes on a GPU of a tile's planes, each on a border of 16 bytes."""
        return self.image_buffer + 16 * self.group

    @property
    def label_buffer(self) -> int:
        return self.tile * self.label + self.runs * RUN_BYTES


def _canonical(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(values) if len(values) == 4 else (values[0], 1, *values[1:])


def stage_plan(
    stage: str,
    info: RasterInfo,
    *,
    stats: Sequence[str | Statistic] | str | Statistic = ("mean", "count"),
    crops: CropSettings | None = None,
    ratio: float = 1.0,
    committed: int = 0,
    instances: int | None = None,
    threads: int = 1,
) -> Plan:
    """Plan one stage.

    Parameters
    ----------
    stage
        ``instances``, ``aggregate`` or ``extract``.
    info
        The image and labels.
    stats
        Statistics to aggregate.
    crops
        How crops are cut and kept; the defaults without.
    ratio
        Bytes on disk of a byte of crops, as `harpy_core.extract.extraction.stored_ratio` finds it.
    committed
        Bytes of crops that an interrupted run has on disk already.
    instances
        How many there are; a guess from the area without.
    threads
        Tasks that run at the same time.
    """
    shape = _Shape.of(info)
    number = instances if instances is not None else math.ceil(shape.plane * CELLS_PER_PIXEL)
    planners = {"instances": _instances, "aggregate": _aggregate, "extract": _extract}
    settings = {
        "stats": stats,
        "crops": crops or CropSettings(),
        "ratio": ratio,
        "committed": committed,
        "threads": threads,
    }
    return planners[stage](shape, number, instances, settings)


def _instances(shape: _Shape, number: int, known: int | None, settings: dict[str, Any]) -> Plan:
    per_instance = _WORD * (1 + 1 + 3 + 6)
    return Plan(
        stage="instances",
        tasks=shape.tiles,
        bytes_read=shape.plane * shape.label,
        bytes_written=number * per_instance,
        bytes_stored=number * per_instance,
        bytes_per_task=shape.label_buffer + shape.chunk_buffer,
        result_bytes=3 * number * per_instance,
        instances=known,
        device_bytes_per_task=shape.device_labels,
    )


def _aggregate(shape: _Shape, number: int, known: int | None, settings: dict[str, Any]) -> Plan:
    statistics = chosen(settings["stats"])
    words = words_of(statistics.values(), shape.dtype)
    in_channel = number * _WORD * (2 * words + len(statistics))
    slabs = slabs_of(shape.channel_edges, in_channel, SLAB_BYTES)
    groups = [split_channels(slab, shape.tiles, settings["threads"]) for slab in slabs]
    parts = sum(map(len, groups))
    widest = max(slab[-1] - slab[0] for slab in slabs)
    in_tile = math.ceil(number * shape.tile / shape.plane)
    part = in_tile * widest * words * _WORD
    table = number * shape.channels * _WORD * (len(statistics) + 1)
    whole = any(statistic.whole for statistic in statistics.values())
    return Plan(
        stage="aggregate",
        tasks=shape.tiles * parts,
        bytes_read=shape.plane * (shape.channels * shape.pixel + parts * shape.label),
        bytes_written=table,
        bytes_stored=table,
        bytes_per_task=(
            shape.image_buffer
            + shape.chunk_buffer
            + shape.label_buffer
            + 2 * part
            + whole * (_gathered(shape) + 2 * _pieces(shape, number, widest)[0])
        ),
        result_bytes=in_channel * widest + whole * _pieces(shape, number, widest)[1],
        instances=known,
        device_bytes_per_task=(
            shape.device_labels
            + shape.device_planes
            + shape.runs * RUN_BYTES
            + _device_sums(shape, words, in_tile)
        ),
    )


def _gathered(shape: _Shape) -> int:
    """Bytes of one channel's pixels side by side, of their distances to a centre, and of runs."""
    return shape.tile * (shape.held + 2 * _WORD) + 4 * shape.runs * _WORD


def _pieces(shape: _Shape, number: int, channels: int) -> tuple[int, int]:
    """Bytes of the pixels of instances that lie in several tiles: of one tile's, and that wait."""
    # About as many as lie within an instance's reach of a border; large ones are counted.
    reach = math.ceil(math.sqrt(shape.plane / shape.depth / max(number, 1)))
    tall, wide = (
        math.ceil(n / k) for n, k in zip(shape.area, (shape.rows, shape.columns), strict=True)
    )
    in_tile = min(2 * (tall + wide) * reach * shape.depth, shape.tile)
    row = min(2 * (shape.area[1] + tall) * reach * shape.depth, shape.plane)
    return in_tile * channels * shape.held, row * channels * shape.held


def _device_sums(shape: _Shape, words: int, in_tile: int) -> int:
    """Bytes on a GPU of the words of a tile's instances, of the parts they are summed in."""
    parts = shape.runs // 32 + shape.tile // 8192 + in_tile
    pivots = in_tile
    return (parts + in_tile + pivots) * min(shape.group, shape.channels) * words * _WORD


def _extract(shape: _Shape, number: int, known: int | None, settings: dict[str, Any]) -> Plan:
    crops: CropSettings = settings["crops"]
    window = shape.depth * crops.diameter**2
    group = min(shape.group, shape.channels)
    stored = itemsize(crops.dtype) if crops.dtype else shape.pixel
    written = number * window * (shape.channels * stored + crops.extract_mask)
    on_disk = math.ceil(written * min(settings["ratio"], 1.0))
    rows, columns = strip_shape(number, shape.rows, shape.columns, crops.batch)
    strips = math.ceil(shape.rows / rows) * math.ceil(shape.columns / columns)
    groups = len(split_channels(shape.channel_edges, strips, settings["threads"]))
    return Plan(
        stage="extract",
        tasks=strips * groups,
        bytes_read=shape.plane * (shape.channels * shape.pixel + groups * shape.label),
        bytes_written=written,
        # Shuffled crops are all kept twice until the store is complete.
        bytes_stored=max(on_disk * (1 if crops.shuffle is None else 2) - settings["committed"], 0),
        bytes_per_task=(
            shape.image_buffer
            + shape.chunk_buffer
            + shape.label_buffer
            + _copies(shape, crops, number, rows * columns)
            + _open_crops(shape, crops, number) * window * group * max(shape.held, stored)
        ),
        result_bytes=number * _WORD * 16,
        instances=known,
        device_bytes_per_task=(
            shape.device_labels
            + shape.device_planes
            + 3 * (shape.runs + _window_rows(shape, crops, number)) * _WORD
            + crops.batch * window * group * shape.held
        ),
    )


def _copies(shape: _Shape, crops: CropSettings, number: int, tiles: int) -> int:
    """Bytes of what says which pixels go where, for all tiles of a strip."""
    in_tile = math.ceil(number * shape.tile / shape.plane)
    # A cell is no higher than cells are apart, and a row of it is seldom more than a run.
    height = math.ceil(math.sqrt(shape.plane / max(number, 1)))
    runs = min(2 * shape.tile // PIXELS_PER_RUN, 2 * in_tile * height)
    rows = _window_rows(shape, crops, number)
    # Four columns of each tile, and a dozen while one is at work.
    return (4 * tiles + 12) * (runs + rows) * _WORD


def _window_rows(shape: _Shape, crops: CropSettings, number: int) -> int:
    """Rows of a tile's windows: one that keeps its background is copied row by row."""
    in_tile = math.ceil(number * shape.tile / shape.plane)
    return 0 if crops.remove_background else in_tile * shape.depth * crops.diameter


def _open_crops(shape: _Shape, crops: CropSettings, number: int) -> int:
    """Crops of which a task holds pixels: in open batches and fragments, and while they go out."""
    in_tile = math.ceil(number * shape.tile / shape.plane)
    part = part_size(crops.batch_size, crops.batch)
    unit = crops.batch if crops.shuffle is None else part
    open_units = min(math.ceil(2 * in_tile / unit) + 1, math.ceil(number / unit))
    leaving = 2 * min(unit, number)
    return open_units * unit + min(part, number) + leaving


def plan_aggregate(
    image: Any,
    labels: Any,
    stats: Sequence[str | Statistic] | str | Statistic = ("mean", "count"),
    *,
    instances: int | None = None,
    threads: int = 1,
) -> Plan:
    """What `aggregate_stats` would read, write and hold in memory.

    Parameters
    ----------
    image, labels
        As there.
    stats
        As there.
    instances
        How many there are; a guess from the area without.
    threads
        Tasks that run at the same time.
    """
    from harpy_core.raster import Raster

    info = Raster.of(image, labels).info()
    return stage_plan("aggregate", info, stats=stats, instances=instances, threads=threads)


def plan_extract(
    image: Any,
    labels: Any,
    *,
    instances: int | Instances | None = None,
    threads: int = 1,
    **crops: Any,
) -> Plan:
    """What `extract_instances` would read, write and hold in memory.

    Parameters
    ----------
    image, labels
        As there.
    instances
        How many there are, or what `find_instances` found: then the compressed size is estimated
        from a sample of their crops. Without, the number is a guess from the area.
    threads
        Tasks that run at the same time.
    crops
        ``diameter``, ``batch_size``, ``remove_background``, ``extract_mask``, ``dtype``,
        ``scale``, ``codec``, ``shard_size`` and ``shuffle``, as there.
    """
    from harpy_core.raster import Raster

    settings = CropSettings.of(**crops)
    raster = Raster.of(image, labels)
    if instances is None or isinstance(instances, int):
        number, ratio = instances, 1.0
    else:
        from harpy_core.extract.extraction import stored_ratio

        number, ratio = len(instances), stored_ratio(raster, instances, settings)
    return stage_plan(
        "extract",
        raster.info(),
        crops=settings,
        ratio=ratio,
        instances=number,
        threads=threads,
    )
