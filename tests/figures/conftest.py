"""Small images, crops, tables and sweeps to draw."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr

PARTS = [f"{part}_s" for part in ("disk", "decode", "kernel", "encode", "write", "idle")]


@pytest.fixture
def labels() -> np.ndarray:
    """Squares of 10 pixels, every 20, the left half of the plane left empty."""
    plane = np.zeros((200, 240), np.uint32)
    for number, (y, x) in enumerate(np.ndindex(10, 6)):
        plane[20 * y : 20 * y + 10, 120 + 20 * x : 130 + 20 * x] = number + 1
    return plane


@pytest.fixture
def raster(labels: np.ndarray) -> Any:
    rng = np.random.default_rng(0)
    image = rng.poisson(20, (4, *labels.shape)).astype(np.uint16)
    image[0] += (labels > 0).astype(np.uint16) * 200
    return SimpleNamespace(
        image=zarr.array(image), labels=zarr.array(labels), channels=["DNA", "CD3", "CD8", "CD20"]
    )


@pytest.fixture
def crops() -> Any:
    rng = np.random.default_rng(0)
    image = rng.poisson(50, (40, 3, 1, 16, 16)).astype(np.uint16)
    return SimpleNamespace(
        image=zarr.array(image),
        instance_id=np.arange(40, dtype=np.uint64) * 3 + 2,
        channels=["DNA", "CD3", "CD8"],
        diameter=16,
    )


@pytest.fixture
def table() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    mean = rng.lognormal(size=(60, 5))
    adata = anndata.AnnData(mean, layers={"mean": mean, "max": mean * 2})
    adata.var_names = [f"marker {i}" for i in range(5)]
    return adata


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Curves of the last run: a driver and two workers, a core and a half busy."""
    rows = []
    for tick, moment in enumerate(np.arange(-2, 4, 0.05)):
        for pid, role in enumerate(("driver", "worker", "worker", "tree")):
            rss = 4e8 if role == "tree" else 1e8 * (pid + 1)
            pss = 3e8 if role == "tree" and tick % 20 == 0 else np.nan
            rows.append([moment, pid, role, rss, max(moment, 0) * 1.5, pss])
    table = pd.DataFrame(rows, columns=["time", "pid", "role", "rss", "cpu", "pss"])
    path = tmp_path / "samples.csv.gz"
    table.assign(run="aggregate-numba-4-warm-2").to_csv(path, index=False)
    return path


@pytest.fixture
def sweep_csv(tmp_path: Path) -> Path:
    rows = [
        {
            "case": "tonsil",
            "stage": "aggregate",
            "engine": engine,
            "workers": workers,
            "threads_per_worker": 4,
            "repeat": repeat,
            "wall_s": 10 / workers + repeat,
            "peak_rss_gb": 0.5 * workers,
            "mean_rss_gb": 0.4 * workers,
            "mean_vsz_gb": 2.0 * workers,
            "peak_cpu_percent": 380.0 * workers,
            "mean_cpu_percent": 300.0 * workers,
            "pixels": 40_000_000_000,
            "gigapixels_per_s": 40 / (10 / workers + repeat),
            "cpu_model": "a processor",
            "cores": 64,
            "memory_gb": 256.0,
            "cache": "warm",
            "failed": None,
            "software": "harpy-analysis 0.5.2" if engine == "harpy" else "harpy_core 1",
            "shape": "100 x 20000 x 20000",
            "window": None,
            "files": 1000,
            "distinct_files": 1000,
            "oversubscribed": False,
            "bound_by": None if engine == "harpy" else "decode",
            **dict.fromkeys(PARTS, np.nan if engine == "harpy" else 8.0 / workers),
        }
        for engine in ("numba", "harpy")
        for workers in (1, 2, 4)
        for repeat in (0, 1, 2)
    ]
    path = tmp_path / "sweep.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path
