"""Cost of committing statistics as they are measured, and a job killed near its end.

    python benchmarks/kill_aggregate.py [--size 8192] [--record FILE]

Dense tissue is measured with a Dask cluster of two workers: without commits, and with one every
second, ten times as many as in use, in turn. Then a driver is killed with SIGKILL when four fifths
of the tasks are committed, and started again: its table must be byte for byte that of an
undisturbed run.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from common import CHUNKS, DENSE, Table, record, tissue_store

from harpy_core.storage.manifest import tree_digest

CHANNELS = 20
STATS = {
    "mean": "mean,count",
    "nine statistics": "count,sum,mean,var,std,min,max,skew,kurtosis",
    "median": "median",
}
RARELY, OFTEN = math.inf, 1.0

DRIVER = """
import sys
import time
import zarr
import harpy_core as hc
from harpy_core.aggregate import checkpoints
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.running import cluster

if __name__ == "__main__":
    store, target, stats, *often = sys.argv[1:]
    group = zarr.open_group(store, mode="r")
    instances = hc.find_instances(group["labels"])
    with cluster.local(2, 1, "4GB") as client:
        hc.aggregate_stats(group["lz4"][:1, :64, :64], group["labels"][:64, :64], client=client)
        for seconds in often:
            checkpoints.SECONDS = float(seconds)
            wall, driver = time.perf_counter(), time.process_time()
            print("begins", flush=True)
            aggregate_to_store(
                group["lz4"], group["labels"], target, instances, stats.split(","), client=client
            )
            wall, driver = time.perf_counter() - wall, time.process_time() - driver
            print(wall, driver, flush=True)
"""


class Driver:
    """A process that measures, again and again, with commits after some seconds each."""

    def __init__(self, folder: Path, store: Path, target: Path, stats: str, often: list[float]):
        script = folder / "driver.py"
        script.write_text(DRIVER)
        root = str(Path(__file__).resolve().parents[1])
        self._process = subprocess.Popen(
            [sys.executable, script, store, target, stats, *map(str, often)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert self._process.stdout is not None
        self._target, self._out = target, self._process.stdout

    def next(self) -> tuple[float, float]:
        """Wait for the next result; wall time, and time of the driver alone on the CPU."""
        assert self._out.readline() == "begins\n"
        wall, driver = self._out.readline().split()
        return float(wall), float(driver)

    def kill_at(self, number: int) -> float:
        """Kill it once so many tasks are committed; time since it began."""
        assert self._out.readline() == "begins\n"
        started = time.perf_counter()
        while committed(self._target) < number:
            assert self._process.poll() is None, "done before it was killed: take a larger --size"
            time.sleep(0.02)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return time.perf_counter() - started


def committed(target: Path) -> int:
    """Number of tasks whose results are committed."""
    names = [path.name for path in target.parent.glob(f".{target.name}.work-*/commits/[!.]*")]
    spans = (map(int, name.rpartition(".")[2].split("-")) for name in names)
    return sum(last - first for first, last in spans)


def committed_bytes(target: Path) -> int:
    """Bytes of what is committed."""
    found = target.parent.glob(f".{target.name}.work-*/results/*")
    return sum(path.stat().st_size for path in found)


def costs(times: list[tuple[float, float]]) -> tuple[float, float]:
    """Per cent that every second run takes more than the one before it, by wall and by CPU time.

    CPU time is the driver's, of the two cores that the run had.
    """
    pairs = list(pairwise(times))[::2]
    wall = statistics.median(b[0] / a[0] - 1 for a, b in pairs)
    cpu = statistics.median((b[1] - a[1]) / (2 * a[0]) for a, b in pairs)
    return 100 * wall, 100 * cpu


def main() -> None:
    """Measure, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--size", type=int, default=8192, help="rows and columns of the image")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    shape = (CHANNELS, options.size, options.size)
    store = tissue_store(options.data, "dense", shape, DENSE, ("lz4",))
    tasks = math.ceil(options.size / CHUNKS[1]) ** 2
    tables = []
    with tempfile.TemporaryDirectory(dir=options.data) as scratch:
        folder, target = Path(scratch), Path(scratch) / "table.zarr"
        for name, stats in STATS.items():
            table = Table(f"{name} of {shape}, 2 workers of one thread")
            driver = Driver(folder, store, target, stats, [RARELY, OFTEN] * (1 + options.repeats))
            times = [driver.next() for _ in range(2 * (1 + options.repeats))][2:]
            calm = tree_digest(target)
            shutil.rmtree(target)
            wall, cpu = costs(times)
            table.add("without commits", statistics.median(t for t, _ in times[::2]), "s")
            table.add("cost of a commit every second, wall time", wall, "%", "<= 2")
            table.add("cost of it, CPU time of two cores", cpu, "%", "<= 2")
            killed = Driver(folder, store, target, stats, [0.0]).kill_at(tasks * 4 // 5)
            table.add("killed after", killed, "s")
            table.add("committed by then", 100 * committed(target) / tasks, "%")
            table.add("committed by then", committed_bytes(target) / 1e6, "MB")
            resumed, _ = Driver(folder, store, target, stats, [OFTEN]).next()
            table.add("resumed and done after", resumed, "s")
            assert tree_digest(target) == calm, "the table is another one"
            shutil.rmtree(target)
            tables.append(table)
    record(options.record, tables)


if __name__ == "__main__":
    main()
