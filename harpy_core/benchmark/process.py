"""The measured process of the sweep: one stage on a fresh local cluster, and its own wall time.

Started by `harpy_core.benchmark.measuring.measure`, which samples it from outside.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core.benchmark.peer import end_with_parent
from harpy_core.benchmark.specs import INPUT_ERROR_STATUS, RunSpec, StageReport
from harpy_core.config.crops import CropSettings
from harpy_core.errors import InputError
from harpy_core.phases import PHASES, taken
from harpy_core.planning.plan import stage_plan
from harpy_core.raster import Raster, RasterInfo, open_described
from harpy_core.running import cluster
from harpy_core.running.ending import leave
from harpy_core.running.progress import track
from harpy_core.storage.manifest import write_json
from harpy_core.version import __version__

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client, Worker

    from harpy_core.extract.crops import Crops

_PACKAGES = ("dask", "distributed", "numba", "numcodecs", "numpy", "zarr")


def run_stage(spec: RunSpec, scratch: Path) -> StageReport:
    """Run the stage on a fresh local cluster; what it makes goes into `scratch`."""
    info = RasterInfo.from_json(spec.raster_json)
    run = JOBS[spec.stage](spec, scratch, info.strict)
    raster = open_described(info)
    gpus = cluster.gpus_of(spec.engine)
    prepare = partial(warm_up, spec, info.image_dtype, info.labels_dtype)
    beside = ThreadPoolExecutor(1)
    # Until the workers' processes are ready this one would only wait.
    prepared = beside.submit(prepare)
    with (
        beside,
        cluster.local(
            spec.workers, spec.threads_per_worker, spec.memory_limit, gpus=gpus
        ) as client,
    ):
        client.run(warm_up_tasks, spec, info.image_dtype, info.labels_dtype)
        prepared.result()
        before = _phases(client)
        started = time.monotonic()
        result = run(raster, client)
        ended = time.monotonic()
        after = _phases(client)
        spilled = sum(client.run(_spilled).values())
    count, values = CHECKS[spec.stage](result)
    plan = stage_plan(
        spec.stage,
        info,
        stats=spec.stats,
        crops=CropSettings.of(**spec.crops),
        instances=count,
        engine=spec.engine,
    )
    return StageReport(
        started=started,
        ended=ended,
        pixels=len(info.channels) * math.prod(info.image_shape[1:]),
        tasks=plan.tasks,
        software=f"harpy_core {__version__}",
        python=platform.python_version(),
        instances=count,
        packages={name: version(name) for name in _PACKAGES},
        phases={
            name: (after[name][0] - before[name][0], after[name][1] - before[name][1])
            for name in after
        },
        spilled=spilled,
        values=values,
    )


def _phases(client: Client) -> dict[str, tuple[float, float]]:
    """Seconds in each phase so far, of the threads of all workers."""
    found = client.run(taken).values()
    return {
        name: (sum(one[name][0] for one in found), sum(one[name][1] for one in found))
        for name in PHASES
    }


def _spilled(dask_worker: Worker) -> int:
    """Bytes that a worker has put on disk."""
    metrics = getattr(dask_worker.data, "cumulative_metrics", {})
    return int(metrics.get(("disk-write", "bytes"), 0))


def check_table(table: AnnData) -> tuple[int, float]:
    """Instances of a table, and the sum of what it holds first."""
    return int(table.n_obs), float(np.nansum(table.X))


def check_crops(crops: Crops) -> tuple[int, float]:
    """Number of crops, and the sum of the pixels of a hundred of them, evenly spread by label."""
    labels = np.sort(crops.instance_id)
    chosen = labels[np.linspace(0, len(labels) - 1, min(100, len(labels))).astype(int)]
    return len(crops), float(sum(np.asarray(crops[int(n)], np.float64).sum() for n in chosen))


CHECKS: dict[str, Callable[[Any], tuple[int, float]]] = {
    "aggregate": check_table,
    "extract": check_crops,
}
"""Values compared between engines, outside of the measured time."""


def warm_up(spec: RunSpec, image_dtype: str, labels_dtype: str) -> None:
    """Import and compile what the stage needs in this process, on a few pixels.

    Both belong to the start of the cluster, which the measured time leaves out: a worker does them
    once in its life, however large the image.
    """
    raster = _few_pixels(image_dtype, labels_dtype)
    with tempfile.TemporaryDirectory() as scratch:
        tiny = dataclasses.replace(spec, crops={"diameter": 4, "batch_size": 1})
        JOBS[spec.stage](tiny, Path(scratch), None)(raster, None)


def warm_up_tasks(spec: RunSpec, image_dtype: str, labels_dtype: str) -> None:
    """Warm up a worker: it makes no table, and anndata would take it a second to import."""
    if spec.stage != "aggregate":
        warm_up(spec, image_dtype, labels_dtype)
        return
    from harpy_core.aggregate.aggregation import Aggregation

    raster = _few_pixels(image_dtype, labels_dtype)
    job = Aggregation.of(
        raster.image, raster.labels, spec.stats, ["0"], spec.engine, False, None, None
    )
    with track(job.pixels, "warm up", enabled=False) as bar:
        job.measure(job.channel_edges, None, bar, None)


def _few_pixels(image_dtype: str, labels_dtype: str) -> Raster:
    labels = np.zeros((8, 8), labels_dtype)
    # Not 1, which alone would look like a binary mask.
    labels[2:5, 2:5] = 2
    return Raster.of(np.zeros((1, 8, 8), image_dtype), labels, ["0"])


def _aggregator(
    spec: RunSpec, scratch: Path, strict: bool | None
) -> Callable[[Raster, Client | None], AnnData]:
    """The stage aggregate, its modules imported; called, it returns the table."""
    from harpy_core.aggregate.aggregation import aggregate_stats

    def run(raster: Raster, client: Client | None) -> AnnData:
        return aggregate_stats(
            raster.image,
            raster.labels,
            stats=spec.stats,
            channels=raster.channels,
            engine=spec.engine,
            client=client,
            strict=strict,
        )

    return run


def _extractor(
    spec: RunSpec, scratch: Path, strict: bool | None
) -> Callable[[Raster, Client | None], Crops]:
    """The stage extract, its modules imported; called, it returns the crops."""
    from harpy_core.extract.extraction import extract_instances

    def run(raster: Raster, client: Client | None) -> Crops:
        return extract_instances(
            raster.image,
            raster.labels,
            scratch / "crops.zarr",
            **CropSettings.within(spec.crops).on(raster.spacing).model_dump(),
            channels=raster.channels,
            engine=spec.engine,
            client=client,
            strict=strict,
            resume=False,
        )

    return run


JOBS: dict[str, Callable[..., Callable[[Raster, Client | None], Any]]] = {
    "aggregate": _aggregator,
    "extract": _extractor,
}


def main(spec_path: str, report_path: str) -> int:
    """Entry of the measured process; the last line it prints tells why it failed."""
    end_with_parent()
    try:
        report = run_stage(RunSpec.from_json(spec_path), Path(spec_path).parent)
    except InputError as error:
        print(error, file=sys.stderr)
        return INPUT_ERROR_STATUS
    write_json(report_path, dataclasses.asdict(report))
    return 0


if __name__ == "__main__":
    leave(main(*sys.argv[1:]))
