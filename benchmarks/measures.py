"""Cost of each measure beside the mean of the same read, and beside scikit-image on one tile.

    python benchmarks/measures.py [--data FOLDER] [--cells 1000000] [--record FILE]

It makes its data (dense tissue, 20 x 4096 x 4096 uint16; 1 GB) in --data once. Every figure is the
median of --repeats after a warm-up; ratios are medians of ratios taken round by round. Neighbours
are measured on the labels of --cells square cells too, which are computed as they are read.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import threading
import time
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import psutil
import zarr
from common import CHUNKS, DENSE, Table, in_turn, median_seconds, ratio, record, tissue_store
from skimage.measure import regionprops_table
from skimage.measure._regionprops import RegionProperties

import harpy_core as hc
from harpy_core.statistics.declared import of_channels, of_labels

SHAPE = (20, 4096, 4096)
SIDE = 20
"""Pixels of the side of a synthetic cell."""


def beside_the_mean(store: Path, repeats: int) -> Table:
    """Measure the mean with each other measure, all channels in one read, with the mean alone."""
    table = Table(f"mean and another measure of {SHAPE} / mean alone, threads of this process")
    group = zarr.open_group(store, mode="r")
    image, labels = group["lz4"], group["labels"]
    instances = hc.find_instances(labels)
    run = partial(hc.aggregate_stats, image, labels, instances=instances)
    names = [*of_channels(hc.STATISTICS), *shapes()]
    works = {"mean": partial(run, ("mean",))}
    works |= {name: partial(run, ("mean", name)) for name in names if name != "mean"}
    works["radial_mean"] = partial(run, ("mean", "radial_mean"))
    works["q05"] = partial(run, ("mean", "q05"))
    pairs = [("0", "1")]
    works["pearson_corr_coeff"] = partial(run, ("mean", hc.pearson_corr_coeff(pairs)))
    works["manders_overlap_coeff"] = partial(run, ("mean", hc.manders_overlap_coeff(pairs)))
    above = hc.manders_coloc_coeff(pairs, {"0": 100.0, "1": 100.0})
    works["manders_coloc_coeff"] = partial(run, ("mean", above))
    works["a function of one's own"] = partial(run, ("mean", span))
    works["a batched function of one's own"] = partial(run, ("mean", spans))
    works["whole channels"] = partial(run, ("mean",), whole_channels=True)
    works["all shapes"] = partial(run, ("mean", *shapes()))
    works["neighbors"] = partial(run, ("mean",), neighbors="touching")
    layers = {"cell": labels, "ring": hc.label_rings(labels, 2, 8)}
    works["two layers"] = partial(hc.aggregate_layers, image, layers, ("mean",))
    derived = {"signal": "cell.mean - ring.mean"}
    works["two layers and their difference"] = partial(
        hc.aggregate_layers, image, layers, ("mean",), derived=derived
    )
    times = in_turn(works, repeats)
    table.add("mean alone", statistics.median(times["mean"]), "s")
    for name in list(works)[1:]:
        table.add(name, ratio(times, name, "mean"), "x")
    return table


def span(pixels: np.ndarray, coordinates: np.ndarray) -> float:
    """Range of the pixels: a function that does little."""
    return float(pixels.max()) - float(pixels.min())


@hc.measure(batched=True)
def spans(pixels: np.ndarray, coordinates: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The same of many instances."""
    first = starts[:-1]
    most = np.maximum.reduceat(pixels[0], first).astype(np.float64)
    return most - np.minimum.reduceat(pixels[0], first)


def shapes(axes: int = 2) -> list[str]:
    """Names of the shapes of labels of so many axes."""
    return [name for name, shape in of_labels(hc.STATISTICS).items() if axes in shape.axes]


def beside_scikit_image(labels: np.ndarray, repeats: int) -> Table:
    """Measure each shape of one tile, labels alone, and the same in scikit-image if it has it."""
    table = Table(f"shapes of one tile {labels.shape}: scikit-image / harpy_core")
    instances = hc.find_instances(labels)
    of = " of a volume" if labels.ndim == 3 else ""
    for name in shapes(labels.ndim):
        ours = median_seconds(
            lambda name=name: hc.aggregate_stats(None, labels, name, instances=instances), repeats
        )
        table.add(f"{name}{of}: harpy_core", 1e3 * ours, "ms")
        if not hasattr(RegionProperties, name):
            continue
        started = time.perf_counter()
        regionprops_table(labels, properties=[name])
        theirs = time.perf_counter() - started
        table.add(f"{name}{of}: scikit-image / harpy_core", theirs / ours, "x")
    return table


def pixels_beside_scikit_image(store: Path, repeats: int) -> Table:
    """Measure statistics of one channel of one tile, and the same in scikit-image."""
    group = zarr.open_group(store, mode="r")
    labels = np.asarray(group["labels"][: CHUNKS[1], : CHUNKS[2]])
    plane = np.asarray(group["lz4"][0, : CHUNKS[1], : CHUNKS[2]])
    table = Table(f"statistics of one channel of one tile {labels.shape}: scikit-image / ours")
    instances = hc.find_instances(labels)
    for name, (property_name, more) in PROPERTIES.items():
        ours = median_seconds(
            lambda name=name: hc.aggregate_stats(
                plane[np.newaxis], labels, name, instances=instances
            ),
            repeats,
        )
        started = time.perf_counter()
        regionprops_table(labels, plane, properties=property_name, extra_properties=more)
        theirs = time.perf_counter() - started
        table.add(f"{name}: harpy_core", 1e3 * ours, "ms")
        table.add(f"{name}: scikit-image / harpy_core", theirs / ours, "x")
    return table


def median(mask: np.ndarray, pixels: np.ndarray) -> float:
    """Median of an instance, as scikit-image takes functions."""
    return float(np.median(pixels[mask]))


def q05(mask: np.ndarray, pixels: np.ndarray) -> float:
    """Percentile 5 of an instance, likewise."""
    return float(np.percentile(pixels[mask], 5))


PROPERTIES = {
    "mean": (("intensity_mean",), ()),
    "min": (("intensity_min",), ()),
    "max": (("intensity_max",), ()),
    "q05": ((), (q05,)),
    "std": (("intensity_std",), ()),
    "median": ((), (median,)),
    "centroid_weighted-y": (("centroid_weighted",), ()),
}
"""Properties of scikit-image, and functions for it, by the name of the same here."""


def grid_of_cells(cells: int) -> da.Array:
    """Labels of touching square cells, computed as they are read."""
    across = math.isqrt(cells)
    size = across * SIDE

    def block(block_info: dict[int, dict[str, list[tuple[int, int]]]]) -> np.ndarray:
        rows, columns = block_info[None]["array-location"]
        y, x = np.ogrid[slice(*rows), slice(*columns)]
        return (y // SIDE * across + x // SIDE + 1).astype(np.uint32)

    chunks = da.core.normalize_chunks(2048, (size, size))
    return da.map_blocks(block, chunks=chunks, dtype=np.uint32, meta=np.empty((0, 0), np.uint32))


def neighbours_of_many(cells: int) -> Table:
    """Measure the neighbours of many cells, and the memory of this process meanwhile."""
    labels = grid_of_cells(cells)
    table = Table(f"neighbours of {math.isqrt(cells) ** 2:,} cells, {labels.shape} labels")
    process = psutil.Process()
    for name, neighbors in (("touching", "touching"), ("within 30 pixels", 30.0)):
        before, most, done = process.memory_info().rss, [0], threading.Event()

        def watch(most: list[int] = most, done: threading.Event = done) -> None:
            while not done.wait(0.05):
                most[0] = max(most[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        found = hc.aggregate_stats(None, labels, "area", neighbors=neighbors)
        taken = time.perf_counter() - started
        done.set()
        watcher.join()
        table.add(f"{name}: pairs", found.obsp["spatial_connectivities"].nnz // 2, "")
        table.add(f"{name}: time", taken, "s", "minutes")
        table.add(f"{name}: memory", (most[0] - before) / 1e9, "GB", "<= 2")
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/benchmarks"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--record", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    store = tissue_store(options.data, "measures", SHAPE, DENSE, ("lz4",))
    flat = np.asarray(zarr.open_group(store, mode="r")["labels"][: CHUNKS[1], : CHUNKS[2]])
    deep = np.ascontiguousarray(np.broadcast_to(flat[:256, :256], (16, 256, 256)))
    tables = [
        beside_scikit_image(flat, options.repeats),
        beside_scikit_image(deep, options.repeats),
        pixels_beside_scikit_image(store, options.repeats),
        beside_the_mean(store, options.repeats),
        neighbours_of_many(options.cells),
    ]
    record(options.record, tables)


if __name__ == "__main__":
    sys.exit(main())
