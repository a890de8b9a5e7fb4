"""Tables of millions of cells: memory against the plan, time, size on disk, and lazily opened.

    python benchmarks/cells.py [FOLDER] [--channels 2 6] [--record FILE]

3.4 million cells, a slide of 300 x 300 mm2, lie on a grid of 4 x 4 pixels, so that the table counts
and not the image. A table is written a slab of channels at a time, and every slab of it is
alike: memory is measured with few channels and with more. Each run has a process of its own. What
is planned for 100 channels is told in any case; to write them takes 20 minutes and 50 GB of disk,
half of it commits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from common import Table, record, seconds

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.planning.plan import plan_aggregate

CELLS = 1844
"""Cells along y and along x."""
PITCH, SIDE = 4, 3
CHUNK = 461 * PITCH
STATS = [
    *(
        "mean",
        "count",
        "sum",
        "var",
        "std",
        "min",
        "max",
        "skew",
        "kurtosis",
        "median",
        "iqr",
        "mad",
    ),
    *("q05", "q10", "q25", "q40", "q60", "q75", "q90", "q95"),
]
WHOLE = 100
"""Channels of the table that is planned."""


def made(folder: Path, channels: int) -> tuple[zarr.Array, zarr.Array]:
    """Make an image of noise, each chunk of its channels different, and its labels."""
    group = zarr.open_group(folder, mode="w")
    side = CELLS * PITCH
    at = np.arange(side)
    inside, number = at % PITCH < SIDE, at // PITCH
    labels = group.create_array("labels", shape=(side, side), chunks=(CHUNK, CHUNK), dtype="u4")
    labels[...] = np.where(
        inside[:, None] & inside, (number[:, None] * CELLS + number + 1).astype("u4"), 0
    )
    image = group.create_array(
        "image", shape=(channels, side, side), chunks=(1, CHUNK, CHUNK), dtype="u2"
    )
    rng = np.random.default_rng(1)
    for channel in range(channels):
        image[channel] = rng.poisson(40, (side, side))
    return image, labels


def peak() -> int:
    """Most bytes that this process has held."""
    return _status("VmHWM")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def written(folder: Path, channels: int) -> dict[str, Any]:
    """Write a table, and say what it took."""
    image, labels = made(folder / "source.zarr", channels)
    found = hc.find_instances(labels)
    small = image[:1, :64, :64], labels[:64, :64]
    aggregate_to_store(*small, folder / "warm", hc.find_instances(small[1]), STATS)
    del small
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    held = _status("VmRSS")
    target = folder / "table.zarr"
    time = seconds(lambda: aggregate_to_store(image, labels, target, found, STATS))
    took = peak() - held
    threads = len(os.sched_getaffinity(0))
    plans = {
        n: plan_aggregate(
            zarr.create_array({}, shape=(n, *image.shape[1:]), chunks=image.chunks, dtype="u2"),
            labels,
            STATS,
            instances=found,
            threads=threads,
        )
        for n in (channels, WHOLE)
    }
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    whole = plans[WHOLE]
    return {
        "cells": len(found),
        "time": time,
        "took": took,
        "planned": plans[channels].memory(threads),
        "size": size,
        "raw": plans[channels].bytes_written,
        "planned whole": whole.memory(threads),
        "raw whole": whole.bytes_written,
    }


def opened(folder: Path) -> dict[str, Any]:
    """Open a table without reading it, read a column of it, and say what that took."""
    from anndata.experimental import read_lazy

    before = _status("VmRSS")
    tables: list[Any] = []
    time = seconds(lambda: tables.append(read_lazy(folder / "table.zarr")))
    after = _status("VmRSS")
    (table,) = tables
    column = np.asarray(table.layers["q90"][:, 0].compute())
    assert np.isfinite(column).all()
    return {"open": time, "held": after - before, "column": peak() - before, "rows": len(column)}


def measured(what: str, folder: Path, channels: int) -> dict[str, Any]:
    """Run a part in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--part", what, "--channels", str(channels)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--channels", nargs="+", type=int, default=[2, 6])
    parser.add_argument("--part", choices=["written", "opened"], help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    if options.part is not None:
        parts = {
            "written": lambda: written(options.folder, *options.channels),
            "opened": lambda: opened(options.folder),
        }
        print(json.dumps(parts[options.part]()))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    table = Table(f"{CELLS**2:,} cells, {len(STATS)} statistics of uint16")
    for channels in options.channels:
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            found = measured("written", folder, channels)
            lazy = measured("opened", folder, channels)
        finally:
            shutil.rmtree(folder)
        of = f"{channels} channels"
        table.add(f"{of}, memory, planned", found["planned"] / 1e9, "GB")
        table.add(f"{of}, memory, measured", found["took"] / 1e9, "GB")
        table.add(f"{of}, time", found["time"], "s")
        table.add(f"{of}, table before compression", found["raw"] / 1e9, "GB")
        table.add(f"{of}, table on disk", found["size"] / 1e9, "GB")
        table.add(f"{of}, opened lazily, time", lazy["open"], "s")
        table.add(f"{of}, opened lazily, memory", lazy["held"] / 1e6, "MB")
        table.add(f"{of}, one column read, memory at most", lazy["column"] / 1e6, "MB")
    if WHOLE not in options.channels:
        table.add(f"{WHOLE} channels, memory, planned", found["planned whole"] / 1e9, "GB")
        table.add(f"{WHOLE} channels, table before compression", found["raw whole"] / 1e9, "GB")
    load = round(os.getloadavg()[2], 1)
    record(options.record, [table], {"threads": len(os.sched_getaffinity(0)), "load average": load})


if __name__ == "__main__":
    sys.exit(main())
