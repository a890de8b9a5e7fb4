"""Resources of a rule's job: threads, GPUs, memory and time, known before it runs.

A method is a rule's threads or resource function: it takes what Snakemake passes to those. A job
that is tried again asks for more memory and time each time, whatever it lacked: a batch system
does not say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harpy_core.config.crops import CropSettings
from harpy_core.config.models import PEER
from harpy_core.config.sizes import parse_bytes
from harpy_core.datasets import REGISTRY
from harpy_core.kernels.registry import AUTO, has_gpus
from harpy_core.planning import durations
from harpy_core.running.workers import PROCESS_BYTES, Workers
from harpy_core.workflow.questions import Questions, most_workers

if TYPE_CHECKING:
    from harpy_core.planning.parts import Plan

SNAKEMAKE_MB = 310
"""Memory that Snakemake takes inside a job of its own (measured)."""

MOST_THREADS = 32
"""Cores that a stage on this machine takes at most."""

SMALL_MINUTES = 30
"""Time of a job that no image makes long: a picture, a small data set."""

LONG_MINUTES = 720
"""Time of a job that no plan foretells: a published data set (100 GB at 5 MB/s), or a model."""

MARGIN = 1.1
"""Share of the planned peak that is asked for: a batch system that samples memory counts pages that
processes share once for each."""


def growing(amount: int) -> Callable[..., int]:
    """Make a resource function: an amount for the first try of a job, twice as much for the next.

    Parameters
    ----------
    amount
        Memory in MB, or time in minutes.
    """

    def grown(wildcards: Any, attempt: int) -> int:
        return amount * 2 ** (attempt - 1)

    return grown


def number_of_try(wildcards: Any, attempt: int) -> int:
    """Number of the try, from 1 (a resource function): a script has no other way to know."""
    return attempt


def _with_margin(mb: int, attempt: int) -> int:
    """Memory to ask for: half as much again in each further try."""
    return math.ceil(MARGIN * mb * (1 + (attempt - 1) / 2))


class Needs:
    """Resources that the jobs of a config need.

    Parameters
    ----------
    asked
        Answers of the config to the rules.
    """

    def __init__(self, asked: Questions) -> None:
        self._asked, self._cluster = asked, asked.config.cluster

    def threads(self, wildcards: Any) -> int:
        """Cores of this machine for a stage; one where its workers run elsewhere."""
        return MOST_THREADS if self._cluster.kind == "local" else 1

    def gpus(self, wildcards: Any) -> int:
        """GPUs of a stage's job: one for each worker that it starts on its own machine."""
        workers = Workers.of(self._cluster, 1, self._asked.engine(wildcards))
        return workers.gpus if workers.here else 0

    def memory_mb(self, stage: str) -> Callable[..., int]:
        """Make a resource function: memory of a stage's job in MB, from shapes alone."""

        def mem_mb(wildcards: Any, input: Any, threads: int, attempt: int) -> int:
            engine = self._asked.engine(wildcards)
            workers = Workers.of(self._cluster, threads, engine)
            plan = self._plan(stage, wildcards, input.raster, engine)
            return _with_margin(_job_mb(plan, workers), attempt)

        return mem_mb

    def dataset_memory_mb(self, wildcards: Any, threads: int, attempt: int) -> int:
        """Memory of the rule download in MB (a resource function)."""
        from harpy_core.planning.side_plans import dataset_bytes

        held = dataset_bytes(REGISTRY[wildcards.dataset], threads)
        return _with_margin(SNAKEMAKE_MB + held // 10**6, attempt)

    def joined_memory_mb(self, wildcards: Any, input: Any, attempt: int) -> int:
        """Memory of the rule join_tables in MB (a resource function)."""
        from harpy_core.aggregate.slabs import ROWS
        from harpy_core.planning.side_plans import joined_bytes
        from harpy_core.storage.manifest import read_manifest

        found = [read_manifest(manifest) for manifest in input.manifests]
        instances = sum(manifest["instances"] for manifest in found)
        held = joined_bytes(instances, len(found[0]["channels"]), ROWS)
        return _with_margin(SNAKEMAKE_MB + held // 10**6, attempt)

    def minutes(self, stage: str) -> Callable[..., int]:
        """Make a resource function: time of a stage's job in minutes, from shapes alone."""

        def runtime(wildcards: Any, input: Any, threads: int, attempt: int) -> int:
            engine = self._asked.engine(wildcards)
            workers = Workers.of(self._cluster, threads, engine)
            plan = self._plan(stage, wildcards, input.raster, engine)
            cores = workers.processes * workers.threads
            return durations.stage_minutes(plan, cores) * 2 ** (attempt - 1)

        return runtime

    def tile_memory_mb(self, wildcards: Any, input: Any, threads: int, attempt: int) -> int:
        """Memory of the rule tile in MB (a resource function)."""
        from harpy_core.planning.tile_plan import at_work

        held = PROCESS_BYTES + self._tile_plan(wildcards, input).memory(at_work(threads))
        return _with_margin(SNAKEMAKE_MB + held // 10**6, attempt)

    def tile_minutes(self, wildcards: Any, input: Any, threads: int, attempt: int) -> int:
        """Time of the rule tile in minutes (a resource function)."""
        plan = self._tile_plan(wildcards, input)
        return durations.stage_minutes(plan, threads) * 2 ** (attempt - 1)

    def download_minutes(self, wildcards: Any, attempt: int) -> int:
        """Time of the rule download in minutes (a resource function); a published one is large."""
        published = REGISTRY[wildcards.dataset].sha256 is not None
        return growing(LONG_MINUTES if published else SMALL_MINUTES)(wildcards, attempt)

    def embedding_gpus(self, wildcards: Any) -> int:
        """GPUs of the rule embed: one for each worker that it starts on its own machine."""
        workers = Workers.of(self._cluster, 1, self._asked.model_engine(wildcards))
        return workers.gpus if workers.here else 0

    def embedding_memory_mb(self, wildcards: Any, input: Any, threads: int, attempt: int) -> int:
        """Memory of the rule embed in MB (a resource function): crops, batches and models."""
        from harpy_core.planning.embed_plan import embed_plan
        from harpy_core.raster.info import RasterInfo
        from harpy_core.storage.manifest import read_manifest

        case = self._asked.case(wildcards)
        assert case.embed is not None and case.extract is not None
        found = Path(input.manifest)
        number = read_manifest(found)["instances"] if found.is_file() else None
        info = RasterInfo.from_json(input.raster)
        plan = embed_plan(case.embed, case.extract, info, number)
        workers = Workers.of(self._cluster, threads, self._asked.model_engine(wildcards))
        return _with_margin(_job_mb(plan, workers), attempt)

    def measured_gpus(self, wildcards: Any) -> int:
        """GPUs of a sweep: one for each worker of its largest run."""
        sweep = self._asked.case(wildcards).benchmark
        assert sweep is not None
        on_gpus = any(engine != PEER and has_gpus(engine) for engine in sweep.engines)
        return most_workers(sweep) if on_gpus else 0

    def measured_memory_mb(self, wildcards: Any, input: Any) -> int:
        """Memory of a sweep in MB: that of its largest plan, or all that the peer may take."""
        sweep = self._asked.case(wildcards).benchmark
        assert sweep is not None
        workers = Workers(
            processes=most_workers(sweep),
            threads=sweep.threads_per_worker,
            memory=parse_bytes(sweep.memory_limit),
            gpus=self.measured_gpus(wildcards),
        )
        if PEER in sweep.engines:
            return workers.processes * parse_bytes(sweep.memory_limit) // 10**6
        needed = max(
            _job_mb(self._plan(stage, wildcards, input.raster, engine), workers)
            for stage in sweep.stages
            for engine in sweep.engines
        )
        return _with_margin(needed, attempt=1)

    def measured_minutes(self, wildcards: Any, input: Any) -> int:
        """Time of a sweep in minutes: all its runs, one after the other."""
        sweep = self._asked.case(wildcards).benchmark
        assert sweep is not None
        repeats = sweep.repeats * len(sweep.cache)
        minutes = 0
        for stage, engine in product(sweep.stages, sweep.engines):
            peer = engine == PEER
            plan = self._plan(stage, wildcards, input.raster, AUTO if peer else engine)
            times = durations.PEER_TIMES if peer else 1
            for workers in getattr(sweep.workers, stage):
                cores = workers * sweep.threads_per_worker
                one = durations.stage_minutes(plan, cores, times)
                if sweep.time_limit is not None:
                    one = min(one, math.ceil(sweep.time_limit))
                minutes += repeats * one
        return minutes

    def _tile_plan(self, wildcards: Any, input: Any) -> Plan:
        from harpy_core.planning.tile_plan import tile_plan
        from harpy_core.raster.info import RasterInfo

        tile = self._asked.case(wildcards).tile
        assert tile is not None
        others = len(self._asked.opened_layers(wildcards))
        return tile_plan(RasterInfo.from_json(input.raster), tile, others)

    def _plan(self, stage: str, wildcards: Any, raster: str, engine: str) -> Plan:
        from harpy_core.planning.plan import stage_plan, table_settings
        from harpy_core.raster.info import RasterInfo
        from harpy_core.storage.manifest import read_manifest

        manifest = Path(raster).with_name("instances.manifest.json")
        found = read_manifest(manifest) if manifest.is_file() else {}
        return stage_plan(
            stage,
            RasterInfo.from_json(raster),
            crops=CropSettings.within(self._asked.extract(wildcards)),
            instances=found.get("instances"),
            densest=found.get("densest_tile"),
            engine=engine,
            **table_settings(self._asked.aggregate(wildcards)),
        )


def _job_mb(plan: Plan, workers: Workers) -> int:
    """Memory in MB of a job that runs a stage on some workers."""
    from harpy_core.planning.fits import job_bytes

    return SNAKEMAKE_MB + job_bytes(plan, workers) // 10**6
