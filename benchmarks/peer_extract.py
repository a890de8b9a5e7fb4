"""Harpy's crops of the same arrays, through its published interface; for its environment.

Its workers are warm: they have imported it, and done the same on a few pixels.

python peer_extract.py STORE DIAMETER BATCH_SIZE REPORT.json OUT.zarr

OUT.zarr gets the crops; REPORT.json the seconds and, in order, the label of each crop.
"""

import importlib.metadata
import json
import sys
import tempfile
import time
from pathlib import Path

import dask.array as da
import harpy as hp
import numpy as np
from dask.distributed import Client, LocalCluster
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel

sys.path.append(str(Path(__file__).parents[1] / "harpy_core" / "benchmark"))

from peer import warm_up


def main(store: str, diameter: str, batch_size: str, report: str, out: str) -> None:
    """Extract once and write the seconds and the labels."""
    image = Image2DModel.parse(da.from_zarr(store, component="lz4"), dims=("c", "y", "x"))
    labels = Labels2DModel.parse(da.from_zarr(store, component="labels"), dims=("y", "x"))
    sdata = SpatialData(images={"image": image}, labels={"labels": labels})
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="10GB", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
        tempfile.TemporaryDirectory() as scratch,
    ):
        few = {"stage": "extract", "crops": {}, "workers": 2, "threads_per_worker": 1}
        warm_up(few, client, Path(scratch))
        started = time.perf_counter()
        ids, _ = hp.tb.extract_instances(
            sdata,
            image_name="image",
            labels_name="labels",
            depth=2 * int(diameter),
            diameter=int(diameter),
            remove_background=True,
            extract_mask=False,
            batch_size=int(batch_size),
            zarr_output_path=out,
            overwrite=True,
        )
        seconds = time.perf_counter() - started
    with open(report, "w", encoding="utf-8") as handle:
        version = importlib.metadata.version("harpy-analysis")
        labels_in_order = np.asarray(ids).ravel().tolist()
        json.dump({"seconds": seconds, "version": version, "labels": labels_in_order}, handle)


if __name__ == "__main__":
    main(*sys.argv[1:])
