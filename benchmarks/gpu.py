"""Speed of the engine cupy: its kernels, its transfers, and whole jobs.

    python benchmarks/gpu.py [--large] [--record FILE]

It needs an NVIDIA GPU and harpy-core[cuda13] (or cuda12). The kernels alone are timed by the card's
own clock and set against the bandwidth that a copy on the card reaches, and against a loop of
bincount; a call with its transfers, tasks on several threads, and whole jobs, against the engine
numba on the same threads and against decoding alone. Makes its data (dense tissue, 20 x 8192 x 8192
uint16, some 35,000 cells) in --data once; --large repeats it to 100 x 20,000 x 20,000. With
--processor the figures that need no GPU are taken, to try the command. benchmarks/gpu_picture.py
draws what was recorded.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import zarr
from common import (
    CHUNKS,
    DENSE,
    SHAPE,
    Table,
    decode_all,
    in_turn,
    median_seconds,
    ratio,
    record,
    tissue_store,
)

import harpy_core as hc
from harpy_core.aggregate.merging import TileWork, measure_tile
from harpy_core.instances.finding import find_instances
from harpy_core.kernels import ENGINES, compiled, gpu, gpu_sessions
from harpy_core.kernels.blosc import decodes
from harpy_core.raster import Raster
from harpy_core.running import cluster
from harpy_core.running.tasks import Task, image_tasks
from harpy_core.statistics.declared import chosen, of_channels
from harpy_core.tiles.runs import RunTable, encode_runs
from harpy_core.tiling.tile import tile_raster

MERGED = tuple(
    name for name, statistic in of_channels(hc.STATISTICS).items() if not statistic.whole
)
STATS = {"mean": ("mean",), "nine statistics": MERGED}
JOBS = (*STATS, "crops")
FLOOR = "decode floor"
LARGE = (100, 20_000, 20_000)
COPIED = 2**30
"""Bytes of the copy that a card's bandwidth is taken from; it reads and writes them."""

SECTOR = 32
"""Bytes that a card loads at least."""

CACHES = 4
"""Size, in a card's caches, of the copies of the planes on which kernels are timed in turn; or they
would find in the cache what the last one loaded."""

WORKERS = 4
"""Workers that share the card, in one table."""

SENDING = "copy to the card from pinned memory"
ENCODED = "chunk files of the image"

FEW = 2
"""Threads of a small machine, with which the larger one is compared."""


class Clock:
    """The card's own clock, on the stream of this thread's session."""

    def __init__(self, repeats: int) -> None:
        import cupy

        self.cupy, self.repeats = cupy, repeats
        self.session = gpu_sessions.session_of_thread()
        self.stream = self.session.card._stream

    def seconds(self, work: Callable[[], Any]) -> float:
        """Median time of one call on the card, after a warm-up."""
        first, last = (self.cupy.cuda.Event() for _ in range(2))
        times = []
        with self.stream:
            work()
            for _ in range(self.repeats):
                first.record(self.stream)
                work()
                last.record(self.stream)
                last.synchronize()
                times.append(self.cupy.cuda.get_elapsed_time(first, last) / 1e3)
        return statistics.median(times)

    def seconds_of_each(self, works: Sequence[Callable[[], Any]]) -> float:
        """Time of one of several launches that follow each other without a gap."""
        with self.stream:
            for work in works:
                work()
            self.stream.synchronize()
            self.stream.begin_capture()
            for work in works:
                work()
            graph = self.stream.end_capture()
        return self.seconds(lambda: graph.launch(self.stream)) / len(works)

    def copy_bandwidth(self) -> float:
        """Bytes per second that a copy on the card reads and writes."""
        cupy = self.cupy
        source, target = (cupy.empty(COPIED, np.uint8) for _ in range(2))
        return 2 * COPIED / self.seconds(lambda: cupy.copyto(target, source))

    def sending_bandwidth(self) -> float:
        """Bytes per second that reach the card from pinned memory."""
        card = self.session.card
        host, buffer = card.pinned(COPIED), card.empty(COPIED)
        return COPIED / self.seconds(lambda: card.put(host, buffer))

    def copies(self, planes: np.ndarray) -> list[gpu_sessions.Planes]:
        """Put as many copies of the planes on the card as its caches do not hold."""
        properties = self.cupy.cuda.runtime.getDeviceProperties(0)
        there = self.session.planes(planes)
        number = max(math.ceil(CACHES * properties["l2CacheSize"] / planes.nbytes), 2)
        found = []
        for _ in range(number):
            buffer = self.session.card.empty(there.buffer.size)
            self.session.card.put(planes, buffer)
            found.append(gpu_sessions.Planes(buffer, there.pitch, None))
        self.session.card.wait()
        return found


def card() -> dict[str, Any]:
    """Description of the card, to be recorded with its figures."""
    import cupy

    runtime = cupy.cuda.runtime
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    return {
        "card": runtime.getDeviceProperties(0)["name"].decode(),
        "driver": driver.splitlines()[0].strip(),
        "cuda_of_driver": runtime.driverGetVersion(),
        "cuda": runtime.runtimeGetVersion(),
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "cupy": cupy.__version__,
    }


def one_tile(store: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (1, y, x) and planes (c, plane) of the first chunk."""
    group = zarr.open_group(store, mode="r")
    labels = np.asarray(group["labels"][: CHUNKS[1], : CHUNKS[2]])[np.newaxis]
    image = np.asarray(group["lz4"][: SHAPE[0], : CHUNKS[1], : CHUNKS[2]])
    return labels, image.reshape(len(image), -1)


def loaded_bytes(runs: RunTable, planes: np.ndarray) -> int:
    """Bytes that must be loaded of the planes: the sectors that contain runs."""
    each = SECTOR // planes.itemsize
    change = np.zeros(planes.shape[1] // each + 2, np.int64)
    np.add.at(change, runs.start // each, 1)
    np.add.at(change, (runs.start + runs.length - 1) // each + 1, -1)
    return int(np.count_nonzero(np.cumsum(change))) * SECTOR * len(planes)


def kernels_alone(store: Path, repeats: int) -> Table:
    """Measure launches on data that is on the card already."""
    clock = Clock(repeats)
    name = clock.cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    table = Table(f"kernels on {name}, one tile of {CHUNKS[1:]}, no transfers")
    bandwidth = clock.copy_bandwidth()
    table.add("copy on the card, read and written", bandwidth / 1e9, "GB/s")
    table.add(SENDING, clock.sending_bandwidth() / 1e9, "GB/s")
    labels, image = one_tile(store)
    runs = encode_runs(labels, gpu)
    session = clock.session
    on_card = session.runs(runs.start, runs.length, runs.slot, runs.slots)
    dense = np.zeros(labels.shape, np.int64)
    dense[labels != 0] = np.unique(labels[labels != 0], return_inverse=True)[1] + 1
    for channels in (1, 8, 10, 20):
        planes = image[:channels]
        there = clock.copies(planes)
        size = loaded_bytes(runs, planes)
        launch = partial(gpu.launch_sums, session, channels=channels, runs=on_card, pivot=None)
        works = {
            "sum": gpu.Work.of(planes.dtype, "sum"),
            "nine statistics": gpu.Work.of(planes.dtype, "full"),
        }
        taken = {
            what: clock.seconds_of_each([partial(launch, work=work, planes=p) for p in there])
            for what, work in works.items()
        }
        for what, seconds in taken.items():
            goal = ">= 0.6" if channels >= 8 and what == "sum" else ""
            rate = planes.size / seconds / 1e9
            table.add(f"{what}, {channels} channels of uint16", rate, "Gpx/s")
            share = size / seconds / bandwidth
            table.add(
                f"{what}, {channels} channels: share of the copy's bandwidth", share, "", goal
            )
        if channels == 10:
            counted = bincount_loop(clock, dense, planes, runs.slots)
            table.add("bincount loop / sum, 10 channels", counted / taken["sum"], "x", ">= 10")
    return table


def bincount_loop(clock: Clock, dense: np.ndarray, planes: np.ndarray, slots: int) -> float:
    """Seconds of one bincount per channel over labels that are numbered already."""
    cupy = clock.cupy
    with clock.stream:
        numbers, pixels = cupy.asarray(dense.ravel()), cupy.asarray(planes)

    def count() -> None:
        for plane in pixels:
            cupy.bincount(numbers, plane, slots + 1)

    return clock.seconds(count)


def calls(store: Path, repeats: int, with_gpu: bool) -> Table:
    """Measure whole calls on one thread: those of a task to an engine, including transfers."""
    table = Table(f"calls on one thread, one tile of {CHUNKS}")
    labels, image = one_tile(store)
    planes = image[: CHUNKS[0]]
    runs = encode_runs(labels, compiled)
    arguments = (planes, runs.start, runs.length, runs.slot, runs.slots)
    number = len(runs.start)
    side = 50
    target = np.arange(number, dtype=np.int64) // side * (len(planes) * side * side)
    target += np.arange(number, dtype=np.int64) % side * side
    length = np.minimum(runs.length.astype(np.int64), side)
    out = np.zeros(int(target.max()) + len(planes) * side * side, planes.dtype)
    group = zarr.open_group(store, mode="r")
    task = image_tasks(Raster.of(group["lz4"], group["labels"]), 1)[0]
    engines = engines_of(with_gpu)
    for name, kernels in engines.items():
        works = {
            "encode": lambda k=kernels: encode_runs(labels, k),
            "sum": lambda k=kernels: k.reduce(*arguments, "sum", False),
            "nine statistics": lambda k=kernels: k.reduce(*arguments, "full", False),
            "read, decode and sum": lambda k=kernels: sum_of_chunk(task, runs, k),
            "gather": lambda k=kernels: k.gather(
                planes, runs.start, target, length, side * side, out
            ),
        }
        for what, work in works.items():
            table.add(f"{what}, {name}", median_seconds(work, repeats) * 1e3, "ms")
    return table


def engines_of(with_gpu: bool) -> dict[str, ModuleType]:
    """Return the engines to compare."""
    return {"numba": compiled, **({"cupy": gpu} if with_gpu else {})}


def sum_of_chunk(task: Task, runs: RunTable, kernels: ModuleType) -> Any:
    """Do a task's work on a chunk for the mean."""
    _, planes = next(task.read_planes(decodes(kernels)))
    return kernels.reduce(planes, runs.start, runs.length, runs.slot, runs.slots, "sum", False)


def tasks_alone(raster: Raster, threads: Sequence[int], repeats: int, with_gpu: bool) -> Table:
    """Measure the tasks of an aggregation on threads of this process, without merging."""
    table = Table(f"tasks of {tuple(raster.image.shape)}, no scheduler")
    for number in threads:
        for name in engines_of(with_gpu):
            for what, stats in STATS.items():
                asked = tuple(of_channels(chosen(stats)).values())
                work = partial(measure_tile, work=TileWork(name, asked, ignore_nan=False))
                taken = seconds_of_tasks(raster, work, number, repeats)
                rate = math.prod(raster.image.shape) / taken / 1e9
                table.add(f"{what}, {name}, {number} threads", rate, "Gpx/s")
    return table


def thread_numbers(cores: int) -> list[int]:
    """Return the powers of four, and all cores."""
    return sorted({cores, *(4**i for i in range(cores.bit_length()) if 4**i < cores)})


def seconds_of_tasks(
    raster: Raster, work: Callable[[Task], Any], threads: int, repeats: int
) -> float:
    """Median time of all tasks, once every thread has had one."""
    tasks = image_tasks(raster, threads)
    all_there = threading.Barrier(threads)

    def begin(number: int) -> None:
        work(tasks[number % len(tasks)])
        all_there.wait()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(begin, range(threads)))
        return median_seconds(lambda: list(pool.map(work, tasks)), repeats)


def encoded_bytes(array: zarr.Array) -> int:
    """Bytes of all its chunk files; a file under several names is read as often."""
    folder = Path(str(array.store_path.store.root)) / array.path
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def title_of(shape: tuple[int, ...], workers: int, threads: int) -> str:
    """Title of the table of whole jobs."""
    return f"dense tissue {shape}, {workers} x {threads} threads"


@dataclass(frozen=True)
class Sweep:
    """Jobs to run, and their conditions.

    Attributes
    ----------
    raster
        Image and labels.
    workers, threads
        Workers of the local cluster, and threads of each.
    engines
        Engines to compare.
    jobs
        Some of `JOBS`.
    repeats, warm_ups
        Rounds that are counted, and those before them.
    """

    raster: Raster
    workers: int
    threads: int
    engines: tuple[str, ...]
    jobs: tuple[str, ...]
    repeats: int
    warm_ups: int = 1

    @property
    def title(self) -> str:
        """Title of the table."""
        return title_of(tuple(self.raster.image.shape), self.workers, self.threads)


def jobs(sweep: Sweep) -> Table:
    """Measure whole jobs on a local cluster, with either engine, against decoding alone."""
    table = Table(sweep.title)
    image, labels = sweep.raster.image, sweep.raster.labels
    instances = find_instances(labels) if "crops" in sweep.jobs else None
    with (
        tempfile.TemporaryDirectory() as scratch,
        cluster.local(sweep.workers, sweep.threads, gpus=gpu.visible()) as client,
    ):

        def run(job: str, engine: str) -> None:
            if job == "crops":
                hc.extract_instances(
                    image,
                    labels,
                    Path(scratch) / engine,
                    engine=engine,
                    client=client,
                    instances=instances,
                    resume=False,
                    overwrite=True,
                )
            else:
                hc.aggregate_stats(image, labels, STATS[job], engine=engine, client=client)

        names = list(product(sweep.jobs, sweep.engines))
        floor = partial(decode_all, image, sweep.workers * sweep.threads)
        works: dict[str, Callable[[], Any]] = {FLOOR: floor}
        works |= {f"{job}, {engine}": partial(run, job, engine) for job, engine in names}
        times = in_turn(works, sweep.repeats, warm_ups=sweep.warm_ups)
    table.add(ENCODED, encoded_bytes(image) / 1e9, "GB")
    for what, values in times.items():
        table.add(what, statistics.median(values), "s")
        table.add(f"{what}: rate", math.prod(image.shape) / 1e9 / min(values), "Gpx/s")
    for job, engine in names:
        share = ratio(times, f"{job}, {engine}", FLOOR)
        table.add(f"{job}, {engine} / {FLOOR}", share, "x")
    if len(sweep.engines) > 1:
        for job in sweep.jobs:
            share = ratio(times, f"{job}, numba", f"{job}, cupy")
            table.add(f"{job}, numba / cupy", share, "x")
    return table


def measured(dense: Path, raster: Raster, options: argparse.Namespace) -> Iterator[Table]:
    """Measure, and yield table by table."""
    with_gpu, repeats, cores = not options.processor, options.repeats, options.threads
    if with_gpu:
        yield kernels_alone(dense, 10 * repeats)
    yield calls(dense, repeats, with_gpu)
    sweep = partial(Sweep, engines=tuple(engines_of(with_gpu)), jobs=JOBS, repeats=repeats)
    yield jobs(sweep(raster, 1, cores))
    if options.large:
        with tempfile.TemporaryDirectory(dir=options.data) as scratch:
            tile_raster(raster, Path(scratch) / "large.zarr", LARGE, CHUNKS, "link")
            large = hc.open_raster(Path(scratch) / "large.zarr")
            # Its crops would take more room than many disks have.
            yield jobs(sweep(large, 1, cores, jobs=tuple(STATS)))
    if cores >= 4 * WORKERS:
        yield jobs(sweep(raster, WORKERS, cores // WORKERS, jobs=tuple(STATS)))
    yield tasks_alone(raster, thread_numbers(cores), repeats, with_gpu)
    if cores > FEW:
        yield jobs(sweep(raster, 1, FEW, engines=("numba",)))


def main() -> str | None:
    """Measure and print; without a GPU, one line that says so."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--large", action="store_true", help=f"also at {LARGE}")
    parser.add_argument("--processor", action="store_true", help="only what needs no GPU")
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    with_gpu = not options.processor
    if with_gpu and (trouble := ENGINES["cupy"].trouble()):
        return f"nothing was measured: {trouble}; --processor takes the figures that need none"
    options.data.mkdir(parents=True, exist_ok=True)
    dense = tissue_store(options.data, "dense-lz4", SHAPE, DENSE, ("lz4",))
    group = zarr.open_group(dense, mode="r")
    raster = Raster.of(group["lz4"], group["labels"], [str(c) for c in range(SHAPE[0])])
    tables: list[Table] = []
    try:
        for table in measured(dense, raster, options):
            tables.append(table)
    finally:
        record(options.record, tables, card() if with_gpu else None)
    return None


if __name__ == "__main__":
    sys.exit(main())
