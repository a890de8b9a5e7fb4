"""Plans of what a job will read, write and hold in memory, from shapes alone, before it runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harpy_core.config.crops import CropSettings
from harpy_core.kernels.registry import AUTO, ENGINES
from harpy_core.planning.aggregate_plan import aggregate_plan
from harpy_core.planning.extract_plan import extract_plan
from harpy_core.planning.parts import (
    CELLS_PER_PIXEL,
    TASK_BYTES,
    Layers,
    Plan,
    StageSettings,
    instances_plan,
)
from harpy_core.planning.shapes import TileShape, spatial_tiles
from harpy_core.raster.info import RasterInfo
from harpy_core.statistics.asked import Stats, of_section

if TYPE_CHECKING:
    from harpy_core.instances.finding import Instances


def stage_plan(
    stage: str,
    info: RasterInfo,
    *,
    stats: Stats = ("mean", "count"),
    layers: Layers | None = None,
    derived: Collection[str] | None = None,
    neighbors: str | float | None = None,
    spacing: str | Sequence[float] | None = None,
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
    spacing
        Side of a pixel along each axis of the labels, in whose unit a distance between neighbours
        is; or ``metadata``, for that of the image.
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
        "instances": instances_plan,
        "aggregate": aggregate_plan,
        "extract": extract_plan,
        "one_read": _one_read,
    }
    cut = stage in ("extract", "one_read")
    asked = StageSettings(
        stats=stats,
        layers=layers or {},
        derived=len(derived or ()),
        neighbors=_in_pixels(neighbors, info.spacing if isinstance(spacing, str) else spacing),
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


def table_settings(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `stage_plan` takes of a config's section aggregate."""
    named = ("layers", "derived", "neighbors", "spacing", "whole_channels")
    return {"stats": of_section(section), **{name: section[name] for name in named}}


def _in_pixels(neighbors: str | float | None, sides: Sequence[float] | None) -> str | float | None:
    """Return a distance between neighbours in pixels, of a circle of as many."""
    if neighbors is None or isinstance(neighbors, str) or sides is None:
        return neighbors
    return neighbors / math.sqrt(sides[-2] * sides[-1])


def _with_angles(plan: Plan, shape: TileShape, number: int, asked: StageSettings) -> Plan:
    """Return the plan of turned crops, whose angles come from a pass over the labels before."""
    before = aggregate_plan(shape, number, None, replace(asked, stats=("orientation",)))
    return replace(
        plan,
        bytes_read=plan.bytes_read + before.bytes_read,
        bytes_per_task=max(plan.bytes_per_task, before.bytes_per_task),
        result_bytes=max(plan.result_bytes, before.result_bytes),
    )


def _one_read(shape: TileShape, number: int, known: int | None, asked: StageSettings) -> Plan:
    """Plan the crops' tasks, each of which measures what the table's tasks on its tiles would."""
    table = aggregate_plan(shape, number, known, asked)
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
