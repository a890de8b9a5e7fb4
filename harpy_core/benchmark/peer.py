"""The two jobs done by Harpy, for comparison: a separate script for a separate environment.

It uses Harpy's public interface as its published benchmark does, and nothing of this package, which
may not be installed where this runs. It works on SpatialData stores.

    python peer.py SPEC.json REPORT.json
"""

from __future__ import annotations

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


def aggregate(spec: dict[str, Any], sdata: Any, image: str, labels: str) -> None:
    """Shallow features, as published: the array and its mask given a z axis of length one."""
    from harpy.utils._aggregate import RasterAggregator

    image_array = element(sdata, image).data
    labels_array = element(sdata, labels).data
    if image_array.ndim == 3:
        image_array, labels_array = image_array[:, None, ...], labels_array[None, ...]
    # Harpy has no standard deviation: the variance is what one comes from.
    stats = tuple("var" if name == "std" else name for name in spec["stats"])
    aggregator = RasterAggregator(image_dask_array=image_array, mask_dask_array=labels_array)
    aggregator.aggregate_stats(stats_funcs=stats)


def extract(spec: dict[str, Any], sdata: Any, image: str, labels: str, scratch: Path) -> None:
    """Single-cell representations, as published: the depth is twice the diameter."""
    import harpy as hp

    crops = {"diameter": 50, "batch_size": 500, **spec["crops"]}
    hp.tb.extract_instances(
        sdata,
        image_name=image,
        labels_name=labels,
        depth=2 * crops["diameter"],
        diameter=crops["diameter"],
        batch_size=crops["batch_size"],
        zarr_output_path=str(scratch / "crops.zarr"),
        overwrite=True,
    )


def run(spec: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Run the stage on a fresh local cluster; the fields of `benchmark.StageReport`."""
    import harpy  # noqa: F401  (its import takes seconds: not part of the stage)
    from dask.distributed import Client, LocalCluster
    from spatialdata import read_zarr

    info = json.loads(Path(spec["raster_json"]).read_text(encoding="utf-8"))
    sdata = read_zarr(info["uri"])
    with (
        LocalCluster(
            n_workers=spec["workers"],
            threads_per_worker=spec["threads_per_worker"],
            memory_limit=spec["memory_limit"],
            dashboard_address=None,
        ) as cluster,
        Client(cluster),
    ):
        started = time.monotonic()
        if spec["stage"] == "aggregate":
            aggregate(spec, sdata, info["image"], info["labels"])
        else:
            extract(spec, sdata, info["image"], info["labels"], scratch)
        ended = time.monotonic()
    return {
        "started": started,
        "ended": ended,
        "pixels": math.prod(info["image_shape"]),
        "tasks": None,
        "software": f"harpy-analysis {importlib.metadata.version('harpy-analysis')}",
        "python": platform.python_version(),
    }


def main(spec_path: str, report_path: str) -> None:
    """Entry of the measured process; a failure ends with the exception's own line."""
    end_with_parent()
    spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
    report = run(spec, Path(spec_path).parent)
    Path(report_path).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
