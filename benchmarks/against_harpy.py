"""Harpy and harpy_core side by side: the same arrays, workers and cells, both warm.

    python benchmarks/against_harpy.py --peer PYTHON [--jobs mean six crops] [--record FILE]

Dense and sparse tissue, 20 x 8192 x 8192 uint16, made in --data once; 2 workers of 1 thread. Before
the clock starts the workers of both have imported what they need and done the same on a few
pixels, and the files are in the page cache; finding the instances is in the time of both. Ours is
the median of --repeats; Harpy does each job once, as it takes minutes. Every value and every crop
is compared. PYTHON is the interpreter that `make peer` prints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from common import (
    DENSE,
    SHAPE,
    SPARSE,
    Table,
    emptied,
    in_turn,
    median_seconds,
    record,
    tissue_store,
)

import harpy_core as hc
from harpy_core.running import cluster

STATS = {"mean": ("mean",), "six": ("sum", "mean", "count", "var", "kurtosis", "skew")}
TARGETS = {"mean": 12, "six": 50, "crops": 10}
DIAMETER = 50
BATCH_SIZE = 500


def told(script: str, *arguments: Any) -> dict[str, Any]:
    """Run a script in Harpy's environment; its report, the last but one argument."""
    path = Path(__file__).with_name(script)
    command = [arguments[0], path, *arguments[1:]]
    subprocess.run([str(a) for a in command], check=True)
    report: dict[str, Any] = json.loads(Path(arguments[-2]).read_text(encoding="utf-8"))
    return report


def compared(table: Table, job: str, ours: float, report: dict[str, Any]) -> None:
    """Add both times and their ratio."""
    table.add("harpy_core", ours, "s")
    table.add(f"Harpy {report['version']}", report["seconds"], "s")
    table.add("Harpy / harpy_core", report["seconds"] / ours, "x", f">= {TARGETS[job]}")


def measures(table: Table, job: str, store: Path, folder: Path, python: str, repeats: int) -> None:
    """Statistics by both, and the largest difference of their values."""
    group = zarr.open_group(store, mode="r")
    image, labels, stats = group["lz4"], group["labels"], STATS[job]
    with cluster.local(2, 1, "8GB") as client:
        run = partial(hc.aggregate_stats, image, labels, stats, client=client)
        ours = median_seconds(run, repeats)
        result = run()
    values = folder / "values.npz"
    report = told(
        "peer_aggregate.py", python, store, ",".join(stats), folder / "report.json", values
    )
    compared(table, job, ours, report)
    with np.load(values) as found:
        order = np.argsort(found["labels"])
        assert np.array_equal(found["labels"][order], result.obs["instance_id"]), "other cells"
        for stat in stats:
            difference = np.abs(found[stat][order].astype(np.float64) - result.layers[stat])
            scale = np.maximum(np.abs(result.layers[stat]), 1)
            table.add(f"{stat}: largest relative difference", (difference / scale).max(), "")


def crops(table: Table, job: str, store: Path, folder: Path, python: str, repeats: int) -> None:
    """Crops by both, which must be equal in every pixel."""
    group = zarr.open_group(store, mode="r")
    ours, theirs = folder / "ours.zarr", folder / "theirs.zarr"
    report = told(
        "peer_extract.py", python, store, DIAMETER, BATCH_SIZE, folder / "report.json", theirs
    )
    with cluster.local(2, 1, "4GB") as client:
        run = partial(
            hc.extract_instances,
            group["lz4"],
            group["labels"],
            ours,
            diameter=DIAMETER,
            batch_size=BATCH_SIZE,
            client=client,
        )
        times = in_turn({"ours": run}, repeats, partial(emptied, ours))["ours"]
    compared(table, job, statistics.median(times), report)
    labels = np.asarray(report["labels"], np.uint64)
    mine = hc.open_crops(ours)
    assert np.array_equal(np.sort(labels), np.sort(mine.instance_id)), "other cells"
    place = np.argsort(mine.instance_id)[np.searchsorted(np.sort(mine.instance_id), labels)]
    their_image = zarr.open_array(theirs / "image.zarr", mode="r")
    equal = 0
    for first in range(0, len(labels), BATCH_SIZE):
        there = np.asarray(their_image[first : first + BATCH_SIZE])
        here = mine.image.oindex[place[first : first + BATCH_SIZE]]
        equal += int((there == here).reshape(len(there), -1).all(axis=1).sum())
    table.add("crops compared", len(labels), "")
    table.add("equal in every pixel", equal, "", f"= {len(labels)}")
    assert equal == len(labels), f"{len(labels) - equal} crops differ"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", required=True, help="interpreter of an environment with Harpy")
    parser.add_argument("--jobs", nargs="+", choices=[*TARGETS], default=[*TARGETS])
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    stores = {
        "dense": tissue_store(options.data, "dense", SHAPE, DENSE, ("lz4", "zstd")),
        "sparse": tissue_store(options.data, "sparse-wide", SHAPE, SPARSE, ("lz4",)),
    }
    tables = []
    for tissue, store in stores.items():
        for job in options.jobs:
            tables.append(Table(f"{tissue}, {job}"))
            with tempfile.TemporaryDirectory(dir=options.data) as folder:
                work = crops if job == "crops" else measures
                work(tables[-1], job, store, Path(folder), options.peer, options.repeats)
    record(options.record, tables)


if __name__ == "__main__":
    sys.exit(main())
