"""Plan of an extraction, from shapes alone."""

from __future__ import annotations

import math

from harpy_core.config.crops import CropSettings
from harpy_core.extract.strips import COMMITS_IN_FLIGHT, part_size, strip_shape
from harpy_core.extract.views import View, gathered, views_of
from harpy_core.planning.parts import (
    GATHER_WORDS,
    TASK_BYTES,
    Plan,
    StageSettings,
    finding_bytes,
    instances_in_tile,
    reach_of,
)
from harpy_core.planning.shapes import PIXELS_PER_RUN, WORD, TileShape
from harpy_core.raster.info import itemsize
from harpy_core.tiles.grid import regular_step

SENDING = 2
"""Copies of a file while it is sent: in one piece, and what the connection has not taken yet."""


def extract_plan(shape: TileShape, number: int, known: int | None, asked: StageSettings) -> Plan:
    crops = asked.crops
    views = views_of(crops, shape.depth)
    window = math.prod(gathered(views))
    shown = sum(math.prod(view.size) for view in views)
    group = regular_step(shape.channel_edges)
    stored = itemsize(crops.dtype) if crops.dtype else shape.pixel
    written = number * shown * (shape.channels * stored + crops.masks)
    # All shuffled windows wait in temporary files until the store is complete.
    waiting = number * window * (shape.channels * shape.held + crops.masks)
    kept = [written] * (not asked.sent) + [waiting] * (crops.shuffle is not None)
    on_disk = sum(math.ceil(size * min(asked.ratio, 1.0)) for size in kept)
    rows, columns = (
        (1, 1) if shape.lazy else strip_shape(number, shape.rows, shape.columns, crops.batch)
    )
    strips = math.ceil(shape.rows / rows) * math.ceil(shape.columns / columns)
    groups = 1 if group == shape.channels else shape.groups(strips, asked.threads)
    seen = _windows(shape, number, asked)
    return Plan(
        stage="extract",
        tasks=strips * groups,
        bytes_read=shape.plane * (shape.channels_read * shape.pixel + groups * shape.label),
        bytes_written=written,
        bytes_stored=max(on_disk - asked.committed, 0),
        bytes_per_task=(
            TASK_BYTES
            + shape.reading
            + bool(crops.masks) * shape.tile
            + crops.neighbor_mask * 4 * shape.tile
            + _copies(shape, crops, number, seen, rows * columns)
            + _in_progress(shape, asked, number, seen)
            + _crops_held(shape, asked, views, number, seen, stored)
            * max(group, math.ceil(crops.masks / shape.held))
            + _sampling(views, group)
        ),
        result_bytes=number * WORD * 16,
        instances=known,
        device_bytes_per_task=(
            shape.device_labels
            + shape.device_planes
            + 3 * (shape.runs + _window_rows(shape, crops, seen)) * WORD
            + crops.batch * window * group * shape.held
        ),
        sent=asked.sent,
    )


def _windows(shape: TileShape, number: int, asked: StageSettings) -> int:
    """Number of windows that need pixels of the densest tile: its own, and those around it."""
    over: tuple[int, ...] = gathered(views_of(asked.crops, shape.depth))[1:]
    if not asked.crops.surroundings:
        over = tuple(min(length, reach_of(shape, number)) for length in over)
    around = math.prod(1 + length / side for length, side in zip(over, shape.side, strict=True))
    return min(math.ceil(instances_in_tile(shape, number, asked) * around), number)


def _copies(shape: TileShape, crops: CropSettings, number: int, seen: int, tiles: int) -> int:
    """Bytes of the copies to be made, for all tiles of a strip."""
    runs = _runs(shape, number, seen)
    # Four columns for each tile, and two of all runs where these are counted.
    counted = 2 * runs * crops.neighbor_mask
    return tiles * (4 * (runs + _window_rows(shape, crops, seen)) + counted) * WORD


def _in_progress(shape: TileShape, asked: StageSettings, number: int, seen: int) -> int:
    """Bytes of what follows on itself: runs are found, their copies sorted, and batches filled."""
    rows = _window_rows(shape, asked.crops, seen)
    copies = 12 * max(_runs(shape, number, seen), rows) * WORD
    if not asked.whole_arrays:
        return copies
    return max(copies, finding_bytes(shape), _gathering(shape, asked.crops, number))


def _runs(shape: TileShape, number: int, seen: int) -> int:
    """Number of runs of a tile's instances: a row of a cell is rarely more than one."""
    return min(2 * shape.tile // PIXELS_PER_RUN, seen * reach_of(shape, number) * shape.depth)


def _window_rows(shape: TileShape, crops: CropSettings, seen: int) -> int:
    """Number of rows of a tile's windows: those that keep their background are copied by row."""
    rows = math.prod(gathered(views_of(crops, shape.depth))[:2])
    return seen * rows if crops.surroundings else 0


def _crops_held(
    shape: TileShape,
    asked: StageSettings,
    views: tuple[View, ...],
    number: int,
    seen: int,
    stored: int,
) -> int:
    """Bytes of a channel of the windows that a task holds: open ones, and crops made of them."""
    crops = asked.crops
    window = math.prod(gathered(views)) * shape.held
    crop = max(math.prod(view.size) for view in views) * stored
    part = part_size(crops.batch_size, crops.batch)
    unit = min(crops.batch if crops.shuffle is None else part, number)
    units = min(math.ceil(seen / max(unit, 1)) + 1, math.ceil(number / max(unit, 1)))
    opened = units * unit + min(part, number)
    # Those that wait for the disk or the network, and the one that is encoded next.
    files = COMMITS_IN_FLIGHT + 1 + SENDING * asked.sent
    leaving = math.ceil(files * unit * min(asked.ratio, 1.0))
    as_gathered = len(views) == 1 and views[0].plain and not crops.dtype
    converted = 0 if as_gathered else unit
    return opened * window + leaving * max(window, crop) + converted * crop


def _sampling(views: tuple[View, ...], group: int) -> int:
    """Bytes that it takes to interpolate one window: terms of its pixels, and planes in float64."""
    return max(
        0
        if view.plain
        else math.prod(view.size[1:]) * 2 * WORD * (4 * view.samples**2 + 1)
        + 3 * WORD * group * math.prod(view.size)
        for view in views
    )


def _gathering(shape: TileShape, crops: CropSettings, number: int) -> int:
    """Bytes that an engine of whole arrays takes to copy the pixels of a batch."""
    pixels = math.prod(gathered(views_of(crops, shape.depth)))
    if not crops.surroundings:
        # The cells of a batch are seldom twice as large as on average.
        cells = 2 * crops.batch * reach_of(shape, number) ** 2 * shape.depth
        return GATHER_WORDS * WORD * min(crops.batch * pixels, cells, shape.tile)
    return GATHER_WORDS * WORD * crops.batch * pixels
