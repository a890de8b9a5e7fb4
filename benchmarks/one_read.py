"""Statistics and crops from one read of the image, against a read for each.

    python benchmarks/one_read.py [--data FOLDER] [--side 14336] [--repeats 3] [--record FILE]

Distinct files of dense tissue (515 cells per megapixel, as the published 40 gigapixels have), cold
and warm; cold: dropped from the page cache before each job, which is made sure of. The instances
are known to all. The saving is of wall time and of time on the CPU, round by round: where other
work shares the machine the second one says more.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import zarr
from common import Table, record, tissue_store

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.benchmark.page_cache import InputFiles
from harpy_core.running import cluster
from harpy_core.storage.manifest import tree_digest

CELLS = 515.0
CHANNELS = 20
STATS = {
    "mean": ["mean"],
    "nine statistics": ["mean", "count", "sum", "std", "var", "skew", "kurtosis", "min", "max"],
}
JOBS = ("table", "crops", "both in one read")


def used() -> float:
    """Seconds on the CPU of this process and its workers."""
    me = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (me, *me.children(recursive=True)))


class Jobs:
    """The jobs on one image, each of which writes anew."""

    def __init__(self, image: Any, labels: Any, folder: Path, client: Any) -> None:
        self.folder = folder
        self.known = {"instances": hc.find_instances(labels), "client": client, "engine": "numba"}
        self.arrays = image, labels

    def run(self, job: str, stats: list[str]) -> str:
        """Run a job; the digest of what it wrote."""
        table, crops = self.folder / "table.zarr", self.folder / "crops.zarr"
        if job == "table":
            aggregate_to_store(*self.arrays, table, stats=stats, **self.known)
            return tree_digest(table)
        if job == "crops":
            found = hc.extract_instances(
                *self.arrays, crops, diameter=50, overwrite=True, resume=False, **self.known
            )
            return found.digest
        found = hc.aggregate_and_extract(
            *self.arrays,
            table,
            crops,
            aggregate={"stats": stats},
            extract={"diameter": 50},
            overwrite=True,
            **self.known,
        )
        return tree_digest(table) + found.digest


def measured(jobs: Jobs, files: InputFiles, repeats: int, cells: int) -> list[Table]:
    """Measure all jobs in turn, in each state of the cache."""
    tables = []
    for cache in ("cold", "warm"):
        title = f"{CHANNELS} channels, {files.size / 1e9:.1f} GB of distinct files, {cells:,} cells"
        table = Table(f"{title}, 2 workers x 1 thread, {cache}")
        for name, stats in STATS.items():
            wall: dict[str, list[float]] = {job: [] for job in JOBS}
            cpu: dict[str, list[float]] = {job: [] for job in JOBS}
            for number in range(repeats + (cache == "cold")):
                digests = []
                for job in JOBS:
                    files.bring_into(cache)
                    before = used()
                    started = time.perf_counter()
                    digests.append(jobs.run(job, stats))
                    taken = time.perf_counter() - started
                    # The first round of all warms up.
                    if cache == "warm" or number:
                        wall[job].append(taken)
                        cpu[job].append(used() - before)
                assert digests[2] == "".join(digests[:2])
            for what, times in (("wall", wall), ("CPU", cpu)):
                for job in JOBS:
                    median = statistics.median(times[job])
                    table.add(f"{name}: {job}, {what} time", median, "s")
                rounds = zip(*(times[job] for job in JOBS), strict=True)
                saved = [1 - one / (a + b) for a, b, one in rounds]
                table.add(
                    f"{name}: saved of both, {what} time", statistics.median(saved), "", ">= 0.2"
                )
        table.add("load of the machine, mean of the last 15 minutes", os.getloadavg()[2], "")
        tables.append(table)
    return tables


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the tissue, which is kept there")
    parser.add_argument("--side", type=int, default=14336, help="pixels along y and x")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    folder = options.data or Path(tempfile.mkdtemp())
    try:
        shape = (CHANNELS, options.side, options.side)
        store = tissue_store(folder, "dense", shape, CELLS, ("lz4",))
        group = zarr.open_group(store, mode="r")
        image, labels = group["lz4"], group["labels"]
        files = InputFiles.of(image, labels)
        with cluster.local(2, 1, "5GB") as client, tempfile.TemporaryDirectory(dir=folder) as place:
            jobs = Jobs(image, labels, Path(place), client)
            cells = len(jobs.known["instances"])
            tables = measured(jobs, files, options.repeats, cells)
        record(options.record, tables)
    finally:
        if options.data is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
