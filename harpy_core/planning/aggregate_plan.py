"""Plan of statistics and shapes, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace

from harpy_core.aggregate.slabs import (
    COMMIT_BYTES,
    COMMIT_COPIES,
    SLAB_BYTES,
    derived_bytes,
    slabs_of,
    value_bytes,
)
from harpy_core.planning.parts import (
    POWER_WORDS,
    SUM_WORDS,
    TASK_BYTES,
    Layers,
    Plan,
    StageSettings,
    instances_in_tile,
    instances_plan,
    reach_of,
)
from harpy_core.planning.shapes import PIXELS_PER_RUN, RUN_BYTES, WORD, TileShape
from harpy_core.statistics.asked import Asked, resolved
from harpy_core.statistics.declared import Statistic, partials_of, words_of
from harpy_core.statistics.shapes import Shape, label_words_of
from harpy_core.tiles.grid import split_channels

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


def aggregate_plan(shape: TileShape, number: int, known: int | None, asked: StageSettings) -> Plan:
    """Plan the statistics of all instances, or their shapes alone."""
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
    finding, others = instances_plan(shape, number, known, asked), len(asked.layers)
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
        near = number / shape.plane * shape.depth * 4 * asked.neighbors**2
        pairs, faces = math.ceil(number * min(near, number - 1) / 2), 0
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
