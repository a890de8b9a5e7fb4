"""Who finishes, how long it takes and in how much memory: the mean of every channel in every cell.

    python benchmarks/peers.py --others .venv-others/bin/python --peer .venv-peer/bin/python
        [--scportrait PYTHON] [--side 4096] [--limit 600] [--record FILE]

Each peer does it once in a process of its own, through its public interface, on the same dense
tissue (10 channels, --side × --side, uint16, LZ4; warm), at most --limit seconds. Values are
compared with those of the plain loop over the chunks. `make peer` makes both environments. With
--scportrait, an interpreter with scPortrait (`pip install scportrait`: gigabytes), crops of every
cell are measured too, by it and by harpy_core.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from common import DENSE, Table, record, tissue_store

import harpy_core as hc
from harpy_core.benchmark.profiling import ProcessTreeSampler
from harpy_core.running import cluster

HERE = Path(__file__).parent
WINDOW = 50
"""Pixels of the side of a crop."""
OTHERS = ("bincount", "regionprops", "dask-image", "nyxus")


def ours(store: str, values: str, report: str) -> None:
    """The same in harpy_core, on two workers of one thread."""
    group = zarr.open_group(store, mode="r")
    with cluster.local(2, 1, "4GB") as client:
        hc.aggregate_stats(np.ones((1, 8, 8), np.uint16), np.ones((8, 8), np.uint32), client=client)
        started = time.monotonic()
        table = hc.aggregate_stats(group["lz4"], group["labels"], client=client)
        ended = time.monotonic()
    np.savez(values, ids=table.obs["instance_id"], means=table.layers["mean"])
    told = {"started": started, "ended": ended, "version": f"harpy_core {hc.__version__}"}
    Path(report).write_text(json.dumps(told), encoding="utf-8")


def our_crops(store: str, sums: str, report: str) -> None:
    """Crops of every cell in harpy_core, on two workers of one thread."""
    group = zarr.open_group(store, mode="r")
    with cluster.local(2, 1, "4GB") as client, tempfile.TemporaryDirectory() as scratch:
        few = (np.ones((1, 64, 64), np.uint16), np.ones((64, 64), np.uint32))
        hc.extract_instances(*few, Path(scratch) / "few.zarr", diameter=8, client=client)
        started = time.monotonic()
        crops = hc.extract_instances(
            group["lz4"],
            group["labels"],
            Path(scratch) / "crops.zarr",
            diameter=WINDOW,
            client=client,
        )
        ended = time.monotonic()
        found = np.asarray(crops.image[...]).sum(axis=(2, 3, 4), dtype=np.float64)
        np.savez(sums, ids=crops.instance_id, sums=found)
    told = {"started": started, "ended": ended, "version": f"harpy_core {hc.__version__}"}
    Path(report).write_text(json.dumps(told), encoding="utf-8")


def measured(table: Table, name: str, command: list[str], folder: Path, limit: float) -> bool:
    """Run one peer and add its figures; whether it finished."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        child = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        try:
            with ProcessTreeSampler(child.pid) as sampler:
                try:
                    status = child.wait(limit)
                except subprocess.TimeoutExpired:
                    status = None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    if status != 0:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"])[-1]
        why = f"not within {limit:.0f} s" if status is None else last[:100]
        table.add(f"{name}: did not finish ({why})", limit if status is None else 0.0, "s")
        return False
    told = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    seconds = told.get("seconds") or told["ended"] - told["started"]
    summary = sampler.summary(told.get("started"), told.get("ended"))
    table.add(f"{name} ({told['version']})", seconds, "s")
    table.add(f"{name}: peak RSS", sampler.summary().peak_rss / 1e9, "GB")
    table.add(f"{name}: mean CPU", summary.mean_cpu_percent, "% of a core")
    return True


def compare(table: Table, name: str, folder: Path) -> None:
    """Largest relative difference of a peer's means from those of the plain loop."""
    with np.load(folder / "bincount.npz") as found:
        ids, means = found["ids"], found["means"]
    with np.load(folder / f"{name}.npz") as found:
        keys = ("labels", "mean") if "labels" in found else ("ids", "means")
        theirs, values = (found[key] for key in keys)
    order = np.argsort(theirs)
    assert np.array_equal(theirs[order].astype(np.int64), ids), f"{name}: other cells"
    difference = np.abs(values[order] - means) / np.maximum(np.abs(means), 1)
    table.add(f"{name}: largest relative difference", float(difference.max()), "")


def crops_of_each(store: Path, python: str, limit: float) -> Table:
    """Measure crops by scPortrait and by harpy_core, and compare the sums of their pixels."""
    shape = zarr.open_group(store, mode="r")["lz4"].shape
    table = Table(f"crops of {WINDOW} x {WINDOW} pixels, dense tissue {shape}, 2 cores")
    sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        script = [python, str(HERE / "peer_crops.py"), str(store), str(WINDOW), str(folder)]
        own = [sys.executable, __file__, "--others", python, "--our-crops", str(store)]
        for name, command in {"scportrait": script, "harpy_core": own}.items():
            command += [str(folder / f"{name}.npz"), str(folder / f"{name}.json")]
            if measured(table, name, command, folder, limit):
                with np.load(folder / f"{name}.npz") as found:
                    sums[name] = found["ids"], found["sums"]
                table.add(f"{name}: crops", len(sums[name][0]), "")
    if len(sums) == 2:
        ids, theirs = sums["scportrait"]
        order = np.argsort(sums["harpy_core"][0])
        at = order[np.searchsorted(sums["harpy_core"][0], ids, sorter=order)]
        assert np.array_equal(sums["harpy_core"][0][at], ids), "scportrait: other cells"
        # It scales uint16 to 0 to 1, and its masks have soft edges.
        ours = sums["harpy_core"][1][at] / np.iinfo(np.uint16).max
        difference = np.abs(theirs - ours) / np.maximum(ours, 1)
        table.add(
            "scportrait: median difference of a channel's sum", float(np.median(difference)), ""
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--others", required=True, help="interpreter with the other packages")
    parser.add_argument("--peer", help="interpreter with Harpy")
    parser.add_argument("--scportrait", help="interpreter with scPortrait")
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--limit", type=float, default=600)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--our-crops", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        ours(*options.ours)
        return
    if options.our_crops:
        our_crops(*options.our_crops)
        return
    options.data.mkdir(parents=True, exist_ok=True)
    shape = (10, options.side, options.side)
    store = tissue_store(options.data, f"peers-{options.side}", shape, DENSE, ("lz4",))
    table = Table(f"mean of every channel, dense tissue {shape}, 2 cores")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        commands = {
            name: [options.others, str(HERE / "peer_means.py"), name, str(store)] for name in OTHERS
        }
        own = [sys.executable, __file__, "--others", options.others, "--ours", str(store)]
        commands["harpy_core"] = own
        for name, command in commands.items():
            command += [str(folder / f"{name}.npz"), str(folder / f"{name}.json")]
        if options.peer:
            script = [options.peer, str(HERE / "peer_aggregate.py"), str(store), "mean"]
            commands["harpy"] = [*script, str(folder / "harpy.json"), str(folder / "harpy.npz")]
        for name, command in commands.items():
            if measured(table, name, command, folder, options.limit):
                compare(table, name, folder)
    tables = [table]
    if options.scportrait:
        tables.append(crops_of_each(store, options.scportrait, options.limit))
    record(options.record, tables)


if __name__ == "__main__":
    sys.exit(main())
