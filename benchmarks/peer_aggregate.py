"""Harpy's statistics of the same arrays, through its published interface; for its environment.

Its workers are warm: they have imported it, and done the same on a few pixels.

python peer_aggregate.py STORE STATS REPORT.json VALUES.npz
"""

import importlib.metadata
import json
import sys
import tempfile
import time
from pathlib import Path

import dask.array as da
import numpy as np
from dask.distributed import Client, LocalCluster
from harpy.utils import RasterAggregator

sys.path.append(str(Path(__file__).parents[1] / "harpy_core" / "benchmark"))

from peer import warm_up


def main(store: str, stats: str, report: str, values: str) -> None:
    """Aggregate once and write the seconds and the values."""
    image = da.from_zarr(store, component="lz4")[:, None, ...]
    labels = da.from_zarr(store, component="labels")[None, ...]
    names = stats.split(",")
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="8GB", dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
        tempfile.TemporaryDirectory() as scratch,
    ):
        few = {"stage": "aggregate", "stats": names, "workers": 2, "threads_per_worker": 1}
        warm_up(few, client, Path(scratch))
        started = time.perf_counter()
        aggregator = RasterAggregator(
            image_dask_array=image, mask_dask_array=labels, run_on_gpu=False
        )
        frames = aggregator.aggregate_stats(stats_funcs=tuple(names))
        seconds = time.perf_counter() - started
    found = {}
    for name, frame in zip(names, frames, strict=True):
        frame = frame.sort_values(frame.columns[-1])
        ids = frame[frame.columns[-1]].to_numpy()
        kept = ids != 0
        found["labels"] = ids[kept]
        found[name] = frame.drop(columns=frame.columns[-1]).to_numpy()[kept]
    np.savez(values, **found)
    with open(report, "w", encoding="utf-8") as handle:
        version = importlib.metadata.version("harpy-analysis")
        json.dump({"seconds": seconds, "version": version}, handle)


if __name__ == "__main__":
    main(*sys.argv[1:])
