"""Ceilings of one driver: Dask's scheduler with empty tasks of ours, and the merge of results.

    python benchmarks/scheduler.py [--tasks 100000] [--workers 64] [--record FILE]

The scheduler is a process, the driver is one, and workers of one thread each share --processes
more: they are real, but their tasks do nothing, so that all time is the scheduler's, the driver's
and theirs. Tasks are handed out as a stage hands them out, with the readers of their pixels. Where
the machine has fewer cores than processes, wall time says little; time on the CPU per task does.
Workers do not profile themselves: 64 of them would, a hundred times a second, take the cores that
they share here. However the benchmark ends, no process of it outlives it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from common import Table, record
from distributed import Client

from harpy_core.aggregate.merging import StatisticsTable, TilePart, TileWork, measure_tile
from harpy_core.datasets.tissue import Tissue, tissue_tile
from harpy_core.kernels import engine as kernels_of
from harpy_core.raster.raster import Raster
from harpy_core.running import schedule
from harpy_core.running.tasks import Task, image_tasks
from harpy_core.statistics.declared import STATISTICS

TILE = 2048
CHANNELS = 10
STATS = {
    "mean": ["mean", "count"],
    "nine": ["mean", "count", "sum", "std", "var", "skew", "kurtosis", "min", "max"],
}
SITES = {"dense": 720.0, "sparse": 38.0}
"""Sites per megapixel, as in the other benchmarks."""

_STUB = """
import asyncio, sys
from distributed import Scheduler, Worker
from harpy_core.benchmark.peer import end_with_parent

async def scheduler(place):
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False, scheduler_file=place) as one:
        await one.finished()

async def workers(address, number):
    some = [
        await Worker(address, nthreads=1, memory_limit=0, dashboard=False) for _ in range(number)
    ]
    await asyncio.gather(*(worker.finished() for worker in some))

end_with_parent()
role, *arguments = sys.argv[1:]
asyncio.run(scheduler(*arguments) if role == "scheduler" else workers(role, int(*arguments)))
"""
_QUIET = {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}


def nothing(task: Task) -> None:
    """Do what an empty tile does: return no contribution."""


@contextmanager
def stub_cluster(
    workers: int, processes: int
) -> Iterator[tuple[Client, psutil.Process, list[psutil.Process]]]:
    """Start a scheduler and workers; yield a client, the scheduler's process and the workers'."""
    root = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as ending:

        def start(*arguments: str) -> psutil.Process:
            process = subprocess.Popen(
                [sys.executable, "-c", _STUB, *arguments],
                cwd=scratch,
                env={**os.environ, **_QUIET, "PYTHONPATH": root},
                # It ends where this pipe closes, however this process ends.
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            ending.callback(process.communicate)
            ending.callback(process.kill)
            return psutil.Process(process.pid)

        place = Path(scratch, "scheduler.json")
        scheduler = start("scheduler", str(place))
        while not place.exists():
            time.sleep(0.1)
        with Client(scheduler_file=str(place)) as client:
            address = client.scheduler.address
            stubs = [start(address, str(workers // processes)) for _ in range(processes)]
            client.wait_for_workers(workers)
            yield client, scheduler, stubs


def empty_tasks(folder: Path, tasks: int, workers: int, processes: int) -> Table:
    """Hand out empty tasks and take their results in order."""
    table = Table(f"{tasks:,} empty tasks, {workers} workers of one thread")
    shape = (CHANNELS, TILE, TILE)
    image = zarr.create_array(folder / "image", shape=shape, chunks=shape, dtype="u2", fill_value=0)
    labels = zarr.create_array(
        folder / "labels", shape=shape[1:], chunks=shape[1:], dtype="u4", fill_value=0
    )
    (one,) = image_tasks(Raster.of(image, labels), threads=1)
    assert isinstance(one, Task)
    with stub_cluster(workers, processes) as (client, scheduler, stubs):
        watched = {"scheduler": [scheduler], "driver": [psutil.Process()], "workers": stubs}
        # Every worker imports what a task needs.
        deque(schedule.results(nothing, [one] * 4 * workers, client), maxlen=0)
        before = {name: _used(some) for name, some in watched.items()}
        started = time.perf_counter()
        deque(schedule.results(nothing, _Repeated(one, tasks), client), maxlen=0)
        wall = time.perf_counter() - started
        after = {name: _used(some) for name, some in watched.items()}
    table.add("wall time", wall, "s")
    table.add("tasks a second", tasks / wall, "1/s")
    table.add("load of the machine, mean of the last minute", os.getloadavg()[0], "")
    table.add("processes of the workers", processes, "")
    # A task is given by the client, handed to a worker, reported, told of, released and forgotten.
    for name, (cpu, held) in after.items():
        taken, more = cpu - before[name][0], held - before[name][1]
        table.add(f"CPU time of the {name}, a task", taken / tasks * 1e3, "ms")
        if name != "workers":
            ceiling = f"tasks that one core of the {name} can do in a second"
            table.add(ceiling, tasks / taken, "1/s")
        table.add(f"memory of the {name} grew by", more / 1e6, "MB")
        table.add(f"memory of the {name}", held / 1e6, "MB")
    return table


def _used(processes: Sequence[psutil.Process]) -> tuple[float, int]:
    """Seconds on the CPU, and bytes of memory, of some processes."""
    seconds = sum(sum(process.cpu_times()[:2]) for process in processes)
    return seconds, sum(process.memory_info().rss for process in processes)


class _Repeated(list[Task]):
    """One task, many times, without a list of them."""

    def __init__(self, task: Task, number: int) -> None:
        super().__init__([task])
        self._number = number

    def __iter__(self) -> Iterator[Task]:
        return islice(cycle([self[0]]), self._number)


def merges(seconds: float) -> Table:
    """Merge the contributions of tiles, as the driver does."""
    table = Table(f"merge of tiles of {CHANNELS} x {TILE} x {TILE}, one thread")
    for density, sites in SITES.items():
        tissue = Tissue((CHANNELS, 4 * TILE, 4 * TILE), seed=1, cells_per_megapixel=sites)
        parts: dict[str, list[TilePart]] = {name: [] for name in STATS}
        for y, x in ((0, 0), (0, TILE), (TILE, 0), (TILE, TILE)):
            pixels, labels = tissue_tile(tissue, (y, y + TILE), (x, x + TILE))
            (task,) = image_tasks(Raster.of(pixels, labels), threads=1, channels=(0, CHANNELS))
            for name, stats in STATS.items():
                wanted = [STATISTICS[stat] for stat in stats]
                part = measure_tile(task, TileWork("numba", tuple(wanted), ignore_nan=False))
                assert part is not None
                parts[name].append(part)
        for name, stats in STATS.items():
            rate, size = _merged(parts[name], [STATISTICS[stat] for stat in stats], seconds)
            what = f"{density}, {name if name == 'mean' else 'nine statistics'}"
            table.add(f"{what}: instances in a tile", len(parts[name][0].ids), "")
            table.add(f"{what}: contribution of a tile", size / 1e6, "MB")
            table.add(f"{what}: merged", rate, "tiles/s")
            table.add(f"{what}: merged", rate * size / 1e6, "MB/s")
            table.add(f"{what}: pixels behind it", rate * CHANNELS * TILE**2 / 1e9, "Gpx/s")
    return table


def _merged(parts: list[TilePart], statistics: list[Any], seconds: float) -> tuple[float, float]:
    """Tiles merged in a second of one core, and the bytes of one."""
    table = StatisticsTable(
        np.dtype("u2"), statistics, (0, CHANNELS), kernels_of("numba"), assembly=None
    )
    for part in parts:
        table.add(part)
    number, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        table.add(parts[number % len(parts)])
        number += 1
    rate = number / (time.process_time() - started)
    words = [one for part in parts for _, found in part.partials for one in found.words.values()]
    return rate, sum(one.nbytes for one in words) / len(parts)


def main() -> None:
    """Measure, print and record."""
    # As Ctrl-C does: what was started is ended, and scratch files are removed.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="+", default=[100_000])
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--processes", type=int, default=4, help="processes of the workers")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of a merge")
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    tables = [merges(options.seconds)]
    for tasks in options.tasks:
        with tempfile.TemporaryDirectory() as folder:
            tables.append(empty_tasks(Path(folder), tasks, options.workers, options.processes))
    record(options.record, tables)


if __name__ == "__main__":
    main()
