"""Shared code of the benchmarks: the measured tissue, floors, medians and the printed table."""

from __future__ import annotations

import json
import mmap
import os
import platform
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

import harpy_core
from harpy_core.benchmark.rows import cpu_model
from harpy_core.datasets.tissue import Tissue, tissue_tile
from harpy_core.raster import chunks
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.running.progress import track
from harpy_core.storage import checksums, codecs, shards

SHAPE = (20, 8192, 8192)
CHUNKS = (10, 2048, 2048)
CODECS = {
    "lz4": BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=2),
    "zstd": ZstdCodec(level=0),
}
DENSE = 720.0
"""Sites per megapixel that yield 35,000 cells in all."""
SPARSE = 38.0
"""Sites per megapixel that yield a cell every 190 pixels."""


def tissue_store(
    folder: Path, name: str, shape: tuple[int, int, int], sites: float, written: tuple[str, ...]
) -> Path:
    """Make a store with ``labels`` and an image for each codec, once."""
    path = folder / f"{name}.zarr"
    done = folder / f"{name}.done"
    if done.exists():
        return path
    tissue = Tissue(shape, seed=1, cells_per_megapixel=sites)
    group = zarr.open_group(path, mode="w", zarr_format=3)
    labels = group.create_array(
        "labels",
        shape=shape[1:],
        chunks=CHUNKS[1:],
        dtype=np.uint32,
        compressors=BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=4),
    )
    images = {
        codec: group.create_array(
            codec, shape=shape, chunks=CHUNKS, dtype=np.uint16, compressors=CODECS[codec]
        )
        for codec in written
    }

    def make(corner: tuple[int, int]) -> int:
        rows, columns = (
            (a, min(a + n, size)) for a, n, size in zip(corner, CHUNKS[1:], shape[1:], strict=True)
        )
        pixels, instances = tissue_tile(tissue, rows, columns)
        labels[slice(*rows), slice(*columns)] = instances
        for image in images.values():
            image[:, slice(*rows), slice(*columns)] = pixels
        return pixels.size

    corners = list(product(*(range(0, n, c) for n, c in zip(shape[1:], CHUNKS[1:], strict=True))))
    cores = len(os.sched_getaffinity(0))
    with track(int(np.prod(shape)), name) as bar, ThreadPoolExecutor(cores) as pool:
        for size in pool.map(make, corners):
            bar.advance(size)
    done.touch()
    return path


_READ = 2**23


def read_past_the_cache(paths: Sequence[Path], streams: int) -> None:
    """Read files with some threads, into aligned buffers and past the page cache."""

    def read(some: Sequence[Path]) -> None:
        buffer = mmap.mmap(-1, _READ)
        for path in some:
            file = os.open(path, os.O_RDONLY | os.O_DIRECT)
            offset = 0
            while (found := os.preadv(file, [buffer], offset)) == _READ:
                offset += found
            os.close(file)

    threads = [threading.Thread(target=read, args=(paths[i::streams],)) for i in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall time after a warm-up."""
    work()
    return statistics.median(seconds(work) for _ in range(repeats))


def in_turn(
    works: dict[str, Callable[[], Any]],
    repeats: int,
    before: Callable[[], Any] = lambda: None,
    warm_ups: int = 1,
) -> dict[str, list[float]]:
    """Wall times of several tasks, one after the other in every round, so that they share noise.

    `before` is called before each one; its time, and the rounds that warm up, are not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(warm_ups + repeats):
        for name, work in works.items():
            before()
            taken = seconds(work)
            if number >= warm_ups:
                times[name].append(taken)
    return times


def ratio(times: dict[str, list[float]], name: str, floor: str) -> float:
    """Median of the round-by-round ratios."""
    pairs = zip(times[name], times[floor], strict=True)
    return statistics.median(a / b for a, b in pairs)


def switch_checksums(on: bool) -> None:
    """Check and write checksums in this process, or do not, to see what they cost."""
    for module in (chunks, codecs, shards):
        module.verified = checksums.verified if on else _unverified
    for module in (codecs, shards):
        module.trailer = checksums.trailer if on else _no_trailer


def _unverified(content: Any) -> memoryview:
    return memoryview(content)[: -checksums.SIZE]


def _no_trailer(content: Any) -> bytes:
    return bytes(checksums.SIZE)


def cost_of_checksums(work: Callable[[], Any], client: Any, repeats: int) -> float:
    """Time of a job that checks and writes checksums over that of one that does not."""

    def run(on: bool) -> None:
        client.run(switch_checksums, on)
        work()

    try:
        times = in_turn({"with": partial(run, True), "without": partial(run, False)}, repeats)
    finally:
        client.run(switch_checksums, True)
    return ratio(times, "with", "without")


def decode_all(array: zarr.Array, threads: int) -> None:
    """Decode every chunk into a buffer that its thread reuses, and do nothing with it."""
    files = ChunkFiles(array)
    local = threading.local()

    def decode(index: tuple[int, ...]) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = np.empty(array.chunks, array.dtype)
        files.read(index, local.buffer)

    counts = [range(-(-n // c)) for n, c in zip(array.shape, array.chunks, strict=True)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, product(*counts)))


def machine() -> dict[str, Any]:
    """Description of the machine, to be recorded with its figures."""
    packages = ("numpy", "numba", "zarr", "numcodecs", "dask", "distributed")
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "harpy_core": harpy_core.__version__,
        "packages": {name: version(name) for name in packages},
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def emptied(target: Path) -> None:
    """Remove a result, and wait until the disk is idle."""
    shutil.rmtree(target, ignore_errors=True)
    os.sync()


class Table:
    """Rows of measurements, printed as they come, and kept for the record."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[dict[str, Any]] = []
        print(f"\n{title}\n{'-' * len(title)}", flush=True)

    def add(self, what: str, value: float, unit: str, target: str = "") -> None:
        """Add a figure, and the target it should reach."""
        self.rows.append({"what": what, "value": round(value, 4), "unit": unit, "target": target})
        print(f"{what:<58} {value:>9.3f} {unit:<10} {target}", flush=True)


def record(path: Path | None, tables: list[Table], more: dict[str, Any] | None = None) -> None:
    """Write the tables with the machine they were measured on, and what more is to say of it."""
    if path is not None:
        told = {**machine(), **(more or {})}
        content = {"machine": told, "tables": {t.title: t.rows for t in tables}}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"\nrecorded in {path}")
