"""Speed of extraction, against the floors of the same run.

    python benchmarks/extract.py [--record FILE]

It makes its data (dense tissue, 20 x 8192 x 8192 uint16, some 31,000 cells) in --data once. The
floors are what the job cannot avoid: decoding every chunk of the image, encoding every chunk
of the crops, writing and flushing the encoded bytes; each alone, on as many threads. Figures are
medians of --repeats after a warm-up, ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import statistics
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
    Table,
    cost_of_checksums,
    decode_all,
    emptied,
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    dense = tissue_store(options.data, "dense", SHAPE, DENSE, ("lz4", "zstd"))
    with tempfile.TemporaryDirectory(dir=options.data) as folder:
        tables = [against_floors(dense, Path(folder), options.repeats)]
    record(options.record, tables)


if __name__ == "__main__":
    sys.exit(main())
