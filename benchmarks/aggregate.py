"""Speed of statistics per instance, against the floors of the same run.

    python benchmarks/aggregate.py [--record FILE]

It makes its data (dense tissue, 20 x 8192 x 8192 uint16, some 35,000 cells; 4 GB) in --data once.
Every figure is the median of --repeats after a warm-up; ratios are medians of ratios taken round
by round, so that a noisy machine disturbs both sides.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import zarr
from common import (
    CHUNKS,
    DENSE,
    SHAPE,
    SPARSE,
    Table,
    cost_of_checksums,
    decode_all,
    in_turn,
    median_seconds,
    ratio,
    record,
    tissue_store,
)

import harpy_core as hc
from harpy_core.kernels import engine
from harpy_core.raster import Raster
from harpy_core.running import cluster
from harpy_core.tiles.runs import encode_runs
from harpy_core.tiling.tile import tile_raster

NINE = ("count", "sum", "mean", "var", "std", "min", "max", "skew", "kurtosis")


def kernels(name: str, store: Path, repeats: int) -> Table:
    """Measure the compiled loops alone, on one chunk and one thread."""
    table = Table(f"kernels, {name}: one thread, one chunk of {CHUNKS}")
    group = zarr.open_group(store, mode="r")
    labels = np.asarray(group["labels"][: CHUNKS[1], : CHUNKS[2]])[np.newaxis]
    planes = np.asarray(group["lz4"][: CHUNKS[0], : CHUNKS[1], : CHUNKS[2]]).reshape(CHUNKS[0], -1)
    compiled = engine("numba")
    runs = encode_runs(labels, compiled)
    arguments = (planes, runs.start, runs.length, runs.slot, runs.slots)
    encode = median_seconds(lambda: encode_runs(labels, compiled), repeats)
    sums = median_seconds(lambda: compiled.reduce(*arguments, "sum", False), repeats)
    light = median_seconds(lambda: compiled.reduce(*arguments, "extremes", False), repeats)
    full = median_seconds(lambda: compiled.reduce(*arguments, "full", False), repeats)
    plain = median_seconds(lambda: [plane.sum(dtype=np.uint64) for plane in planes], repeats)
    dense = name == "dense"
    table.add("runs in the tile", len(runs.start), "")
    table.add("instances in the tile", runs.slots, "")
    table.add("pixels inside cells", 100 * runs.length.sum() / labels.size, "%")
    table.add("encode the runs of a label tile", encode * 1e3, "ms")
    table.add("NumPy sum of every pixel", planes.size / plain / 1e9, "Gpx/s")
    table.add("sum over runs", planes.size / sums / 1e9, "Gpx/s", ">= 1.5" if dense else ">= 2.5")
    table.add("sum, min and max over runs", planes.size / light / 1e9, "Gpx/s")
    table.add("nine statistics over runs", planes.size / full / 1e9, "Gpx/s")
    table.add("sum, min and max / sum", light / sums, "x", "<= 1.6")
    table.add("nine statistics / sum", full / sums, "x", "<= 2.2")
    return table


def through_dask(store: Path, repeats: int) -> Table:
    """Measure the whole job on a cluster of two workers, against decoding alone."""
    table = Table(f"dense tissue {SHAPE}, Dask cluster of 2 workers x 1 thread")
    group = zarr.open_group(store, mode="r")
    labels = group["labels"]
    with cluster.local(2, 1, "4GB") as client:

        def run(codec: str, stats: tuple[str, ...]) -> None:
            hc.aggregate_stats(group[codec], labels, stats, client=client)

        works = {
            "floor lz4": partial(decode_all, group["lz4"], 2),
            "mean lz4": partial(run, "lz4", ("mean",)),
            "min, max lz4": partial(run, "lz4", ("min", "max")),
            "nine lz4": partial(run, "lz4", NINE),
            "median lz4": partial(run, "lz4", ("median",)),
            "mean, median, iqr lz4": partial(run, "lz4", ("mean", "median", "iqr")),
            "floor zstd": partial(decode_all, group["zstd"], 2),
            "mean zstd": partial(run, "zstd", ("mean",)),
        }
        times = in_turn(works, repeats)
    for name, values in times.items():
        table.add(name, statistics.median(values), "s")
    table.add("mean / decode floor, LZ4", ratio(times, "mean lz4", "floor lz4"), "x", "<= 2.0")
    table.add("min, max / mean, LZ4", ratio(times, "min, max lz4", "mean lz4"), "x")
    table.add("nine / mean, LZ4", ratio(times, "nine lz4", "mean lz4"), "x")
    table.add("median / mean, LZ4", ratio(times, "median lz4", "mean lz4"), "x", "<= 3.0")
    several = ratio(times, "mean, median, iqr lz4", "mean lz4")
    table.add("mean, median and iqr / mean, LZ4", several, "x")
    table.add("nine / decode floor, LZ4", ratio(times, "nine lz4", "floor lz4"), "x", "<= 3.0")
    table.add("mean / decode floor, Zstd", ratio(times, "mean zstd", "floor zstd"), "x", "<= 1.4")
    return table


def checked(store: Path, folder: Path, repeats: int) -> Table:
    """Measure what the checksums of a store of ours cost."""
    table = Table(f"checksums, dense tissue {SHAPE}, 2 workers x 1 thread")
    group = zarr.open_group(store, mode="r")
    names = [str(channel) for channel in range(SHAPE[0])]
    with tempfile.TemporaryDirectory(dir=folder) as scratch, cluster.local(2, 1, "4GB") as client:
        tiled = Path(scratch) / "tiled.zarr"
        source = Raster.of(group["lz4"], group["labels"], names)
        tile_raster(source, tiled, SHAPE, CHUNKS, "copy", codec="lz4")
        raster = hc.open_raster(tiled)
        for name, stats in (("mean", ("mean",)), ("nine", NINE)):
            work = partial(hc.aggregate_stats, raster.image, raster.labels, stats, client=client)
            cost = cost_of_checksums(work, client, 3 * repeats)
            table.add(f"{name}: checked / unchecked", cost, "x", "<= 1.03")
    return table


def scaling(folder: Path, repeats: int) -> Table:
    """Measure seconds per gigapixel as the image grows, and as the number of labels grows."""
    table = Table("cost for a gigapixel: mean, LZ4, threads of this process")
    shape = (10, 4096, 4096)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        stores = {}
        for labels, sites in (("1x", 25.0), ("10x", 250.0), ("100x", 2500.0)):
            made = tissue_store(folder, f"labels-{labels}", shape, sites, ("lz4",))
            group = zarr.open_group(made, mode="r")
            stores[f"{labels} labels"] = group["lz4"], group["labels"]
        source = Raster.of(*stores["10x labels"], [str(c) for c in range(shape[0])])
        for times in (1, 4, 16):
            side = 4096 * math.isqrt(times)
            path = Path(scratch) / f"{times}.zarr"
            tile_raster(source, path, (10, side, side), CHUNKS, "link")
            tiled = hc.open_raster(path)
            stores[f"{times}x image"] = tiled.image, tiled.labels
        works = {
            name: partial(hc.aggregate_stats, image, labels, ("mean",))
            for name, (image, labels) in stores.items()
        }
        times_taken = in_turn(works, repeats)
    for name, (image, _) in stores.items():
        cost = statistics.median(times_taken[name]) / (math.prod(image.shape) / 1e9)
        table.add(name, cost, "s/Gpx")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    dense = tissue_store(options.data, "dense", SHAPE, DENSE, ("lz4", "zstd"))
    sparse = tissue_store(options.data, "sparse", (10, 4096, 4096), SPARSE, ("lz4",))
    tables = [
        kernels("dense", dense, 2 * options.repeats + 1),
        kernels("sparse", sparse, 2 * options.repeats + 1),
        through_dask(dense, options.repeats),
        checked(dense, options.data, options.repeats),
        scaling(options.data, options.repeats),
    ]
    record(options.record, tables)


if __name__ == "__main__":
    sys.exit(main())
