"""Speed of loading crops for training, against the bare reading of the same chunks.

    python benchmarks/loader.py [--record FILE]

It needs PyTorch, and makes its data (dense tissue, 20 x 8192 x 8192 uint16, and a crop of 50 x 50
pixels of each of its cells, in batches of 500: 3 GB of pixels) in --data once. Every figure is the
median of --repeats after a warm-up, in rounds that give every loader a turn; ratios are medians of
ratios taken round by round. Bare reading is one thread that decodes every chunk into one buffer.
Loaders run through `torch.utils.data.DataLoader`, shuffling; workers live from epoch to epoch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import torch
import zarr
from common import DENSE, SHAPE, Table, decode_all, in_turn, ratio, record, tissue_store
from torch.utils.data import DataLoader

import harpy_core as hc
from harpy_core.extract.crops import Crops
from harpy_core.training.dataset import CropDataset

DIAMETER = 50
CHUNK = 500
NORMALISED = (None, "dtype", "percentile", "crop")


def crops_of(folder: Path) -> Crops:
    """Extract crops of every cell of the tissue, once."""
    path = folder / "dense-crops.zarr"
    if not path.exists():
        group = zarr.open_group(
            tissue_store(folder, "dense", SHAPE, DENSE, ("lz4", "zstd")), mode="r"
        )
        hc.extract_instances(
            group["lz4"], group["labels"], path, diameter=DIAMETER, batch_size=CHUNK
        )
    return hc.open_crops(path)


def epoch(crops: Crops, batch_size: int, workers: int, normalise: str | None) -> Callable[[], None]:
    """Make a function that reads all crops once through a loader."""
    dataset = CropDataset(crops, batch_size=batch_size, normalise=normalise)
    loader = DataLoader(
        dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )

    def read() -> None:
        seen = sum(len(ids) for _, ids in loader)
        if seen != len(crops):
            raise RuntimeError(f"{seen} crops instead of {len(crops)}")

    return read


def loaders(crops: Crops, batch_size: int, repeats: int) -> Table:
    """Measure the loader in this process and in a worker, with each way to normalise."""
    table = Table(f"{len(crops)} crops {crops.image.shape[1:]}, batches of {batch_size}")
    works: dict[str, Callable[[], None]] = {"bare": partial(decode_all, crops.image, 1)}
    for workers, normalise in product((0, 1), NORMALISED):
        name = f"{workers} workers, normalise={normalise}"
        works[name] = epoch(crops, batch_size, workers, normalise)
    times = in_turn(works, repeats)
    for name, values in times.items():
        table.add(name, crops.image.nbytes / statistics.median(values) / 1e9, "GB/s")
    for name in list(works)[1:]:
        target = ">= 0.8" if name.endswith("None") else ""
        table.add(f"{name} / bare", 1 / ratio(times, name, "bare"), "x", target)
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    # A loader advises how many workers a small machine should have.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.set_num_threads(1)
    crops = crops_of(options.data)
    tables = [loaders(crops, size, options.repeats) for size in options.batch_sizes]
    record(options.record, tables)


if __name__ == "__main__":
    sys.exit(main())
