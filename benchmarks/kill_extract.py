"""Kill an extraction at random moments, and check that nothing committed is done again.

    python benchmarks/kill_extract.py [--kills 20] [--record FILE]

A driver with a Dask cluster of two workers cuts the crops of synthetic tissue; it is killed with
SIGKILL at random moments and started again, until it has been killed --kills times; then it may
finish. Every file that had a commit record when a driver died must be the same file, by inode and
time, in the finished store, and the store must be byte for byte that of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import CHUNKS, DENSE, Table, record, tissue_store

DRIVER = """
import sys
import zarr
import harpy_core as hc
from harpy_core.running import cluster

if __name__ == "__main__":
    group = zarr.open_group(sys.argv[1], mode="r")
    instances = hc.find_instances(group["labels"])
    with cluster.local(2, 1, "4GB") as client:
        print("ready", flush=True)
        hc.extract_instances(
            group["lz4"], group["labels"], sys.argv[2], diameter=50, batch_size=int(sys.argv[3]),
            codec="zstd", client=client, instances=instances,
        )
        print("done", flush=True)
"""


class Driver:
    """A process that extracts, and its progress."""

    def __init__(self, script: Path, store: Path, target: Path, batch: int) -> None:
        root = str(Path(__file__).resolve().parents[1])
        self._target = target
        self._process = subprocess.Popen(
            [sys.executable, script, store, target, str(batch)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def wait_for_commits(self, count: int) -> None:
        """Return when there are `count` more commit records than now, or when it is done."""
        before = len(committed(self._target))
        while self._process.poll() is None and not self._target.exists():
            if len(committed(self._target)) >= before + count:
                return
            time.sleep(0.02)

    def kill(self) -> None:
        """End it in a way that nothing can catch."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def finish(self) -> float:
        """Wait until it is done; return the moment at which the store was there."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"done\n"
        moment = time.monotonic()
        assert self._process.wait() == 0
        return moment


def committed(target: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each file of the store that has a commit record."""
    found = {}
    for work in target.parent.glob(f".{target.name}.work-*"):
        for entry in (work / "commits").glob("image.*"):
            _, batch, chunk = entry.name.split(".")
            name = f"image/c/{batch}/{chunk}/0/0/0"
            stat = (work / "store" / name).stat()
            found[name] = (stat.st_ino, stat.st_mtime_ns)
    return found


def tree(path: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def main() -> None:
    """Kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--size", type=int, default=8192, help="rows and columns of the image")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    shape = (CHUNKS[0], options.size, options.size)
    store = tissue_store(options.data, f"kill-{options.size}", shape, DENSE, ("lz4",))
    table = Table(f"SIGKILL of the driver: {shape}, batches of {options.batch_size}")
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.data) as scratch:
        script = Path(scratch) / "driver.py"
        script.write_text(DRIVER)
        calm, target = Path(scratch) / "calm.zarr", Path(scratch) / "crops.zarr"
        driver = Driver(script, store, calm, options.batch_size)
        driver.wait_for_commits(1)
        started = time.monotonic()
        work = driver.finish() - started
        files = len(list((calm / "image" / "c").glob("*/*")))
        seen: dict[str, tuple[int, int]] = {}
        for kill in range(options.kills):
            driver = Driver(script, store, target, options.batch_size)
            # Most kills fall while batches are committed, some before the first one. Waiting for
            # commits, not for time, keeps the last kill ahead of the end on a busy machine.
            if kill % 5:
                driver.wait_for_commits(rng.randint(1, max(1, int(0.7 * files / options.kills))))
            time.sleep(rng.uniform(0, 0.2 * work / options.kills))
            driver.kill()
            if target.exists():
                raise SystemExit(f"done before kill {kill + 1}: take a larger --size")
            now = committed(target)
            lost = [name for name, stat in seen.items() if now.get(name) != stat]
            assert not lost, f"done again: {lost}"
            seen |= now
        Driver(script, store, target, options.batch_size).finish()
        stats = {name: (target / name).stat() for name in seen}
        again = [n for n, s in stats.items() if seen[n] != (s.st_ino, s.st_mtime_ns)]
        assert not again, f"done again: {again}"
        assert tree(target) == tree(calm), "the store is another one"
        table.add("undisturbed, from the first commit on", work, "s")
        table.add("times the driver was killed", options.kills, "")
        table.add("files of the store", files, "")
        table.add("of them committed before a kill", len(seen), "")
        table.add("committed files done again", len(again), "", "= 0")
    record(options.record, [table])


if __name__ == "__main__":
    main()
