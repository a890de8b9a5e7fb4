"""Plans of what a job will read, write and hold in memory, from shapes alone, before it runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harpy_core.aggregate.slabs import (
    COMMIT_BYTES,
    COMMIT_COPIES,
    SLAB_BYTES,
    derived_bytes,
    slabs_of,
    value_bytes,
)
from harpy_core.config.crops import CropSettings
from harpy_core.kernels.registry import AUTO, ENGINES
from harpy_core.planning.extract_plan import extract_plan
from harpy_core.planning.parts import (
    CELLS_PER_PIXEL,
    POWER_WORDS,
    SUM_WORDS,
    TASK_BYTES,
    Layers,
    Plan,
    StageSettings,
    finding_bytes,
    instances_in_tile,
    reach_of,
)
from harpy_core.planning.shapes import (
    PIXELS_PER_RUN,
    RUN_BYTES,
    WORD,
    TileShape,
    spatial_tiles,
)
from harpy_core.raster.info import RasterInfo
from harpy_core.statistics.asked import Asked, Stats, resolved
from harpy_core.statistics.declared import Statistic, partials_of, words_of
from harpy_core.statistics.shapes import Shape, label_words_of
from harpy_core.tiles.grid import split_channels

if TYPE_CHECKING:
    from harpy_core.instances.finding import Instances


HISTOGRAM_BYTES = 2**16 * WORD
"""Bytes of the counts of all values of 16 bits."""

PLACED_WORDS = 9
"""Words per pixel of a tile where the places of pixels are needed: offsets, owners, rings, weights
and their products."""

GEOMETRY_WORDS = 11
"""Words of an instance's label and of its pixels' geometry."""

OBS_BYTES = 128
"""Bytes of a table's row beside its statistics: name, label, size and place of an instance, and
copies while they are written (measured)."""

PAIR_BYTES = 300
"""Bytes of a pair of neighbours while matrices are made of all: three values, twice."""

ROW_WORDS = 5
"""Words per run of a tile while its runs are sorted by instance, for shapes (measured; of the runs
that dense tissue has, which are fewer than are planned, it is twice that)."""


def stage_plan(
    stage: str,
    info: RasterInfo,
    *,
    stats: Stats = ("mean", "count"),
    layers: Layers | None = None,
    derived: Collection[str] | None = None,
    neighbors: str | float | None = None,
    whole_channels: bool = False,
    crops: CropSettings | None = None,
    ratio: float = 1.0,
    committed: int = 0,
    sent: bool = False,
    instances: int | None = None,
    densest: int | None = None,
    threads: int = 1,
    engine: str = AUTO,
) -> Plan:
    """Plan one stage.

    Parameters
    ----------
    stage
        ``instances``, ``aggregate``, ``extract``, or ``one_read`` for what the two last commit in
        one read of the image.
    info
        Image and labels.
    stats
        Statistics and shapes to aggregate.
    layers
        Other layers that are measured in the same read, as in the config.
    derived
        Names of the columns derived from theirs.
    neighbors
        What neighbours are, if they are found.
    whole_channels
        Whether whole channels are measured with them.
    crops
        Settings of crops; None takes the defaults.
    ratio
        Bytes on disk per byte of crops, as `harpy_core.extract.extraction.stored_ratio` finds it.
    committed
        Bytes of crops that an interrupted run has on disk already.
    sent
        Whether crops go to a bucket as they are made.
    instances
        Number of instances; None guesses it from the area.
    densest
        Number of instances of the tile that has most, as `densest_tile` finds it; None guesses that
        it has twice as many as others.
    threads
        Number of tasks that run at the same time.
    engine
        Engine that does the arithmetic.
    """
    shape = TileShape.of(info)
    number = instances if instances is not None else math.ceil(shape.plane * CELLS_PER_PIXEL)
    planners = {
        "instances": _instances,
        "aggregate": _aggregate,
        "extract": extract_plan,
        "one_read": _one_read,
    }
    cut = stage in ("extract", "one_read")
    asked = StageSettings(
        stats=stats,
        layers=layers or {},
        derived=len(derived or ()),
        neighbors=neighbors,
        whole_channels=whole_channels,
        crops=(crops or CropSettings()).on(info.spacing) if cut else CropSettings(),
        ratio=ratio,
        committed=committed,
        sent=sent,
        densest=densest,
        threads=threads,
        whole_arrays=engine != AUTO and ENGINES[engine].whole_arrays,
    )
    found = planners[stage](shape, number, instances, asked)
    return _with_angles(found, shape, number, asked) if asked.crops.rotate else found


def _with_angles(plan: Plan, shape: TileShape, number: int, asked: StageSettings) -> Plan:
    """Return the plan of turned crops, whose angles come from a pass over the labels before."""
    before = _aggregate(shape, number, None, replace(asked, stats=("orientation",)))
    return replace(
        plan,
        bytes_read=plan.bytes_read + before.bytes_read,
        bytes_per_task=max(plan.bytes_per_task, before.bytes_per_task),
        result_bytes=max(plan.result_bytes, before.result_bytes),
    )


def _instances(shape: TileShape, number: int, known: int | None, asked: StageSettings) -> Plan:
    per_instance = WORD * (1 + 1 + 3 + 6)
    return Plan(
        stage="instances",
        tasks=shape.tiles,
        bytes_read=shape.plane * shape.label,
        bytes_written=number * per_instance,
        bytes_stored=number * per_instance,
        bytes_per_task=(
            TASK_BYTES
            + shape.label_buffer
            + shape.chunk_buffer
            + shape.label_file
            + asked.whole_arrays * finding_bytes(shape)
        ),
        result_bytes=3 * number * per_instance,
        instances=known,
        device_bytes_per_task=shape.device_labels,
    )


def _aggregate(shape: TileShape, number: int, known: int | None, asked: StageSettings) -> Plan:
    wanted = resolved(asked.stats)
    statistics, shapes = wanted.statistics, wanted.shapes.values()
    if wanted.in_image is None and not asked.whole_channels:
        return _shapes_alone(shape, shapes, number, known, asked)
    words = words_of(statistics.values(), shape.dtype)
    others = len(asked.layers)
    in_layer = value_bytes(words, len(statistics), sum(one.whole for one in statistics.values()))
    in_channel = number * ((1 + others) * in_layer + derived_bytes(asked.derived))
    edges, kept = shape.channel_edges, wanted.together(shape.names)
    slabs = [edges] if shape.lazy else slabs_of(edges, in_channel, SLAB_BYTES, kept)
    parts = sum(
        1 if shape.lazy else len(split_channels(slab, shape.tiles, asked.threads, kept))
        for slab in slabs
    )
    widest = max(slab[-1] - slab[0] for slab in slabs)
    in_tile = instances_in_tile(shape, number, asked)
    part = in_tile * widest * words * WORD
    outputs = number * WORD * sum(len(joint.outputs) for joint in wanted.joints.values())
    layers = len(statistics) + bool(statistics) + asked.derived
    table = number * WORD * (shape.channels * layers + _columns(shapes)) + outputs
    table *= 1 + others
    in_pieces = widest * any(one.whole for one in statistics.values())
    pieces, waiting = _pieces(shape, number, in_pieces + len(wanted.joined(shape.names)))
    return Plan(
        stage="aggregate",
        tasks=shape.tiles * parts,
        bytes_read=shape.plane
        * (shape.channels_read * shape.pixel + parts * (1 + others) * shape.label),
        bytes_written=table,
        bytes_stored=table,
        bytes_per_task=(
            TASK_BYTES
            + shape.reading
            + 2 * part
            + max(
                asked.whole_arrays * _summing(shape, statistics.values()),
                bool(wanted.whole) * _ordering(shape),
            )
            + bool(wanted.whole) * (shape.tile * shape.held + 2 * pieces)
            + _outlining(shape, shapes, number)
            + others * (_held_labels(shape) + 2 * part + _outlining(shape, shapes, number))
            + _making(shape, asked.layers)
            + (1 + others) * _placed(shape, wanted)
            + asked.whole_channels * 4 * min(shape.group, widest) * HISTOGRAM_BYTES
        ),
        result_bytes=(
            in_channel * widest
            + (1 + others) * number * OBS_BYTES
            + (1 + others) * (waiting + _outlines(shape, shapes, number))
            + (1 + others) * (_paired(shape, number, asked) + 3 * outputs)
            + asked.whole_channels * 4 * shape.channels * HISTOGRAM_BYTES
            + _committing(shape, shapes, number, asked)
        ),
        instances=known,
        device_bytes_per_task=(
            shape.device_labels
            + shape.device_planes
            + shape.runs * RUN_BYTES
            + _device_sums(shape, words, in_tile)
        ),
    )


def _one_read(shape: TileShape, number: int, known: int | None, asked: StageSettings) -> Plan:
    """Plan the crops' tasks, each of which measures what the table's tasks on its tiles would."""
    table = _aggregate(shape, number, known, asked)
    crops = extract_plan(shape, number, known, asked)
    return replace(
        crops,
        stage="one_read",
        bytes_read=max(table.bytes_read, crops.bytes_read),
        bytes_written=table.bytes_written + crops.bytes_written,
        bytes_stored=table.bytes_stored + crops.bytes_stored,
        # Tiles are read once.
        bytes_per_task=crops.bytes_per_task + table.bytes_per_task - TASK_BYTES - shape.reading,
        result_bytes=table.result_bytes + crops.result_bytes,
        device_bytes_per_task=crops.device_bytes_per_task + table.device_bytes_per_task,
    )


def _placed(shape: TileShape, wanted: Asked) -> int:
    """Bytes of the places of a tile's pixels, and of pixels in channels that are together."""
    if not wanted.placed:
        return 0
    return shape.tile * (PLACED_WORDS * WORD + len(wanted.joined(shape.names)) * shape.held)


def _shapes_alone(
    shape: TileShape,
    shapes: Collection[Shape],
    number: int,
    known: int | None,
    asked: StageSettings,
) -> Plan:
    """Plan shapes without statistics: the image is not read."""
    finding, others = _instances(shape, number, known, asked), len(asked.layers)
    table = number * WORD * _columns(shapes)
    return replace(
        finding,
        stage="aggregate",
        bytes_written=(1 + others) * table,
        bytes_stored=(1 + others) * table,
        bytes_per_task=(
            finding.bytes_per_task
            + others * _held_labels(shape)
            + (1 + others) * _outlining(shape, shapes, number)
            + _making(shape, asked.layers)
        ),
        result_bytes=(
            (1 + others) * (finding.result_bytes + number * OBS_BYTES)
            + (1 + others) * _outlines(shape, shapes, number)
            + (1 + others) * _paired(shape, number, asked)
            + _committing(shape, shapes, number, asked)
        ),
    )


def _committing(
    shape: TileShape, shapes: Collection[Shape], number: int, asked: StageSettings
) -> int:
    """Bytes of the results of tasks that gather until they are committed, and are being written."""
    wanted = resolved(asked.stats)
    words = shape.channels * words_of(wanted.statistics.values(), shape.dtype)
    returned = number * WORD * (words + GEOMETRY_WORDS + label_words_of(shapes))
    # Pixels and histograms of tiles may be far larger than what is made of them.
    if wanted.whole or asked.whole_channels or any(one.whole for one in shapes):
        returned = COMMIT_BYTES
    return COMMIT_COPIES * min((1 + len(asked.layers)) * returned, COMMIT_BYTES)


def _paired(shape: TileShape, number: int, asked: StageSettings) -> int:
    """Bytes of the pairs of neighbours, and of the faces of tiles that wait for their others."""
    if asked.neighbors is None:
        return 0
    if isinstance(asked.neighbors, str):
        # Cells that fill the plane have six neighbours on average.
        pairs, faces = 3 * number, shape.plane // min(shape.area) * 2 * WORD
    else:
        pairs = math.ceil(number * number / shape.plane * shape.depth * 2 * asked.neighbors**2)
        faces = 0
    return pairs * PAIR_BYTES + faces


def _held_labels(shape: TileShape) -> int:
    """Bytes of a further layer's labels and runs; what they are made of is gone by then."""
    return shape.label_buffer - shape.computed


def _making(shape: TileShape, layers: Layers) -> int:
    """Bytes of a tile of a layer while it is made, one at a time: grown, or placed."""
    # Those of layers that the metadata place, too, which are not opened for the plan.
    placed = any(one["labels"] is not None for one in layers.values())
    return max(_growing(shape, layers), placed * 2 * shape.tile * shape.label)


def _growing(shape: TileShape, layers: Layers) -> int:
    """Bytes of a tile and its surroundings while labels grow."""
    reach = max((max(one["ring"] or [one["expand"] or 0]) for one in layers.values()), default=0)
    if reach == 0:
        return 0
    tall, wide = (
        min(math.ceil(n / k) + 2 * math.floor(reach), n)
        for n, k in zip(shape.area, (shape.rows, shape.columns), strict=True)
    )
    # As read, in the kernel's type, twice the nearest labels and their squares, and the result.
    return shape.depth * tall * wide * (2 * shape.label + 3 * WORD + 2 * WORD)


def _columns(shapes: Collection[Shape]) -> int:
    """Number of columns of some shapes, at most."""
    return 6 * len(shapes)


def _outlining(shape: TileShape, shapes: Collection[Shape], number: int) -> int:
    """Bytes of a tile's runs by instance, and of the words that shapes are finished from."""
    in_tile = math.ceil(number * shape.tile / shape.plane)
    words = 2 * in_tile * label_words_of(shapes)
    whole = any(one.whole for one in shapes)
    return WORD * (words + whole * ROW_WORDS * shape.runs)


def _outlines(shape: TileShape, shapes: Collection[Shape], number: int) -> int:
    """Bytes of the words and columns of all instances, and of the runs of those not yet whole."""
    geometry = 2 * GEOMETRY_WORDS * bool(shapes)
    held = number * WORD * (geometry + 2 * label_words_of(shapes) + 2 * _columns(shapes))
    if not any(one.whole for one in shapes):
        return held
    pixels = _pieces(shape, number, 1)[1] // shape.held
    return held + 4 * WORD * pixels // PIXELS_PER_RUN


def _summing(shape: TileShape, statistics: Iterable[Statistic]) -> int:
    """Bytes that an engine of whole arrays takes to sum a channel's pixels, or to sort them."""
    words = POWER_WORDS if "powers" in partials_of(statistics) else SUM_WORDS
    return shape.tile * (words * WORD + shape.held)


def _ordering(shape: TileShape) -> int:
    """Bytes of the distances of a summed channel's pixels to a centre, and of runs."""
    return shape.tile * 2 * WORD + 4 * shape.runs * WORD


def _pieces(shape: TileShape, number: int, channels: int) -> tuple[int, int]:
    """Bytes of the pixels of instances in several tiles: of one tile's, and of those waiting."""
    # About those within an instance's reach of a border; large ones are counted.
    reach = reach_of(shape, number)
    tall, wide = (
        math.ceil(n / k) for n, k in zip(shape.area, (shape.rows, shape.columns), strict=True)
    )
    in_tile = min(2 * (tall + wide) * reach * shape.depth, shape.tile)
    row = min(2 * (shape.area[1] + tall) * reach * shape.depth, shape.plane)
    return in_tile * channels * shape.held, row * channels * shape.held


def _device_sums(shape: TileShape, words: int, in_tile: int) -> int:
    """Bytes on a GPU of the words of a tile's instances, and of the parts of their sums."""
    parts = shape.runs // 32 + shape.tile // 8192 + in_tile
    pivots = in_tile
    return (parts + in_tile + pivots) * shape.together * words * WORD


def densest_tile(info: RasterInfo, instances: Instances) -> int:
    """Number of instances of the tile that has most of their centroids.

    Parameters
    ----------
    info
        Raster that is worked on.
    instances
        All instances that are.
    """
    import numpy as np

    edges = [np.asarray(axis[1:-1]) for axis in spatial_tiles(info)]
    places = [
        np.searchsorted(inner, centroid, side="right")
        for inner, centroid in zip(edges, instances.centroid.T, strict=True)
    ]
    tile = np.ravel_multi_index(places, [len(inner) + 1 for inner in edges])
    return int(np.bincount(tile).max(initial=0))


def plan_aggregate(
    image: Any,
    labels: Any,
    stats: Stats = ("mean", "count"),
    *,
    whole_channels: bool = False,
    instances: int | Instances | None = None,
    threads: int = 1,
    engine: str = AUTO,
) -> Plan:
    """Plan what `aggregate_stats` would read, write and hold in memory.

    Parameters
    ----------
    image, labels, stats, whole_channels
        See `aggregate_stats`. The bytes that are read are those of all tiles in any case.
    instances
        Number of instances, or the result of `find_instances`: then the densest tile is known. None
        guesses the number from the area.
    threads
        Number of tasks that run at the same time.
    engine
        See `aggregate_stats`.
    """
    from harpy_core.raster import Raster

    info = Raster.of(image, labels).info()
    counted = _counted(info, instances)
    return stage_plan(
        "aggregate",
        info,
        stats=stats,
        whole_channels=whole_channels,
        threads=threads,
        engine=engine,
        **counted,
    )


def plan_extract(
    image: Any,
    labels: Any,
    *,
    instances: int | Instances | None = None,
    threads: int = 1,
    engine: str = AUTO,
    **crops: Any,
) -> Plan:
    """Plan what `extract_instances` would read, write and hold in memory.

    Parameters
    ----------
    image, labels
        See `extract_instances`.
    instances
        Number of instances, or the result of `find_instances`: then the densest tile is known, and
        the compressed size is estimated from a sample of their crops. None guesses the number from
        the area.
    threads
        Number of tasks that run at the same time.
    engine
        See `extract_instances`.
    crops
        Settings of `extract_instances`: ``diameter``, ``batch_size``, ``remove_background``,
        ``extract_mask``, ``neighbor_mask``, ``padding``, ``windows``, ``resolution``, ``spacing``,
        ``rotate``, ``dtype``, ``scale``, ``codec``, ``shard_size`` and ``shuffle``.
    """
    from harpy_core.raster import Raster

    settings = CropSettings.of(**crops).on(None)
    raster = Raster.of(image, labels)
    ratio = 1.0
    if instances is not None and not isinstance(instances, int):
        from harpy_core.extract.extraction import stored_ratio

        ratio = stored_ratio(raster, instances, settings)
    return stage_plan(
        "extract",
        raster.info(),
        crops=settings,
        ratio=ratio,
        threads=threads,
        engine=engine,
        **_counted(raster.info(), instances),
    )


def _counted(info: RasterInfo, instances: int | Instances | None) -> dict[str, Any]:
    """Return what `stage_plan` takes of instances."""
    if instances is None or isinstance(instances, int):
        return {"instances": instances}
    return {"instances": len(instances), "densest": densest_tile(info, instances)}
