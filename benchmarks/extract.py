"""Speed of extraction, against the floors of the same run.

    python benchmarks/extract.py [--peer PYTHON] [--record FILE]

It makes its data (dense tissue, 20 x 8192 x 8192 uint16, some 31,000 cells) in --data once. The
floors are what the job cannot avoid: decoding every chunk of the image, encoding every chunk
of the crops, writing and flushing the encoded bytes; each alone, on as many threads. Figures are
medians of --repeats after a warm-up, ratios are taken round by round. With --peer, the interpreter
of an environment made from envs/peer.yaml, Harpy does the same on the same arrays and every crop
is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from common import (
    DENSE,
    SHAPE,
    SPARSE,
    Table,
    cost_of_checksums,
    decode_all,
    in_turn,
    record,
    tissue_store,
)

import harpy_core as hc
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.running import cluster
from harpy_core.storage import codecs
from harpy_core.storage.writing import write_flushed

DIAMETER, BATCH_SIZE, THREADS = 50, 500, 2
FLOORS = ("decode the image", "encode the crops", "write them")
WAYS: dict[str, dict[str, Any]] = {
    "extract": {},
    "with background": {"remove_background": False},
    "shuffled": {"shuffle": 1},
    "zstd": {"codec": "zstd"},
    "batches of 50 in shards of 500": {"batch_size": 50, "shard_size": 500},
}


def chunks_of(crops: zarr.Array) -> list[np.ndarray]:
    """Decode every chunk of the crops."""
    files = ChunkFiles(crops)
    counts = [range(-(-n // c)) for n, c in zip(crops.shape, crops.chunks, strict=True)]
    found = []
    for index in product(*counts):
        found.append(np.empty(crops.chunks, crops.dtype))
        files.read(index, found[-1])
    return found


def encode_all(chunks: list[np.ndarray]) -> list[codecs.Encoded]:
    """Compress every chunk, and keep the result in memory."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(partial(codecs.encode, "lz4"), chunks))


def write_all(contents: list[codecs.Encoded], folder: Path) -> None:
    """Write a file for every chunk and wait until it is on disk."""

    def write(item: tuple[int, codecs.Encoded]) -> None:
        write_flushed(folder / str(item[0]), item[1])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, enumerate(contents)))


def emptied(target: Path) -> None:
    """Remove a result, and wait until the disk is idle."""
    shutil.rmtree(target, ignore_errors=True)
    os.sync()


def against_floors(store: Path, folder: Path, repeats: int) -> Table:
    """Measure the job on two workers of one thread, and the three floors."""
    table = Table(
        f"dense tissue {SHAPE}, window {DIAMETER}, batches of {BATCH_SIZE}, "
        f"Dask cluster of {THREADS} workers x 1 thread"
    )
    group = zarr.open_group(store, mode="r")
    target = folder / "crops.zarr"
    with cluster.local(THREADS, 1, "4GB") as client:

        def run(found: Any = None, **options: Any) -> None:
            settings = {"diameter": DIAMETER, "batch_size": BATCH_SIZE, **options}
            hc.extract_instances(
                group["lz4"], group["labels"], target, client=client, instances=found, **settings
            )

        run()
        crops = hc.open_crops(target)
        table.add("instances", len(crops), "")
        table.add("raw bytes of the crops", crops.image.nbytes / 1e9, "GB")
        chunks = chunks_of(crops.image)
        contents = encode_all(chunks)
        table.add(
            "encoded bytes", sum(len(part) for parts in contents for part in parts) / 1e9, "GB"
        )
        written = folder / "written"
        written.mkdir()
        instances = hc.find_instances(group["labels"], client=client)
        floors: list[Callable[[], Any]] = [
            partial(decode_all, group["lz4"], THREADS),
            partial(encode_all, chunks),
            partial(write_all, contents, written),
        ]
        works = dict(zip(FLOORS, floors, strict=True))
        works |= {"extract, instances known": partial(run, instances)}
        works |= {name: partial(run, **options) for name, options in WAYS.items()}
        times = in_turn(works, repeats, partial(emptied, target))
        cost = cost_of_checksums(partial(run, instances), client, 2 * repeats)
    for name, values in times.items():
        table.add(name, statistics.median(values), "s")
    sums = [sum(values) for values in zip(*(times[name] for name in FLOORS), strict=True)]
    for name in ("extract, instances known", "extract"):
        ratios = [a / b for a, b in zip(times[name], sums, strict=True)]
        table.add(f"{name} / sum of the floors", statistics.median(ratios), "x", "<= 1.4")
    table.add("with checksums / without", cost, "x", "<= 1.03")
    return table


def against_peer(tissue: str, store: Path, folder: Path, python: str, repeats: int) -> Table:
    """Measure Harpy on the same arrays and a like cluster, both warm, and compare every crop."""
    table = Table(
        f"against Harpy, {tissue} tissue, warm, labels counted, {THREADS} workers x 1 thread"
    )
    group = zarr.open_group(store, mode="r")
    ours, theirs = folder / "ours.zarr", folder / "theirs.zarr"
    report = folder / "report.json"

    def run(client: Any) -> None:
        hc.extract_instances(
            group["lz4"],
            group["labels"],
            ours,
            diameter=DIAMETER,
            batch_size=BATCH_SIZE,
            client=client,
        )

    def run_peer() -> float:
        emptied(theirs)
        script = Path(__file__).with_name("peer_extract.py")
        arguments = [python, script, store, DIAMETER, BATCH_SIZE, report, theirs]
        subprocess.run([str(a) for a in arguments], check=True)
        return float(json.loads(report.read_text())["seconds"])

    peer = [run_peer() for _ in range(min(repeats, 3))]
    with cluster.local(THREADS, 1, "4GB") as client:
        times = in_turn({"ours": partial(run, client)}, repeats, partial(emptied, ours))["ours"]
    here, there = statistics.median(times), statistics.median(peer)
    table.add("harpy_core, labels to crops", here, "s")
    table.add(f"Harpy {json.loads(report.read_text())['version']}", there, "s")
    table.add("Harpy / harpy_core", there / here, "x", ">= 10")
    labels = np.asarray(json.loads(report.read_text())["labels"], np.uint64)
    crops = hc.open_crops(ours)
    assert np.array_equal(np.sort(labels), np.sort(crops.instance_id)), "other instances"
    place = np.argsort(crops.instance_id)[np.searchsorted(np.sort(crops.instance_id), labels)]
    theirs_image = zarr.open_array(theirs / "image.zarr", mode="r")
    mine = np.asarray(crops.image[...])
    equal = sum(
        np.array_equal(crop, mine[row])
        for first in range(0, len(labels), BATCH_SIZE)
        for crop, row in zip(
            np.asarray(theirs_image[first : first + BATCH_SIZE]),
            place[first : first + BATCH_SIZE],
            strict=True,
        )
    )
    table.add("crops compared", len(labels), "")
    table.add("equal in every pixel", equal, "", f"= {len(labels)}")
    assert equal == len(labels), f"{len(labels) - equal} crops differ"
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peer", help="interpreter of an environment with Harpy")
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    dense = tissue_store(options.data, "dense", SHAPE, DENSE, ("lz4", "zstd"))
    with tempfile.TemporaryDirectory(dir=options.data) as folder:
        tables = [against_floors(dense, Path(folder), options.repeats)]
        if options.peer:
            wide = tissue_store(options.data, "sparse-wide", SHAPE, SPARSE, ("lz4",))
            for tissue, store in (("dense", dense), ("sparse", wide)):
                made = against_peer(tissue, store, Path(folder), options.peer, options.repeats)
                tables.append(made)
    record(options.record, tables)


if __name__ == "__main__":
    sys.exit(main())
