"""Sources that cannot be used are told in one line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from stores import cells, ngff, ome_zarr, pixels, plain, tiffs

import harpy_core as hc
from harpy_core.raster import open_raster


def faulty_stores(folder: Path) -> None:
    """OME-Zarr images with a mistake each."""
    for name in ("twice", "few", "time", "turned", "floats", "small", "broken"):
        ome_zarr(folder / f"{name}.zarr", "0.5")
    named = {"twice": ["DAPI", "CD3", "DAPI"], "few": ["DAPI", "CD3"]}
    for name, channels in named.items():
        listed = {"channels": [{"label": channel} for channel in channels]}
        edit(folder / f"{name}.zarr", omero=listed)
    for name, axes in (("turned", "yqc"), ("time", "tcyx")):
        root = zarr.open_group(folder / f"{name}.zarr", mode="w")
        ngff(root, "", pixels((2, 3, 40, 50)[-len(axes) :]), axes, "0.5")
        ngff(root, "labels/cells", cells(), "yx", "0.5")
    labels = folder / "floats.zarr" / "labels"
    ngff(zarr.open_group(labels, mode="w"), "cells", cells().astype("f4") / 2, "yx", "0.5")
    labels = folder / "small.zarr" / "labels"
    ngff(zarr.open_group(labels, mode="w"), "cells", cells()[:30], "yx", "0.5")
    edit(folder / "broken.zarr", multiscales=[{"axes": [{"name": "c"}], "datasets": [{}]}])


def edit(path: Path, **metadata: Any) -> None:
    group = zarr.open_group(path)
    found: Any = group.attrs["ome"]
    group.attrs["ome"] = {**found, **metadata}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sound sources and of ones that cannot be used."""
    folder = tmp_path_factory.mktemp("faulty")
    tiffs(folder)
    ome_zarr(folder / "i.zarr", "0.5")
    plain(folder / "g")
    (folder / "text.zarr").write_text("no store")
    (folder / "text.tif").write_text("no image")
    (folder / "folder").mkdir()
    tifffile.imwrite(folder / "small.tif", cells()[:30])
    tifffile.imwrite(folder / "floats.tif", cells().astype("f4") / 2)
    tifffile.imwrite(folder / "time.ome.tif", cells((3, 40, 50)), metadata={"axes": "TYX"})
    tifffile.imwrite(
        folder / "twice.ome.tif",
        pixels(),
        photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "DAPI"]}},
    )
    faulty_stores(folder)
    with zipfile.ZipFile(folder / "two.zip", "w") as archive:
        for name in ("a/zarr.json", "b/zarr.json"):
            archive.writestr(name, "{}")
    return folder


@pytest.mark.parametrize(
    ("uri", "image", "labels", "channels", "told"),
    [
        ("nowhere.zarr", "a", "b", None, "nowhere.zarr: nothing there"),
        ("nowhere.tif", None, "labels.tif", None, "nowhere.tif: nothing there"),
        ("text.zarr", "a", "b", None, "text.zarr: neither a folder, a zip nor a TIFF"),
        ("text.tif", None, "labels.tif", None, "text.tif: is not a TIFF"),
        ("folder", "a", "b", None, "folder: no Zarr group there"),
        ("two.zip", "a", "b", None, "two.zip: 2 folders at the top"),
        ("image.ome.tif", None, None, None, "a TIFF holds no labels; give labels"),
        ("image.ome.tif", None, "nowhere.tif", None, "nowhere.tif: nothing there"),
        ("image.ome.tif", None, "/nowhere.zarr", None, "/nowhere.zarr: nothing there"),
        ("image.ome.tif", None, "folder", None, "folder: neither a TIFF nor a Zarr array"),
        ("image.ome.tif", "7", "labels.tif", None, "no image '7'"),
        ("image.ome.tif", None, "small.tif", None, "do not cover the same pixels"),
        ("image.ome.tif", None, "floats.tif", None, "labels are float32, and one is 3.5"),
        ("image.ome.tif", None, "time.ome.tif", None, "time points: choose one with t"),
        ("image.ome.tif", None, "labels.tif", ["CD4"], "channel 'CD4' is not there.*CD3"),
        ("i.zarr", "nothing", "cells", None, "images 'nothing' is not there"),
        ("i.zarr", None, "nuclei", None, "labels 'nuclei' is not there; found cells"),
        ("i.zarr", None, "cells", ["CD4"], "channel 'CD4' is not there.*DAPI, CD3, CD20"),
        ("g", "raw/image", None, None, "which labels"),
        ("g", "raw/image", "floats", None, "labels are float32, and one is 3.5"),
        ("g", "raw/image", "small", None, "do not cover the same pixels"),
        ("g", "raw/image", "solid", None, "do not cover the same pixels"),
        ("g", "empty", "cells", None, "g/empty: no multiscales in its metadata"),
        (
            "twice.ome.tif",
            None,
            "labels.tif",
            None,
            "'DAPI' appears twice",
        ),
        (
            "twice.zarr",
            None,
            "cells",
            None,
            "'DAPI' appears twice",
        ),
        ("few.zarr", None, "cells", None, "channels of the image: 2 names for an image of 3"),
        ("time.zarr", None, None, None, "2 time points: choose one with t: 0 to 1"),
        ("turned.zarr", None, "cells", None, "axes are y, q, c .*state them, such as axes: zcyx"),
        ("floats.zarr", None, "cells", None, "labels are float32, and one is 3.5"),
        ("small.zarr", None, "cells", None, "do not cover the same pixels"),
        ("broken.zarr", None, "cells", None, "multiscales metadata cannot be understood"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    uri: str,
    image: str | None,
    labels: str | None,
    channels: list[str] | None,
    told: str,
    faulty: Path,
) -> None:
    with pytest.raises(ValueError, match=told) as error:
        np.asarray(open_raster(faulty / uri, image, labels, channels).labels[...])
    assert isinstance(error.value, hc.InputError)
    assert "\n" not in str(error.value)
