"""What a config's cases will read, write and hold, before anything of it exists.

Finds or foretells the raster of each case, lists the plan of every stage, and refuses a stage that
cannot fit its workers or the disk. The figures themselves are `harpy_core.planning.plan`'s.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harpy_core.config.cases import ImageCase, image_cases
from harpy_core.config.crops import Extract
from harpy_core.config.models import DATASETS, Aggregate, Case, Cluster, Config, Tile
from harpy_core.config.sizes import amount, parse_bytes
from harpy_core.datasets import REGISTRY
from harpy_core.errors import InputError
from harpy_core.planning.plan import Plan, stage_plan
from harpy_core.raster.info import RasterInfo, itemsize
from harpy_core.storage.manifest import read_manifest

if TYPE_CHECKING:
    from distributed import Client

THREADS_PER_WORKER = 4
"""Where the config names no number: as `running.cluster` has it, which is slow to import."""

LABELS_RATIO = 20
"""Bytes of labels for a byte on disk, at least; of tissue, dense and sparse, it is 37 to 250."""

_HEADS = ("case", "stage", "tasks", "reads", "writes", "on disk", "a worker holds", "free disk")


@dataclass(frozen=True, slots=True)
class Row:
    """One stage of one case, planned."""

    case: str
    plan: Plan
    worker_bytes: int
    free: int

    def cells(self) -> tuple[str, ...]:
        """What the table shows."""
        plan = self.plan
        moved = (plan.bytes_read, plan.bytes_written, plan.bytes_stored)
        sizes = map(amount, (*moved, self.worker_bytes, self.free))
        return self.case, plan.stage, f"{plan.tasks:,}", *sizes


def table(config: Config, results: Path = Path("results")) -> str:
    """The plan of every case and stage as text, with what does not fit below it."""
    rows = [
        row
        for name, unit in image_cases(config).items()
        for row in _rows(name, unit, config, results)
    ]
    lines = [_HEADS, *(row.cells() for row in rows)]
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
        f"does not fit: {row.case}: {error}" for row in rows for error in _misfits(row, config)
    ]
    return "\n".join([*text, *notes])


def describe_source(source: dict[str, Any]) -> RasterInfo:
    """Describe a source; a registered dataset by the elements it is known to have.

    Parameters
    ----------
    source
        A `config.models.Source` as builtins, with the path in `uri`, and in `dataset` the
        registered name or None.
    """
    from harpy_core.datasets import REGISTRY
    from harpy_core.raster import describe

    image, labels = source["image"], source["labels"]
    if source["dataset"] is not None:
        known = REGISTRY[source["dataset"]]
        image, labels = image or known.image, labels or known.labels
    return describe(
        source["uri"],
        image=image,
        labels=labels,
        channels=source["channels"],
        level=source["level"],
        storage_options=source["storage_options"],
        cache=source["cache"],
    )


def sentence(plan: Plan, cluster: Cluster, threads: int, folder: Path) -> str:
    """What a stage is about to do, in one line.

    Parameters
    ----------
    plan
        The stage's.
    cluster
        Where its workers run.
    threads
        Cores that the job was given on this machine.
    folder
        Where the result goes.
    """
    each, _ = _workers(cluster, threads)
    who = "" if plan.instances is None else f"{plan.instances:,} instances, "
    stored = (
        ""
        if plan.bytes_stored == plan.bytes_written
        else (f" (about {amount(plan.bytes_stored)} on disk, from a sample)")
    )
    return (
        f"{plan.stage}: {who}{plan.tasks:,} tasks; reads {amount(plan.bytes_read)}, writes "
        f"{amount(plan.bytes_written)}{stored}; a worker of {each} threads holds "
        f"{amount(each * plan.bytes_per_task)}; {amount(free_disk(folder))} of disk are free"
    )


def _workers(cluster: Cluster, threads: int) -> tuple[int, int]:
    """Threads of a worker, and how many workers there are."""
    each = cluster.threads_per_worker or min(threads, THREADS_PER_WORKER)
    return each, cluster.workers or max(threads // each, 1)


def refuse_unfit(plan: Plan, cluster: Cluster, threads: int, folder: Path) -> None:
    """Refuse a stage that its workers' memory or the disk cannot hold.

    Parameters
    ----------
    plan
        The stage's.
    cluster
        Where its workers run.
    threads
        Cores that the job was given on this machine.
    folder
        Where the result goes.

    Raises
    ------
    InputError
        In one line: what is needed, what there is, and the setting to change.
    """
    each, workers = _workers(cluster, threads)
    needed = each * plan.bytes_per_task
    if cluster.memory_limit is not None and needed > parse_bytes(cluster.memory_limit):
        raise InputError(
            f"cluster.memory_limit = {cluster.memory_limit}: a worker of {plan.stage} holds "
            f"{amount(needed)} with {each} threads: raise it, or lower cluster.threads_per_worker"
        )
    whole = plan.memory(workers * each)
    if cluster.kind == "local" and whole > machine_memory():
        raise InputError(
            f"--cores = {threads}: {plan.stage} holds {amount(whole)} with as many threads, this "
            f"machine has {amount(machine_memory())}: give fewer cores, or make smaller chunks"
        )
    free = free_disk(folder)
    if plan.bytes_stored > free:
        sampled = plan.bytes_stored != plan.bytes_written
        raise InputError(
            f"{folder}: {plan.stage} {'will take about' if sampled else 'may take'} "
            f"{amount(plan.bytes_stored)} there, {amount(free)} are free: "
            "free some, or run in a folder on another disk"
        )


def refuse_small_gpus(plan: Plan, engine: str, client: Client) -> None:
    """Refuse a stage whose tasks do not fit the GPUs of their workers, where they run on some.

    Parameters
    ----------
    plan
        The stage's.
    engine
        That was asked for.
    client
        The workers.

    Raises
    ------
    InputError
        In one line: what is needed, what there is, and the setting to change.
    """
    from harpy_core.running import engines

    if not plan.device_bytes_per_task:
        return
    threads = client.nthreads()
    for worker, free in engines.free_on_gpus(engine, client).items():
        needed = threads[worker] * plan.device_bytes_per_task
        if needed > free:
            raise InputError(
                f"worker {worker}: {plan.stage} holds {amount(needed)} on its GPU with "
                f"{threads[worker]} threads, {amount(free)} are free there: lower "
                "cluster.threads_per_worker, or choose the engine numba"
            )


def machine_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_disk(folder: Path) -> int:
    """Bytes free where a folder is, or will be."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(there).free


def case_raster(name: str, case: ImageCase, results: Path) -> tuple[RasterInfo, int | None]:
    """The raster that a case will work on, and its instances where they are known.

    Found where the workflow has described it; else the source's, as it is on disk or, for a
    registered name, as it is known to be, and repeated to the target size.
    """
    described = results / name / ("tiled.json" if case.tile else "source.json")
    counted = results / name / "instances.manifest.json"
    if described.is_file():
        known = int(read_manifest(counted)["instances"]) if counted.is_file() else None
        return RasterInfo.from_json(described), known
    return _tiled(*_source_raster(case), case)


def _source_raster(case: ImageCase) -> tuple[RasterInfo, int | None]:
    if case.source.uri in DATASETS:
        return _foretold(case.source.uri, case.source.channels)
    return describe_source({**case.source.model_dump(), "dataset": None}), None


def _foretold(name: str, channels: list[str] | None) -> tuple[RasterInfo, int]:
    known = REGISTRY[name]
    count = len(channels) if channels else known.shape[0]
    info = RasterInfo(
        uri=name,
        image=None,
        labels=None,
        channels=[str(channel) for channel in range(count)],
        image_shape=(count, *known.shape[1:]),
        image_chunks=known.chunks,
        image_dtype=known.dtype,
        labels_shape=known.shape[1:],
        labels_chunks=known.chunks[1:],
        labels_dtype=known.labels_dtype,
        fingerprint="",
    )
    return info, known.instances


def _tiled(info: RasterInfo, instances: int | None, case: Case) -> tuple[RasterInfo, int | None]:
    if case.tile is None:
        return info, instances
    target = case.tile
    depth = info.image_shape[1:-2]
    repeats = target.y * target.x / math.prod(info.image_shape[-2:])
    tiled = dataclasses.replace(
        info,
        channels=[str(channel) for channel in range(target.c)],
        image_shape=(target.c, *depth, target.y, target.x),
        image_chunks=(target.chunks[0], *info.image_chunks[1:-2], *target.chunks[1:]),
        labels_shape=(*depth, target.y, target.x),
        labels_chunks=(*info.labels_chunks[:-2], *target.chunks[1:]),
    )
    return tiled, None if instances is None else math.ceil(instances * repeats)


def _rows(name: str, case: ImageCase, config: Config, results: Path) -> Iterator[Row]:
    info, instances = case_raster(name, case, results)
    free = free_disk(results)
    each = config.cluster.threads_per_worker or THREADS_PER_WORKER
    for plan in _plans(name, case, info, instances, results):
        yield Row(name, plan, each * plan.bytes_per_task, free)
    if case.benchmark is not None:
        yield from _sweep_rows(name, case, info, instances, free)


def _plans(
    name: str, case: ImageCase, info: RasterInfo, instances: int | None, results: Path
) -> Iterator[Plan]:
    if case.tile is not None:
        yield _tile_plan(_source_raster(case)[0], info, case.tile)
    yield stage_plan("instances", info, instances=instances)
    if case.aggregate is not None:
        yield stage_plan("aggregate", info, stats=case.aggregate.stats, instances=instances)
    if case.extract is not None:
        ratio = _sampled_ratio(case.extract, info, results / name / "instances.zarr")
        yield extract_plan(case.extract, info, instances, ratio)


def extract_plan(
    section: Extract, info: RasterInfo, instances: int | None, ratio: float = 1.0
) -> Plan:
    """The plan of a case's section extract.

    Parameters
    ----------
    section
        Of the config.
    info
        The raster.
    instances
        How many it has, where that is known.
    ratio
        Bytes on disk of a byte of crops.
    """
    if section.channels is not None:
        info = dataclasses.replace(info, channels=section.channels)
    if isinstance(section.index, list):
        instances = len(section.index)
    return stage_plan("extract", info, crops=section, instances=instances, ratio=ratio)


def _sampled_ratio(section: Extract, info: RasterInfo, found: Path) -> float:
    """How small crops become, where the instances are known and crops can be tried."""
    if not found.with_name("instances.manifest.json").is_file():
        return 1.0
    from harpy_core.extract.extraction import stored_ratio
    from harpy_core.instances.finding import Instances
    from harpy_core.raster import open_described

    raster = open_described(info.choosing(section.channels))
    return stored_ratio(raster, Instances.read(found), section)


def _tile_plan(source: RasterInfo, info: RasterInfo, tile: Tile) -> Plan:
    """Making the tiled store: each distinct chunk once where they are linked, and the labels."""
    shape, chunks = info.image_shape, info.image_chunks
    counts = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    chunk = math.prod(chunks) * itemsize(info.image_dtype)
    written = math.prod(counts) * chunk
    if tile.method == "link":
        # As `harpy_core.tiling.linking` has it, which is slow to import.
        periods = [n // math.gcd(n, c) for n, c in zip(source.image_shape, chunks, strict=True)]
        distinct = math.prod(map(min, counts, periods))
        on_grid = all(
            n <= own or own % c == 0
            for n, own, c in zip(shape, source.image_shape, chunks, strict=True)
        )
        as_it_is = tile.codec is None and tile.shard is None and chunks == source.image_chunks
        written = 0 if as_it_is and on_grid else distinct * chunk
    labels = math.prod(info.labels_shape) * itemsize(info.labels_dtype)
    stored = written + labels // LABELS_RATIO
    return Plan("tile", math.prod(counts), written, written + labels, stored, 2 * chunk, 0, None)


def _sweep_rows(
    name: str, case: Case, info: RasterInfo, instances: int | None, free: int
) -> Iterator[Row]:
    """The measured runs of each stage together; each run's result is removed after it."""
    sweep = case.benchmark
    assert sweep is not None
    for stage in sweep.stages:
        runs = len(getattr(sweep.workers, stage)) * len(sweep.engines) * sweep.repeats
        if stage == "extract":
            plan = extract_plan(case.extract or Extract(), info, instances)
        else:
            plan = stage_plan(stage, info, stats=Aggregate().stats[:1], instances=instances)
        whole = dataclasses.replace(
            plan, stage=f"{runs} x {stage}", bytes_read=runs * plan.bytes_read
        )
        yield Row(name, whole, sweep.threads_per_worker * plan.bytes_per_task, free)


def _misfits(row: Row, config: Config) -> Iterator[str]:
    """Why a planned stage does not fit, if it does not."""
    sweep = image_cases(config)[row.case].benchmark
    if " x " in row.plan.stage and sweep is not None:
        if row.worker_bytes > parse_bytes(sweep.memory_limit):
            yield (
                f"benchmark.memory_limit = {sweep.memory_limit}: a worker of {row.plan.stage} "
                f"holds {amount(row.worker_bytes)}: raise it, or lower threads_per_worker"
            )
        return
    threads = len(os.sched_getaffinity(0))
    try:
        refuse_unfit(row.plan, config.cluster, threads, Path("results"))
    except InputError as error:
        yield str(error)
