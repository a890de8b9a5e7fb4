"""Checks of an installed package alone: no checkout, no Snakemake, no SpatialData.

`make test-package` runs this in an empty environment with nothing but the wheel in it, from a
folder outside the checkout: ``python -I installed.py FOLDER``.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import yaml

import harpy_core as hc
from harpy_core.config.documents import default_config, schema
from harpy_core.config.mistakes import load
from harpy_core.datasets import fetch
from harpy_core.figures import gallery, heatmap, tissue
from harpy_core.figures.sweeps import published

STATS = ("mean", "std", "max", "count")


def check_environment() -> None:
    """The package is the installed one, and what only the extras need is not there."""
    assert Path(hc.__file__).is_relative_to(sys.prefix)
    for absent in ("snakemake", "spatialdata", "torch", "cupy", "gcsfs", "pytest"):
        assert importlib.util.find_spec(absent) is None, absent


def check_documents() -> None:
    """Check that the wheel holds what is made from the models, and the published figures."""
    assert yaml.safe_load(schema())["title"] == "Config"
    assert load(yaml.safe_load(default_config()), "config.yaml").cases
    assert len(published("gigapixel", "aggregate")) > 3


def check_jobs(folder: Path) -> None:
    """Both jobs on the embedded sample agree with NumPy, and their pictures can be drawn."""
    store = folder / "ihc.zarr"
    fetch("ihc", store)
    raster = hc.open_raster(store)
    image, labels = np.asarray(raster.image[...]), np.asarray(raster.labels[...])
    table = hc.aggregate_stats(raster.image, raster.labels, STATS, channels=raster.channels)
    ids = np.unique(labels)[1:]
    assert table.obs["instance_id"].to_list() == ids.tolist()
    mean = [[plane[labels == i].mean() for plane in image] for i in ids[:20]]
    np.testing.assert_allclose(table.layers["mean"][:20], mean, rtol=1e-12)

    plan = hc.plan_extract(raster.image, raster.labels, diameter=32)
    crops = hc.extract_instances(
        raster.image, raster.labels, folder / "crops.zarr", diameter=32, channels=raster.channels
    )
    assert plan.bytes_read > 0
    assert len(crops) == len(ids)
    for i in ids[::40]:
        rows, columns = np.nonzero(labels == i)
        top, left = round(rows.mean()) - 16, round(columns.mean()) - 16
        inside = (slice(max(top, 0), top + 32), slice(max(left, 0), left + 32))
        window = np.where(labels[inside] == i, image[(slice(None), *inside)], 0)
        found = crops[int(i)][:, 0, max(-top, 0) :, max(-left, 0) :]
        assert (found[:, : window.shape[1], : window.shape[2]] == window).all()

    tissue(raster, folder / "tissue.png")
    gallery(crops, folder / "crops.png")
    heatmap(table, folder / "heatmap.png")
    assert all((folder / f"{name}.png").stat().st_size for name in ("tissue", "crops", "heatmap"))


def check_command(folder: Path) -> None:
    """The command is there, measures the same, and tells a mistake in one line."""
    command = Path(sys.prefix, "bin/harpy-core")
    call = [command, "aggregate", folder / "ihc.zarr", "-o", folder / "table.zarr"]
    subprocess.run([*call, "--stats", ",".join(STATS)], check=True)
    raster = hc.open_raster(folder / "ihc.zarr")
    expected = hc.aggregate_stats(raster.image, raster.labels, STATS)
    assert np.array_equal(anndata.read_zarr(folder / "table.zarr").X, expected.X)
    page = folder / "view.html"
    shown = [command, "view", folder / "ihc.zarr", "--table", folder / "table.zarr", "-o", page]
    shown += ["--crops", folder / "crops.zarr"]
    subprocess.run(shown, check=True)
    assert "</html>" in page.read_text(encoding="utf-8")
    again = subprocess.run(call, capture_output=True, text=True)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1), again.stderr


if __name__ == "__main__":
    check_environment()
    check_documents()
    check_jobs(Path(sys.argv[1]))
    check_command(Path(sys.argv[1]))
    print(f"harpy-core {hc.__version__} works on Python {sys.version.split()[0]}")
