"""The two jobs done by Harpy, for comparison: a separate script for a separate environment.

It uses Harpy's public interface as its published benchmark does, and nothing of this package, which
may not be installed where this runs. It works on SpatialData stores.

    python peer.py SPEC.json REPORT.json
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

PACKAGES = ("dask", "distributed", "numba", "numcodecs", "numpy", "spatialdata", "zarr")


def end_with_parent() -> None:
    """End this process's whole group once its input closes, because its parent is gone."""

    def wait_for_end() -> None:
        # The bare system call: a reader of sys.stdin would hold its lock at interpreter exit.
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait_for_end, daemon=True).start()


def element(sdata: Any, name: str) -> Any:
    """Return an element's array at full resolution."""
    found = sdata[name]
    return found["scale0"].ds["image"] if hasattr(found, "children") else found


def aggregate(spec: dict[str, Any], image: Any, labels: Any) -> tuple[int, float]:
    """Shallow features, as published: the array and its mask given a z axis of length one.

    Returns the number of instances and the sum of what is asked for first.
    """
    from harpy.utils import RasterAggregator

    if image.ndim == 3:
        image, labels = image[:, None, ...], labels[None, ...]
    # Harpy has no standard deviation: the variance is what one comes from.
    stats = tuple("var" if name == "std" else name for name in spec["stats"])
    aggregator = RasterAggregator(image_dask_array=image, mask_dask_array=labels, run_on_gpu=False)
    first = aggregator.aggregate_stats(stats_funcs=stats)[0]
    # The last column is the label; label 0 is the background.
    cells = first[first.iloc[:, -1] != 0]
    return len(cells), float(cells.iloc[:, :-1].to_numpy("float64").sum())


def extract(spec: dict[str, Any], sdata: Any, image: str, labels: str, out: Path) -> Any:
    """Single-cell representations, as published: the depth is twice the diameter.

    Returns the labels in the order of their crops.
    """
    import harpy as hp

    crops = {"diameter": 50, "batch_size": 500, **spec["crops"]}
    found, _ = hp.tb.extract_instances(
        sdata,
        image_name=image,
        labels_name=labels,
        depth=2 * crops["diameter"],
        diameter=crops["diameter"],
        batch_size=crops["batch_size"],
        zarr_output_path=str(out),
        overwrite=True,
    )
    return found


def check_crops(labels: Any, out: Path) -> tuple[int, float]:
    """Number of crops, and the sum of the pixels of a hundred of them, evenly spread by label."""
    import numpy as np
    import zarr

    order = np.argsort(np.ravel(labels))
    chosen = order[np.linspace(0, len(order) - 1, min(100, len(order))).astype(int)]
    crops = zarr.open_array(out / "image.zarr", mode="r")
    return len(order), float(sum(np.asarray(crops[int(n)], np.float64).sum() for n in chosen))


def warm_up(spec: dict[str, Any], client: Any, scratch: Path) -> None:
    """Import what the stage needs in every worker, and do it once on a few pixels.

    As on the other side, neither is in the measured time: a worker does both once in its life.
    """
    import dask.array as da
    import numpy as np
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, Labels2DModel

    def imported() -> None:
        importlib.import_module("harpy")

    client.run(imported)
    pixels = np.ones((1, 64, 64 * spec["workers"] * spec["threads_per_worker"]), np.uint16)
    plane = np.zeros(pixels.shape[1:], np.uint32)
    for number, x in enumerate(range(24, plane.shape[1], 64), start=1):
        plane[24:34, x : x + 10] = number
    image = da.from_array(pixels, chunks=(1, 64, 64))
    labels = da.from_array(plane, chunks=(64, 64))
    if spec["stage"] == "aggregate":
        aggregate(spec, image, labels)
        return
    sdata = SpatialData(
        images={"image": Image2DModel.parse(image, dims=("c", "y", "x"))},
        labels={"labels": Labels2DModel.parse(labels, dims=("y", "x"))},
    )
    tiny = {**spec, "crops": {"diameter": 16, "batch_size": 1}}
    extract(tiny, sdata, "image", "labels", scratch / "warm.zarr")


def run(spec: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run the stage on a fresh local cluster; the fields of `benchmark.StageReport`."""
    # It takes seconds: not part of the stage.
    importlib.import_module("harpy")
    from dask.distributed import Client, LocalCluster
    from spatialdata import read_zarr

    info = json.loads(Path(spec["raster_json"]).read_text(encoding="utf-8"))
    sdata = read_zarr(info["uri"])
    with (
        LocalCluster(
            n_workers=spec["workers"],
            threads_per_worker=spec["threads_per_worker"],
            memory_limit=spec["memory_limit"] or "auto",
            local_directory=scratch / "dask",
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        warm_up(spec, client, scratch)
        image, labels = (element(sdata, info[name]).data for name in ("image", "labels"))
        out = scratch / "crops.zarr"
        started = time.monotonic()
        if spec["stage"] == "aggregate":
            found = aggregate(spec, image, labels)
            ended = time.monotonic()
        else:
            ids = extract(spec, sdata, info["image"], info["labels"], out)
            ended = time.monotonic()
            found = check_crops(ids, out)
        spilled = sum(client.run(spilled_bytes).values())
    return {
        "started": started,
        "ended": ended,
        "pixels": math.prod(info["image_shape"]),
        "tasks": None,
        "software": f"harpy-analysis {importlib.metadata.version('harpy-analysis')}",
        "python": platform.python_version(),
        "instances": found[0],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "spilled": spilled,
        "values": found[1],
    }


def spilled_bytes(dask_worker: Any) -> int:
    """Bytes that a worker has put on disk."""
    metrics = getattr(dask_worker.data, "cumulative_metrics", {})
    return int(metrics.get(("disk-write", "bytes"), 0))


def main(spec_path: str, report_path: str) -> None:
    """Entry of the measured process; a failure ends with the exception's own line."""
    end_with_parent()
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    report = run(spec, Path(spec_path).parent)
    Path(report_path).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
