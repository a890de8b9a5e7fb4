"""How fast the engine cupy is: its kernels, its transfers, and whole jobs.

    python benchmarks/gpu.py [--large] [--record FILE]

Needs an NVIDIA GPU and harpy-core[cuda13] (or [cuda12]). The kernels alone are timed by the card's
own clock and set against the bandwidth that a copy on the card reaches, and against a loop of
bincount; a call with its transfers, and whole jobs, against the engine numba on the same threads
and against decoding alone. Makes its data (dense tissue, 20 x 8192 x 8192 uint16, some 35,000
cells) in --data once; --large repeats it to 100 x 20,000 x 20,000. With --processor the figures
that need no GPU are taken, to try the command.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
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
from harpy_core.instances.finding import find_instances
from harpy_core.kernels import ENGINES, compiled, gpu
from harpy_core.raster import Raster
from harpy_core.running import cluster
from harpy_core.tiles.runs import RunTable, encode_runs
from harpy_core.tiling.tile import tile_raster

NINE = tuple(hc.STATISTICS)
LARGE = (100, 20_000, 20_000)
COPIED = 2**30
"""Bytes of the copy that a card's bandwidth is taken from; it reads and writes them."""

SECTOR = 32
"""Bytes that a card loads at least."""


class Clock:
    """The card's own clock, on the stream of this thread's session."""

    def __init__(self, repeats: int) -> None:
        import cupy

        self.cupy, self.repeats = cupy, repeats
        self.session = gpu.session_of_thread()
        self.stream = self.session.card._stream  # type: ignore[attr-defined]

    def seconds(self, work: Callable[[], Any]) -> float:
        """Median of what one call takes on the card, after a warm-up."""
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

    def copy_bandwidth(self) -> float:
        """Bytes a second that a copy on the card reads and writes."""
        cupy = self.cupy
        source, target = (cupy.empty(COPIED, np.uint8) for _ in range(2))
        return 2 * COPIED / self.seconds(lambda: cupy.copyto(target, source))


def one_tile(store: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels (1, y, x) and planes (c, plane) of the first chunk."""
    group = zarr.open_group(store, mode="r")
    labels = np.asarray(group["labels"][: CHUNKS[1], : CHUNKS[2]])[np.newaxis]
    image = np.asarray(group["lz4"][: SHAPE[0], : CHUNKS[1], : CHUNKS[2]])
    return labels, image.reshape(len(image), -1)


def loaded_bytes(runs: RunTable, planes: np.ndarray) -> int:
    """What has to be loaded of the planes: the sectors in which runs lie."""
    each = SECTOR // planes.itemsize
    change = np.zeros(planes.shape[1] // each + 2, np.int64)
    np.add.at(change, runs.start // each, 1)
    np.add.at(change, (runs.start + runs.length - 1) // each + 1, -1)
    return int(np.count_nonzero(np.cumsum(change))) * SECTOR * len(planes)


def kernels_alone(store: Path, repeats: int) -> Table:
    """Launches on what is on the card already."""
    clock = Clock(repeats)
    name = clock.cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    table = Table(f"kernels on {name}, one tile of {CHUNKS[1:]}, no transfers")
    bandwidth = clock.copy_bandwidth()
    table.add("copy on the card, read and written", bandwidth / 1e9, "GB/s")
    labels, image = one_tile(store)
    runs = encode_runs(labels, gpu)
    session = clock.session
    on_card = session.runs(runs.start, runs.length, runs.slot, runs.slots)
    dense = np.zeros(labels.shape, np.int64)
    dense[labels != 0] = np.unique(labels[labels != 0], return_inverse=True)[1] + 1
    for channels in (1, 8, 10, 20):
        planes = image[:channels]
        there = session.planes(planes)
        size = loaded_bytes(runs, planes)
        launch = partial(gpu.launch_sums, session, planes=there, channels=channels, runs=on_card)
        works = {
            "sum": gpu.Work.of(planes.dtype, "sum"),
            "nine statistics": gpu.Work.of(planes.dtype, "full"),
        }
        taken = {
            what: clock.seconds(partial(launch, work=work, pivot=None))
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
    """Seconds of one bincount a channel over labels that are numbered already."""
    cupy = clock.cupy
    with clock.stream:
        numbers, pixels = cupy.asarray(dense.ravel()), cupy.asarray(planes)

    def count() -> None:
        for plane in pixels:
            cupy.bincount(numbers, plane, slots + 1)

    return clock.seconds(count)


def calls(store: Path, repeats: int, with_gpu: bool) -> Table:
    """Whole calls on one thread: what a task asks of an engine, transfers included."""
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
    engines = {"numba": compiled, **({"cupy": gpu} if with_gpu else {})}
    for name, kernels in engines.items():
        works = {
            "encode": lambda k=kernels: encode_runs(labels, k),
            "sum": lambda k=kernels: k.reduce(*arguments, "sum", False),
            "nine statistics": lambda k=kernels: k.reduce(*arguments, "full", False),
            "gather": lambda k=kernels: k.gather(
                planes, runs.start, target, length, side * side, out
            ),
        }
        for what, work in works.items():
            table.add(f"{what}, {name}", median_seconds(work, repeats) * 1e3, "ms")
    return table


def jobs(name: str, raster: Raster, threads: int, repeats: int, with_gpu: bool) -> Table:
    """Both jobs on a cluster of one worker, with either engine, against decoding alone."""
    table = Table(f"{name} {tuple(raster.image.shape)}, one worker x {threads} threads")
    engines = ("numba", "cupy") if with_gpu else ("numba",)
    instances = find_instances(raster.labels)
    with (
        tempfile.TemporaryDirectory() as scratch,
        cluster.local(1, threads, gpus=gpu.visible()) as client,
    ):

        def aggregate(engine: str, stats: tuple[str, ...]) -> None:
            hc.aggregate_stats(raster.image, raster.labels, stats, engine=engine, client=client)

        def extract(engine: str) -> None:
            hc.extract_instances(
                raster.image,
                raster.labels,
                Path(scratch) / engine,
                engine=engine,
                client=client,
                instances=instances,
                resume=False,
                overwrite=True,
            )

        works: dict[str, Callable[[], Any]] = {
            "decode floor": partial(decode_all, raster.image, threads)
        }
        for engine in engines:
            works[f"mean, {engine}"] = partial(aggregate, engine, ("mean",))
            works[f"nine statistics, {engine}"] = partial(aggregate, engine, NINE)
            works[f"crops, {engine}"] = partial(extract, engine)
        times = in_turn(works, repeats)
    for what, values in times.items():
        table.add(what, statistics.median(values), "s")
        table.add(f"{what}: rate", math.prod(raster.image.shape) / 1e9 / min(values), "Gpx/s")
    for what in ("mean", "nine statistics", "crops"):
        for engine in engines:
            floor = ratio(times, f"{what}, {engine}", "decode floor")
            table.add(f"{what}, {engine} / decode floor", floor, "x")
        if with_gpu:
            table.add(f"{what}, numba / cupy", ratio(times, f"{what}, numba", f"{what}, cupy"), "x")
    return table


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
    dense = tissue_store(options.data, "dense", SHAPE, DENSE, ("lz4", "zstd"))
    group = zarr.open_group(dense, mode="r")
    raster = Raster.of(group["lz4"], group["labels"], [str(c) for c in range(SHAPE[0])])
    tables = [kernels_alone(dense, 10 * options.repeats)] if with_gpu else []
    tables.append(calls(dense, options.repeats, with_gpu))
    tables.append(jobs("dense tissue", raster, options.threads, options.repeats, with_gpu))
    if options.large:
        with tempfile.TemporaryDirectory(dir=options.data) as scratch:
            tile_raster(raster, Path(scratch) / "large.zarr", LARGE, CHUNKS, "link")
            large = hc.open_raster(Path(scratch) / "large.zarr")
            tables.append(jobs("dense tissue", large, options.threads, options.repeats, with_gpu))
    record(options.record, tables)
    return None


if __name__ == "__main__":
    sys.exit(main())
