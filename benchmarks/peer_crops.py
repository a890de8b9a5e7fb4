"""Crops of every cell by scPortrait; a script for an environment of its own.

    python peer_crops.py STORE WINDOW FOLDER SUMS.npz REPORT.json

STORE holds ``lz4`` (c, y, x) and ``labels`` (y, x). They become a SpatialData store, which
scPortrait loads as its own; that is not timed, its extraction is, on two processes, without
normalisation. Through its public interface: `Project.load_input_from_sdata`, `Project.extract`,
`Project.h5sc`.
"""

import importlib.metadata
import json
import sys
import time
from pathlib import Path

import dask.array as da
import numpy as np
import spatialdata
import yaml
import zarr
from scportrait.pipeline.extraction import HDF5CellExtraction
from scportrait.pipeline.project import Project
from spatialdata.models import Image2DModel, Labels2DModel


def main():
    """Extract, and report the time and the sum of each channel of each crop."""
    store, window, folder, sums, report = sys.argv[1:]
    group = zarr.open_group(store, mode="r")
    place = Path(folder)
    # It asks for an image with a pyramid, and for names of channels.
    pixels = da.from_zarr(group["lz4"])
    names = [f"channel {c}" for c in range(len(pixels))]
    image = Image2DModel.parse(
        pixels, dims=("c", "y", "x"), c_coords=names, scale_factors=[2], chunks=(1, 2048, 2048)
    )
    labels = Labels2DModel.parse(da.from_zarr(group["labels"]), dims=("y", "x"))
    inputs = spatialdata.SpatialData(images={"image": image}, labels={"cells": labels})
    inputs.write(place / "input.zarr")
    settings = {
        "threads": 2,
        "image_size": int(window),
        "cache": folder,
        "normalize_output": False,
    }
    config = place / "config.yml"
    config.write_text(yaml.safe_dump({"name": "crops", "HDF5CellExtraction": settings}))
    project = Project(
        str(place / "project"), str(config), extraction_f=HDF5CellExtraction, overwrite=True
    )
    project.load_input_from_sdata(
        place / "input.zarr", input_image_name="image", cytosol_segmentation_name="cells"
    )
    started = time.monotonic()
    project.extract()
    ended = time.monotonic()
    crops = project.h5sc
    masks = int(crops.uns["single_cell_images"]["n_masks"])
    images = crops.obsm["single_cell_images"]
    found = np.stack(
        [np.asarray(one[masks:], np.float64).sum(axis=(1, 2)) for one in images], axis=0
    )
    ids = crops.obs["scportrait_cell_id"].astype(np.int64).to_numpy()
    np.savez(sums, ids=ids, sums=found)
    version = importlib.metadata.version("scportrait")
    told = {"started": started, "ended": ended, "version": f"scportrait {version}"}
    Path(report).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
