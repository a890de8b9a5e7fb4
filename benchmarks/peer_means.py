"""The mean of every channel in every cell by other packages; a script for an environment of theirs.

    python peer_means.py NAME STORE VALUES.npz REPORT.json

NAME is regionprops (scikit-image, in memory), dask-image, nyxus or bincount (a plain loop over the
chunks). STORE holds ``lz4`` (c, y, x) and ``labels`` (y, x). Each through its public interface.
"""

import importlib
import importlib.metadata
import json
import sys
import time

import numpy as np
import zarr


def regionprops(image, labels):
    """scikit-image: image and labels in memory, channels last."""
    from skimage.measure import regionprops_table

    pixels = np.moveaxis(np.asarray(image[...]), 0, -1)
    found = regionprops_table(
        np.asarray(labels[...]), pixels, properties=("label", "mean_intensity")
    )
    means = [found[f"mean_intensity-{c}"] for c in range(image.shape[0])]
    return found["label"], np.stack(means, axis=1)


def dask_image(image, labels):
    """dask-image: a measurement for each channel, over the labels that are there."""
    import dask.array as da
    from dask.distributed import Client, LocalCluster
    from dask_image import ndmeasure

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        pixels, plane = da.from_zarr(image), da.from_zarr(labels)
        ids = da.unique(plane).compute()
        ids = ids[ids != 0]
        means = [ndmeasure.mean(channel, plane, ids).compute() for channel in pixels]
    return ids, np.stack(means, axis=1)


def nyxus(image, labels):
    """Nyxus: its feature MEAN, a channel at a time, in memory."""
    from nyxus import Nyxus

    engine = Nyxus(["MEAN"], n_feature_calc_threads=2)
    plane = np.asarray(labels[...])
    means = []
    for c in range(image.shape[0]):
        frame = engine.featurize(np.asarray(image[c]), plane).sort_values("ROI_label")
        means.append(frame["MEAN"].to_numpy())
    return frame["ROI_label"].to_numpy(), np.stack(means, axis=1)


def bincount(image, labels):
    """zarr and NumPy: two `bincount`s a chunk, one thread."""
    plane = np.asarray(labels[...])
    length = int(plane.max()) + 1
    sums, counts = np.zeros((image.shape[0], length)), np.bincount(plane.ravel(), minlength=length)
    channels, height, width = image.chunks
    for c in range(0, image.shape[0], channels):
        for y in range(0, image.shape[1], height):
            for x in range(0, image.shape[2], width):
                block = np.asarray(image[c : c + channels, y : y + height, x : x + width])
                cells = plane[y : y + height, x : x + width].ravel()
                for number, pixels in enumerate(block, start=c):
                    sums[number] += np.bincount(cells, pixels.ravel(), length)
    ids = np.flatnonzero(counts)
    ids = ids[ids != 0]
    return ids, (sums[:, ids] / counts[ids]).T


PEERS = {
    "regionprops": ("scikit-image", "skimage.measure", regionprops),
    "dask-image": ("dask-image", "dask_image.ndmeasure", dask_image),
    "nyxus": ("nyxus", "nyxus", nyxus),
    "bincount": ("zarr", "zarr", bincount),
}


def main(name, store, values, report):
    """Measure once; write the means and when they were made."""
    group = zarr.open_group(store, mode="r")
    package, module, means = PEERS[name]
    importlib.import_module(module)
    started = time.monotonic()
    ids, found = means(group["lz4"], group["labels"])
    ended = time.monotonic()
    np.savez(values, ids=ids, means=found)
    version = importlib.metadata.version(package)
    with open(report, "w", encoding="utf-8") as handle:
        json.dump({"started": started, "ended": ended, "version": f"{package} {version}"}, handle)


if __name__ == "__main__":
    main(*sys.argv[1:])
