"""Every version and layout of OME-Zarr, labels of every type: opened as its library reads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from stores import NAMES, assert_passes_the_check, cells, pixels

import harpy_core as hc
from harpy_core.raster import open_raster

VERSIONS = ("0.1", "0.2", "0.3", "0.4", "0.5")


def multiscales(version: str, axes: str) -> dict[str, Any]:
    found: dict[str, Any] = {"datasets": [{"path": "s0"}, {"path": "s1"}]}
    if version == "0.3":
        found["axes"] = list(axes)
    if version in ("0.4", "0.5"):
        kinds = {"t": "time", "c": "channel"}
        found["axes"] = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
        for factor, dataset in zip((1.0, 2.0), found["datasets"], strict=True):
            scale = [1.0 if a in "tcz" else factor for a in axes]
            steps = [{"type": "scale", "scale": scale}]
            dataset["coordinateTransformations"] = steps
    if version != "0.5":
        found["version"] = version
    return found


def written(root: zarr.Group, name: str, values: np.ndarray, version: str) -> None:
    """Write an image or labels as t, c, z, y, x, which every version has."""
    group = root.require_group(name) if name else root
    kind = "c" if len(values.shape) == 3 else ""
    whole = values.reshape(1, -1 if kind else 1, 1, *values.shape[-2:])
    for level, step in (("s0", 1), ("s1", 2)):
        part = np.ascontiguousarray(whole[..., ::step, ::step])
        chunks: Any = {"chunks": (1, 1, 1, 16, 16)}
        if version == "0.5" and kind:
            chunks = {"chunks": (1, 1, 1, 8, 8), "shards": (1, 3, 1, 16, 16)}
        group.create_array(level, data=part, **chunks)
    metadata: dict[str, Any] = {"multiscales": [multiscales(version, "tczyx")]}
    if kind:
        metadata["omero"] = {"channels": [{"label": n} for n in NAMES]}
    described(group, version, metadata)


def described(group: zarr.Group, version: str, metadata: dict[str, Any]) -> None:
    if version == "0.5":
        metadata = {"ome": {"version": version, **metadata}}
    group.attrs.update(metadata)


def store(path: Path, version: str, layout: str) -> dict[str, Any]:
    """Write a store, and return the keys that name its only image."""
    root = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    name = {"root": "", "bioformats2raw": "0", "plate": "A/1/0"}[layout]
    written(root, name, pixels(), version)
    below = f"{name}/labels".lstrip("/")
    written(root, f"{below}/cells", cells(), version)
    described(root[below], version, {"labels": ["cells"]})
    if layout == "bioformats2raw":
        described(root, version, {"bioformats2raw.layout": 3})
    if layout == "plate":
        described(root, version, {"plate": {"wells": [{"path": "A/1"}]}})
        described(root["A/1"], version, {"well": {"images": [{"path": "0"}]}})
    return {"labels": "cells"} | ({"image": name} if layout == "bioformats2raw" else {})


def assert_is_that_of_zarr(uri: Path, **keys: Any) -> None:
    assert_passes_the_check(uri, **keys)
    for level, step in ((0, 1), (1, 2)):
        raster = open_raster(uri, **keys, level=level)
        labels = cells()[::step, ::step]
        image = pixels()[:, None, ::step, ::step]
        np.testing.assert_array_equal(raster.image[...], image)
        np.testing.assert_array_equal(raster.labels[...], labels[None])
        assert raster.channels == NAMES
        found = hc.aggregate_stats(raster.image, raster.labels, ("mean", "max"))
        expected = hc.aggregate_stats(image, labels, ("mean", "max"))
        np.testing.assert_array_equal(found.layers["max"], expected.layers["max"])
        np.testing.assert_array_equal(found.X, expected.X)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", ["root", "bioformats2raw", "plate"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_and_layout_is_read(
    version: str, layout: str, zipped: bool, tmp_path: Path
) -> None:
    keys = store(tmp_path / "in" / "i.zarr", version, layout)
    path = tmp_path / "in" / "i.zarr"
    if zipped:
        path = Path(shutil.make_archive(str(tmp_path / "i.zarr"), "zip", tmp_path / "in"))
    assert_is_that_of_zarr(path, **keys)


@pytest.mark.parametrize(
    "dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_labels_of_every_type_are_read(order: str, dtype: str, tmp_path: Path) -> None:
    labels = cells().astype(f"{order}{dtype}")
    tifffile.imwrite(tmp_path / "i.tif", pixels(), photometric="minisblack", tile=(16, 16))
    byteorder: Any = {"<": "little", ">": "big"}[order]
    sign: Any = order
    tifffile.imwrite(tmp_path / "l.tif", labels, byteorder=sign, tile=(16, 16))
    zarr.create_array(
        tmp_path / "l.zarr",
        data=cells().astype(dtype),
        chunks=(16, 16),
        serializer=zarr.codecs.BytesCodec(endian=byteorder),
    )
    zarr.create_array(tmp_path / "l2.zarr", data=labels, chunks=(16, 16), zarr_format=2)
    expected = hc.aggregate_stats(pixels(), cells(), ("mean", "count"))
    for name in ("l.tif", "l.zarr", "l2.zarr"):
        given = str(tmp_path / name)
        assert_passes_the_check(tmp_path / "i.tif", labels=given)
        raster = open_raster(tmp_path / "i.tif", labels=given)
        np.testing.assert_array_equal(raster.labels[...], cells())
        found = hc.aggregate_stats(raster.image, raster.labels, ("mean", "count"))
        np.testing.assert_array_equal(found.X, expected.X)
        assert list(found.obs["instance_id"]) == [7, 9]


@pytest.mark.parametrize("dtype", ["?", "u1", "f4"])
def test_masks_of_every_type_are_labelled(dtype: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "i.tif", pixels(), photometric="minisblack")
    zarr.create_array(tmp_path / "m.zarr", data=(cells() > 0).astype(dtype), chunks=(16, 16))
    keys: Any = {"labels": str(tmp_path / "m.zarr"), "label_connected": True}
    assert_passes_the_check(tmp_path / "i.tif", **keys)
    raster = open_raster(tmp_path / "i.tif", **keys)
    expected = hc.aggregate_stats(pixels(), cells())
    np.testing.assert_array_equal(hc.aggregate_stats(raster.image, raster.labels).X, expected.X)
