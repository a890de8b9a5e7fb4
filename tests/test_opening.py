"""Opening what people have: stores of any version, archives, TIFFs; being told what is wrong."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import harpy_core as hc
from harpy_core.raster import RasterInfo, describe, open_described, open_raster
from harpy_core.raster.opening import fingerprint
from harpy_core.raster.tiff import TiffArray

NAMES = ["DAPI", "CD3", "CD20"]


def pixels(shape: tuple[int, ...] = (3, 40, 50)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 60_000, shape).astype("u2")


def cells(shape: tuple[int, ...] = (40, 50)) -> np.ndarray:
    labels = np.zeros(shape, "u4")
    labels[..., 3:12, 5:20] = 7
    labels[..., 30:, 44:] = 9
    return labels


def scales(axes: str, path: str, size: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    """NGFF multiscales with two levels, the finer one first."""
    names = {"c": "channel", "z": "space", "y": "space", "x": "space"}
    levels = [
        {
            "path": name,
            "coordinateTransformations": [
                {"type": "scale", "scale": [1.0 if a == "c" else factor * size for a in axes]}
            ],
        }
        for name, factor in ((path, 1), ("coarse", 2))
    ]
    return [{"axes": [{"name": a, "type": names[a]} for a in axes], "datasets": levels, **more}]


def omero() -> dict[str, Any]:
    return {"channels": [{"label": name, "color": "00FF00"} for name in NAMES]}


def ngff(root: zarr.Group, name: str, values: np.ndarray, axes: str, version: str) -> zarr.Group:
    """An OME-Zarr image or labels, whose first level has a name of its own."""
    group = root.require_group(name) if name else root
    chunks = (1,) * (values.ndim - 2) + (16, 16)
    group.create_array("fine", data=values, chunks=chunks)
    group.create_array("coarse", data=values[..., ::2, ::2], chunks=chunks)
    metadata: dict[str, Any] = {"multiscales": scales(axes, "fine", version=version)}
    if axes[0] == "c":
        metadata["omero"] = omero()
    group.attrs.update({"ome": metadata} if version == "0.5" else metadata)
    return group


def ome_zarr(path: Any, version: str, axes: str = "yx") -> None:
    """An image at the root of a store, its labels below ``labels``."""
    root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    shape = {"yx": (40, 50), "zyx": (4, 40, 50)}[axes]
    ngff(root, "", pixels((3, *shape)), f"c{axes}", version)
    ngff(root, "labels/cells", cells(shape), axes, version)


def plain(path: Path) -> zarr.Group:
    """Plain arrays in a group."""
    group = zarr.open_group(path, mode="w")
    group.create_array("raw/image", data=pixels(), chunks=(1, 16, 16))
    group.create_array("raw/volume", data=pixels((3, 4, 40, 50)), chunks=(1, 2, 16, 16))
    group.create_array("cells", data=cells(), chunks=(20, 25))
    group.create_array("solid", data=cells((4, 40, 50)), chunks=(1, 20, 25))
    group.create_array("floats", data=cells().astype("f4"))
    group.create_array("small", data=cells()[:30])
    group.create_group("empty")
    return group


def tiffs(folder: Path, **options: Any) -> tuple[str, str]:
    """An OME-TIFF and a label TIFF beside it."""
    image, labels = folder / "image.ome.tif", folder / "labels.tif"
    metadata = {"axes": "CYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(image, pixels(), photometric="minisblack", metadata=metadata, **options)
    tifffile.imwrite(labels, cells(), **options)
    return str(image), str(labels)


def assert_is_whole(raster: Any, names: list[str] | None = None) -> None:
    np.testing.assert_array_equal(np.asarray(raster.image[...]), pixels(raster.image.shape))
    np.testing.assert_array_equal(np.asarray(raster.labels[...]), cells(raster.labels.shape))
    assert raster.channels == (names or NAMES)


# Stores -------------------------------------------------------------------------------------------


def test_a_spatialdata_store_is_opened(tmp_path: Path) -> None:
    import spatialdata
    from spatialdata.models import Image2DModel, Labels2DModel

    image = Image2DModel.parse(
        pixels(), dims=("c", "y", "x"), c_coords=NAMES, scale_factors=[2], chunks=(1, 16, 16)
    )
    other = Image2DModel.parse(pixels()[:1], dims=("c", "y", "x"))
    labels = Labels2DModel.parse(cells(), dims=("y", "x"))
    store = spatialdata.SpatialData(images={"he": image, "x": other}, labels={"cells": labels})
    store.write(tmp_path / "s.zarr")
    raster = open_raster(tmp_path / "s.zarr", image="he", labels="cells")
    assert_is_whole(raster)
    assert_is_whole(open_raster(tmp_path / "s.zarr", image="he"))
    with pytest.raises(hc.InputError, match=r"which images.*he.*name one"):
        open_raster(tmp_path / "s.zarr")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "zyx"])
def test_an_ome_zarr_image_is_opened_by_its_metadata(
    version: str, axes: str, tmp_path: Path
) -> None:
    ome_zarr(tmp_path / "image.zarr", version, axes)
    assert_is_whole(open_raster(tmp_path / "image.zarr", labels="cells"))
    assert_is_whole(open_raster(tmp_path / "image.zarr"))


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_zipped_store_is_opened(wrapped: bool, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "image.zarr" if wrapped else tmp_path / "in"
    ome_zarr(folder, "0.5")
    archive = shutil.make_archive(str(tmp_path / "image.zarr"), "zip", tmp_path / "in")
    raster = open_raster(archive)
    assert_is_whole(raster)
    found = hc.aggregate_stats(raster.image, raster.labels, channels=raster.channels)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(pixels(), cells()).X)


def test_plain_arrays_in_a_group_are_opened_by_name(tmp_path: Path) -> None:
    plain(tmp_path / "g")
    assert_is_whole(open_raster(tmp_path / "g", "raw/image", "cells"), ["0", "1", "2"])
    assert_is_whole(open_raster(tmp_path / "g", "raw/volume", "solid"), ["0", "1", "2"])


def test_labels_may_lie_in_another_file(tmp_path: Path) -> None:
    plain(tmp_path / "g")
    _, labels = tiffs(tmp_path)
    for given in (labels, "labels.tif", str(tmp_path / "g" / "cells")):
        assert_is_whole(open_raster(tmp_path / "g", "raw/image", given), ["0", "1", "2"])


def test_labels_in_the_store_go_before_a_folder_that_happens_to_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ome_zarr(tmp_path / "image.zarr", "0.5")
    (tmp_path / "cells").mkdir()
    monkeypatch.chdir(tmp_path)
    assert_is_whole(open_raster("image.zarr", labels="cells"))


def test_image_and_labels_with_the_same_scale_belong_together(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    root = zarr.open_group(tmp_path / "i.zarr")
    root.attrs["ome"] = {"multiscales": scales("cyx", "fine", 0.5), "omero": omero()}
    with pytest.raises(hc.InputError, match=r"placed differently.*resample"):
        open_raster(tmp_path / "i.zarr")
    zarr.open_group(tmp_path / "i.zarr" / "labels" / "cells").attrs["ome"] = {
        "multiscales": scales("yx", "fine", 0.5)
    }
    assert_is_whole(open_raster(tmp_path / "i.zarr"))


# TIFF ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tile": (16, 16)},
        {"compression": "zlib", "tile": (16, 16)},
        {"rowsperstrip": 7},
        {"bigtiff": True, "byteorder": ">"},
    ],
    ids=str,
)
def test_an_ome_tiff_with_a_label_tiff_is_opened(options: dict[str, Any], tmp_path: Path) -> None:
    image, labels = tiffs(tmp_path, **options)
    for given in (labels, "labels.tif"):
        raster = open_raster(image, labels=given)
        assert_is_whole(raster)
    found = hc.aggregate_stats(raster.image, raster.labels, ["mean", "max"])
    expected = hc.aggregate_stats(pixels(), cells(), ["mean", "max"])
    np.testing.assert_array_equal(found.layers["mean"], expected.layers["mean"])
    np.testing.assert_array_equal(found.layers["max"], expected.layers["max"])


def test_a_tiff_with_one_channel_or_a_depth_has_the_axes_it_says(tmp_path: Path) -> None:
    image, labels = str(tmp_path / "i.ome.tif"), str(tmp_path / "l.ome.tif")
    tifffile.imwrite(labels, cells())
    for values, axes in ((pixels((1, 40, 50)), "CYX"), (pixels((1, 40, 50))[0], "YX")):
        tifffile.imwrite(image, values, metadata={"axes": axes})
        raster = open_raster(image, labels=labels)
        assert_is_whole(raster, ["0"])
        assert raster.image.shape == (1, 40, 50)
        np.testing.assert_array_equal(raster.image[0, 3:9], pixels((1, 40, 50))[0, 3:9])
        np.testing.assert_array_equal(
            hc.aggregate_stats(raster.image, raster.labels).X,
            hc.aggregate_stats(pixels((1, 40, 50)), cells()).X,
        )
    tifffile.imwrite(image, pixels((3, 4, 40, 50)), metadata={"axes": "CZYX"})
    tifffile.imwrite(labels, cells((4, 40, 50)), metadata={"axes": "ZYX"})
    assert_is_whole(open_raster(image, labels=labels), ["0", "1", "2"])


def test_a_tiff_is_indexed_like_an_array(tmp_path: Path) -> None:
    array, values = TiffArray(tiffs(tmp_path)[0]), pixels()
    for key in (1, slice(1, 3), (..., 4), (slice(None), 3), (0, slice(2, 9), slice(3, 7)), ...):
        np.testing.assert_array_equal(array[key], values[key])
    np.testing.assert_array_equal(np.asarray(array), values)


def test_a_tiff_that_was_written_again_is_read_again(tmp_path: Path) -> None:
    image, labels = tiffs(tmp_path)
    np.asarray(open_raster(image, labels=labels).image[...])
    changed = pixels()[::-1].copy()
    tifffile.imwrite(tmp_path / "new.tif", changed, photometric="minisblack", compression="zlib")
    os.replace(tmp_path / "new.tif", image)
    raster = open_raster(image, labels=labels)
    np.testing.assert_array_equal(np.asarray(raster.image[...]), changed)


# Channels and descriptions ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zarr", "tiff"])
def test_chosen_channels_come_in_the_order_of_the_file(kind: str, tmp_path: Path) -> None:
    image, labels = tiffs(tmp_path)
    if kind == "zarr":
        ome_zarr(tmp_path / "i.zarr", "0.5")
        image, labels = str(tmp_path / "i.zarr"), "cells"
    raster = open_raster(image, labels=labels, channels=["CD20", "DAPI"])
    assert raster.channels == ["DAPI", "CD20"]
    assert raster.image.shape == (2, 40, 50)
    np.testing.assert_array_equal(np.asarray(raster.image[...]), pixels()[[0, 2]])
    found = hc.aggregate_stats(raster.image, raster.labels, channels=raster.channels)
    everything = hc.aggregate_stats(pixels(), cells(), channels=NAMES)
    np.testing.assert_array_equal(found.X, everything[:, ["DAPI", "CD20"]].X)


@pytest.mark.parametrize("kind", ["zarr", "tiff"])
def test_what_is_described_can_be_opened_from_anywhere(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiffs(tmp_path)
    ome_zarr(tmp_path / "i.zarr", "0.4")
    uri, labels = ("i.zarr", "cells") if kind == "zarr" else ("image.ome.tif", "labels.tif")
    info = describe(uri, labels=labels, channels=["CD3"])
    assert Path(info.uri).is_absolute()
    assert (info.image_shape, info.labels_shape) == ((1, 40, 50), (40, 50))
    assert (info.image_dtype, info.labels_dtype) == ("uint16", "uint32")
    assert info.channels == ["CD3"]
    info.to_json(tmp_path / "info.json")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = RasterInfo.from_json(tmp_path / "info.json")
    assert again == info
    raster = open_described(again)
    np.testing.assert_array_equal(np.asarray(raster.image[...]), pixels()[1:2])


def test_a_fingerprint_follows_the_files_and_nothing_else(tmp_path: Path) -> None:
    group = plain(tmp_path / "g")
    first = describe(tmp_path / "g", "raw/image", "cells").fingerprint
    assert describe(tmp_path / "g", "raw/image", "cells").fingerprint == first
    group["solid"][0] = 3
    assert describe(tmp_path / "g", "raw/image", "cells").fingerprint == first
    group["raw/image"][0, 0, 0] = 1
    second = describe(tmp_path / "g", "raw/image", "cells").fingerprint
    assert second != first
    image, labels = pixels(), cells()
    assert fingerprint(image, labels) == fingerprint(image.copy(), labels.copy())
    assert fingerprint(image, labels) != fingerprint(image + np.uint16(1), labels)
    shutil.copytree(tmp_path / "g", tmp_path / "h")
    same = [fingerprint(zarr.open_array(tmp_path / n / "raw" / "image"), times=False) for n in "gh"]
    assert same[0] == same[1]


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "image", "labels", "channels", "told"),
    [
        ("nowhere.zarr", "a", "b", None, "nowhere.zarr: nothing there"),
        ("nowhere.tif", None, "labels.tif", None, "nowhere.tif: nothing there"),
        ("text.zarr", "a", "b", None, "text.zarr: neither a folder, a zip nor a TIFF"),
        ("text.tif", None, "labels.tif", None, "text.tif: not a TIFF"),
        ("folder", "a", "b", None, "folder: no Zarr group there"),
        ("two.zip", "a", "b", None, "two.zip: 2 folders at the top"),
        ("image.ome.tif", None, None, None, "a TIFF holds no labels; give labels"),
        ("image.ome.tif", None, "nowhere.tif", None, "nowhere.tif: nothing there"),
        ("image.ome.tif", None, "/nowhere.zarr", None, "/nowhere.zarr: nothing there"),
        ("image.ome.tif", None, "folder", None, "folder: neither a TIFF nor a Zarr array"),
        ("image.ome.tif", "7", "labels.tif", None, "no image '7'"),
        ("image.ome.tif", None, "small.tif", None, "do not cover the same pixels"),
        ("image.ome.tif", None, "floats.tif", None, "labels are float32"),
        ("image.ome.tif", None, "time.ome.tif", None, "axes are t, y, x"),
        ("image.ome.tif", None, "labels.tif", ["CD4"], "channel 'CD4' is not there.*CD3"),
        ("i.zarr", "nothing", "cells", None, "images 'nothing' is not there"),
        ("i.zarr", None, "nuclei", None, "labels 'nuclei' is not there; found cells"),
        ("i.zarr", None, "cells", ["CD4"], "channel 'CD4' is not there.*DAPI, CD3, CD20"),
        ("g", "raw/image", None, None, "which labels"),
        ("g", "raw/image", "floats", None, "labels are float32"),
        ("g", "raw/image", "small", None, "do not cover the same pixels"),
        ("g", "raw/image", "solid", None, "do not cover the same pixels"),
        ("g", "empty", "cells", None, "g/empty: no multiscales in its metadata"),
        ("g", "cells", "cells", None, "axes are y, x; rewrite it as c, y, x"),
        ("twice.ome.tif", None, "labels.tif", None, "channel 'DAPI' stands more than once"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    uri: str,
    image: str | None,
    labels: str | None,
    channels: list[str] | None,
    told: str,
    tmp_path: Path,
) -> None:
    tiffs(tmp_path)
    ome_zarr(tmp_path / "i.zarr", "0.5")
    plain(tmp_path / "g")
    (tmp_path / "text.zarr").write_text("no store")
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "folder").mkdir()
    tifffile.imwrite(tmp_path / "small.tif", cells()[:30])
    tifffile.imwrite(tmp_path / "floats.tif", cells().astype("f4"))
    tifffile.imwrite(tmp_path / "time.ome.tif", cells((3, 40, 50)), metadata={"axes": "TYX"})
    tifffile.imwrite(
        tmp_path / "twice.ome.tif",
        pixels(),
        photometric="minisblack",
        metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "DAPI"]}},
    )
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for name in ("a/zarr.json", "b/zarr.json"):
            archive.writestr(name, "{}")
    with pytest.raises(ValueError, match=told) as error:
        open_raster(tmp_path / uri, image, labels, channels)
    assert isinstance(error.value, hc.InputError)
    assert "\n" not in str(error.value)
