"""Forecast of what a config's cases will read, write and hold, before any of it exists.

It finds or predicts the raster of each case and lists the plan of every stage. Figures come from
`harpy_core.planning.plan`, refusals from `harpy_core.planning.fits`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harpy_core.config.cases import ImageCase, image_cases
from harpy_core.config.crops import Extract
from harpy_core.config.models import Aggregate, Case, Cluster, Config
from harpy_core.config.sizes import amount, parse_bytes
from harpy_core.errors import InputError
from harpy_core.kernels.registry import AUTO, ENGINES
from harpy_core.planning.embed_plan import embed_plan
from harpy_core.planning.fits import free_disk, refuse_unfit, worker_bytes
from harpy_core.planning.parts import Plan
from harpy_core.planning.plan import stage_plan, table_settings
from harpy_core.planning.rasters import case_raster, check_layers, source_raster
from harpy_core.planning.tile_plan import at_work, tile_plan
from harpy_core.raster.info import RasterInfo
from harpy_core.running.given import given_cores, given_memory
from harpy_core.running.workers import KILLED_AT, Workers, engine_here

TILE_THREADS = 8
"""Cores that the rule tile takes at most."""

_HEADS = ("case", "stage", "tasks", "reads", "writes", "on disk", "a worker holds", "free disk")


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """One stage of one case, or its measured runs together, before it runs."""

    case: str
    plan: Plan
    workers: Workers
    free: int
    measured: bool = False

    def cells(self) -> tuple[str, ...]:
        """Cells of its row in the table."""
        plan = self.plan
        moved = (plan.bytes_read, plan.bytes_written, plan.bytes_stored)
        sizes = map(amount, (*moved, worker_bytes(plan, self.workers), self.free))
        return self.case, plan.stage, f"{plan.tasks:,}", *sizes


def table(config: Config) -> str:
    """Write the plan of every case and stage as text, with what does not fit below it."""
    results = Path(config.results)
    stages = [
        stage
        for name, case in image_cases(config).items()
        for stage in _planned_stages(name, case, config, results)
    ]
    lines = [_HEADS, *(stage.cells() for stage in stages)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    text.insert(1, "-" * len(text[0]))
    notes = [
        f"does not fit: {stage.case}: {error}"
        for stage in stages
        for error in _misfits(stage, config)
    ]
    return "\n".join([*text, *notes])


def sentence(plan: Plan, workers: Workers, folder: Path) -> str:
    """Write what a stage is about to do, in one line.

    Parameters
    ----------
    plan
        Plan of the stage.
    workers
        Workers of the stage.
    folder
        Folder of the result.
    """
    who = "" if plan.instances is None else f"{plan.instances:,} instances, "
    stored = f" (about {amount(plan.bytes_stored)} on disk, from a sample)"
    if plan.sent:
        stored = f" to a bucket ({amount(plan.bytes_stored)} on disk meanwhile)"
    elif plan.bytes_stored == plan.bytes_written:
        stored = ""
    return (
        f"{plan.stage}: {who}{plan.tasks:,} tasks; reads {amount(plan.bytes_read)}, writes "
        f"{amount(plan.bytes_written)}{stored}; a worker of {workers.threads} threads "
        f"holds {amount(worker_bytes(plan, workers))}; {amount(free_disk(folder))} of disk are free"
    )


def _planned_stages(
    name: str, case: ImageCase, config: Config, results: Path
) -> Iterator[PlannedStage]:
    info, instances = case_raster(name, case, results)
    check_layers(case)
    free = free_disk(results)
    engine = engine_here(config.cluster, case.engine)
    workers = Workers.of(config.cluster, given_cores(), engine)
    if case.tile is not None:
        tiling = Workers(1, at_work(min(given_cores(), TILE_THREADS)), given_memory())
        others = len(case.aggregate.opened_layers) if case.aggregate else 0
        plan = tile_plan(source_raster(case)[0], case.tile, others)
        yield PlannedStage(name, plan, tiling, free)
    for plan in _plans(name, case, info, instances, results):
        yield PlannedStage(name, plan, workers, free)
    if case.embed is not None and case.extract is not None:
        of_model = engine_here(config.cluster, case.embed.engine)
        with_model = Workers.of(config.cluster, given_cores(), of_model)
        plan = embed_plan(case.embed, case.extract, info, instances)
        yield PlannedStage(name, plan, with_model, free)
    if case.benchmark is not None:
        yield from _planned_runs(name, case, info, instances, free)


def _plans(
    name: str, case: ImageCase, info: RasterInfo, instances: int | None, results: Path
) -> Iterator[Plan]:
    yield stage_plan("instances", info, instances=instances, engine=case.engine)
    # Each of them goes on from what one read for both has committed.
    rest: dict[str, Any] = {"bytes_read": 0} if case.one_read else {}
    ratio = 1.0
    if case.extract is not None:
        ratio = _sampled_ratio(case.extract, info, results / name / "instances.zarr")
    if case.aggregate is not None:
        asked: dict[str, Any] = {"instances": instances, "engine": case.engine}
        asked |= table_settings(case.aggregate.model_dump())
        if case.one_read:
            yield stage_plan("one_read", info, crops=case.extract, ratio=ratio, **asked)
        yield dataclasses.replace(stage_plan("aggregate", info, **asked), **rest)
    if case.extract is not None:
        plan = extract_plan(case.extract, info, instances, ratio, case.engine)
        yield dataclasses.replace(plan, **rest)


def extract_plan(
    section: Extract,
    info: RasterInfo,
    instances: int | None,
    ratio: float = 1.0,
    engine: str = AUTO,
) -> Plan:
    """Plan a case's section extract.

    Parameters
    ----------
    section
        Section of the config.
    info
        Raster of the case.
    instances
        Number of its instances, if known.
    ratio
        Bytes on disk per byte of crops.
    engine
        Engine that cuts them.
    """
    if section.channels is not None:
        # The channels of a data set that is not there yet have no names.
        known = set(section.channels) <= set(info.channels)
        info = (
            info.choosing(section.channels)
            if known
            else dataclasses.replace(info, channels=section.channels, numbers=None)
        )
    if isinstance(section.index, list):
        instances = len(section.index)
    return stage_plan(
        "extract", info, crops=section, instances=instances, ratio=ratio, engine=engine
    )


def _sampled_ratio(section: Extract, info: RasterInfo, found: Path) -> float:
    """Compression ratio of crops, if the instances are known and crops can be sampled."""
    if not found.with_name("instances.manifest.json").is_file():
        return 1.0
    from harpy_core.extract.extraction import stored_ratio
    from harpy_core.instances.finding import Instances
    from harpy_core.raster import open_described

    raster = open_described(info.choosing(section.channels))
    return stored_ratio(raster, Instances.read(found), section.on(raster.spacing))


def _planned_runs(
    name: str, case: Case, info: RasterInfo, instances: int | None, free: int
) -> Iterator[PlannedStage]:
    """Plan the measured runs of each stage together; each run's result is removed after it."""
    sweep = case.benchmark
    assert sweep is not None
    limit = parse_bytes(sweep.memory_limit)
    for stage in sweep.stages:
        workers = Workers(max(getattr(sweep.workers, stage)), sweep.threads_per_worker, limit)
        runs = len(getattr(sweep.workers, stage)) * len(sweep.engines) * sweep.repeats
        runs *= len(sweep.cache)
        stats, crops = Aggregate().stats[:1], case.extract or Extract()
        plans = [
            extract_plan(crops, info, instances, engine=engine)
            if stage == "extract"
            else stage_plan(stage, info, stats=stats, instances=instances, engine=engine)
            for engine in ENGINES
            if engine in sweep.engines
        ]
        # The peer's memory is not planned.
        plan = max(plans, key=lambda plan: plan.bytes_per_task)
        whole = dataclasses.replace(
            plan, stage=f"{runs} x {stage}", bytes_read=runs * plan.bytes_read
        )
        yield PlannedStage(name, whole, workers, free, measured=True)


def _misfits(stage: PlannedStage, config: Config) -> Iterator[str]:
    """Yield the reason why a planned stage does not fit, if it does not."""
    needed, limit = worker_bytes(stage.plan, stage.workers), stage.workers.memory
    if stage.measured:
        if limit is not None and needed > KILLED_AT * limit:
            yield (
                f"benchmark.memory_limit = {amount(limit)}: a worker of {stage.plan.stage} "
                f"holds {amount(needed)}: raise it, or lower threads_per_worker"
            )
        return
    # Tiling is a process of its own, wherever the workers of the other stages are.
    cluster = Cluster() if stage.plan.stage == "tile" else config.cluster
    try:
        refuse_unfit(stage.plan, stage.workers, cluster, given_cores(), Path(config.results))
    except InputError as error:
        yield str(error)
