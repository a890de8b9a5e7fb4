"""Fingerprints, which tell one input from another, also behind the graph of a Dask array."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from harpy_core.raster import Raster
from harpy_core.raster.fingerprints import fingerprint

VALUES = np.arange(100, dtype=np.uint16).reshape(10, 10)


def stored(folder: Path) -> Path:
    zarr.create_array(folder / "a.zarr", data=VALUES, chunks=(5, 5))
    return folder / "a.zarr"


def from_spatialdata(folder: Path) -> Any:
    import spatialdata
    from spatialdata.models import Labels2DModel

    if not (folder / "s.zarr").exists():
        labels = {"cells": Labels2DModel.parse(VALUES, dims=("y", "x"))}
        spatialdata.SpatialData(labels=labels).write(folder / "s.zarr")
    return spatialdata.read_zarr(folder / "s.zarr")["cells"].data


def from_xarray(folder: Path) -> Any:
    if not (folder / "x.zarr").exists():
        values = xr.Dataset({"a": (("y", "x"), VALUES)})
        values.to_zarr(folder / "x.zarr", consolidated=False)
    return xr.open_zarr(folder / "x.zarr", consolidated=False)["a"].data


MADE: dict[str, Callable[[Path], Any]] = {
    "a path": lambda folder: da.from_zarr(str(folder / "a.zarr")),
    "an array": lambda folder: da.from_zarr(zarr.open_array(folder / "a.zarr", mode="r")),
    "inline": lambda f: da.from_array(zarr.open_array(f / "a.zarr"), inline_array=True),
    "in lazy steps": lambda f: (da.from_zarr(str(f / "a.zarr")) + 1)[::2].map_blocks(np.negative),
    "xarray": from_xarray,
    "spatialdata": from_spatialdata,
}


def change_in_place(folder: Path) -> None:
    """Other pixels, in the same files of every array that is there."""
    for path in {p.parent for p in folder.rglob("zarr.json")}:
        try:
            array = zarr.open_array(path, mode="r+")
        except Exception:
            continue
        if array.ndim == 2:
            array[...] = VALUES[::-1]


@pytest.mark.parametrize("made", MADE)
def test_a_dask_array_is_told_by_the_files_behind_its_graph(made: str, tmp_path: Path) -> None:
    stored(tmp_path)
    first = MADE[made](tmp_path)
    before = fingerprint(first)
    assert before is not None
    assert fingerprint(MADE[made](tmp_path)) == before
    change_in_place(tmp_path)
    assert fingerprint(MADE[made](tmp_path)) not in (before, None)


def test_numpy_blocks_of_a_graph_are_told_by_their_content() -> None:
    first, second = (da.from_array(v, chunks=5, name="same") for v in (VALUES, VALUES + 1))
    assert fingerprint(first) == fingerprint(da.from_array(VALUES, chunks=5, name="same"))
    assert fingerprint(first) not in (fingerprint(second), None)


@pytest.mark.parametrize("lazy", [True, False])
def test_of_what_only_a_function_knows_there_is_no_fingerprint(lazy: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    if lazy:
        load = dask.delayed(np.load)(str(tmp_path / "a.npy"))
        array: Any = da.from_delayed(load, VALUES.shape, VALUES.dtype)
    else:
        array = zarr.create_array({}, data=VALUES)
    assert fingerprint(array) is None
    known = da.from_array(VALUES)
    assert fingerprint(da.concatenate([known, array]) if lazy else array) is None
    assert Raster.of(None, array).fingerprint is None


def test_a_folder_is_walked_whole(tmp_path: Path) -> None:
    array = zarr.open_array(stored(tmp_path))
    before = fingerprint(array)
    os.utime(tmp_path / "a.zarr" / "c" / "1" / "1", ns=(1, 1))
    assert fingerprint(array) != before
