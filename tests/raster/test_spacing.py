"""Sides of pixels, as the metadata of stores and TIFFs say them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import harpy_core as hc


def ngff(path: Path, units: dict[str, str], scale: list[float], levels: int = 1) -> Path:
    """OME-Zarr with an image and labels, with a scale and units of its axes."""
    root = zarr.open_group(path, mode="w", zarr_format=3)
    for name, axes in (("", "cyx"), ("labels/cells", "yx")):
        group = root.require_group(name) if name else root
        datasets = []
        for level in range(levels):
            side = 16 >> level
            shape = (2, side, side) if name == "" else (side, side)
            values = np.ones(shape, "u2" if name == "" else "u4")
            group.create_array(str(level), data=values, chunks=shape)
            factors = [1.0, *scale] if name == "" else scale
            grown = [f * (2**level if i >= len(factors) - 2 else 1) for i, f in enumerate(factors)]
            transformation = {"type": "scale", "scale": grown}
            datasets.append({"path": str(level), "coordinateTransformations": [transformation]})
        listed = [{"name": a, **({"unit": units[a]} if a in units else {})} for a in axes]
        group.attrs["ome"] = {
            "version": "0.5",
            "multiscales": [{"axes": listed, "datasets": datasets}],
        }
    root["labels"].attrs["ome"] = {"labels": ["cells"]}
    return path


MICROMETER = dict.fromkeys("yx", "micrometer")


@pytest.mark.parametrize(
    ("units", "scale", "expected"),
    [
        (MICROMETER, [0.5, 0.25], (0.5, 0.25)),
        (dict.fromkeys("yx", "nanometer"), [500.0, 250.0], (0.5, 0.25)),
        ({"y": "millimeter", "x": "micrometer"}, [0.001, 1.0], (1.0, 1.0)),
        ({}, [0.5, 0.5], None),
        ({"y": "micrometer"}, [0.5, 0.5], None),
        (dict.fromkeys("yx", "pixel"), [1.0, 1.0], None),
    ],
)
def test_a_store_says_how_large_a_pixel_is(
    units: dict[str, str], scale: list[float], expected: Any, tmp_path: Path
) -> None:
    raster = hc.open_raster(ngff(tmp_path / "a.zarr", units, scale))
    assert raster.spacing == pytest.approx(expected)


def test_a_level_has_larger_pixels(tmp_path: Path) -> None:
    path = ngff(tmp_path / "a.zarr", MICROMETER, [0.5, 0.5], levels=2)
    assert hc.open_raster(path, level=1).spacing == (1.0, 1.0)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}, (0.5, 0.25)),
        (
            {
                "PhysicalSizeX": 250,
                "PhysicalSizeXUnit": "nm",
                "PhysicalSizeY": 0.0005,
                "PhysicalSizeYUnit": "mm",
            },
            (0.5, 0.25),
        ),
        ({"PhysicalSizeX": 0.25}, None),
        ({}, None),
    ],
)
def test_a_tiff_says_how_large_a_pixel_is(
    metadata: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    image, labels = tmp_path / "image.ome.tif", tmp_path / "labels.tif"
    tifffile.imwrite(image, np.ones((2, 8, 8), "u2"), metadata={"axes": "CYX", **metadata})
    tifffile.imwrite(labels, np.ones((8, 8), "u2"))
    raster = hc.open_raster(image, labels=str(labels))
    assert raster.spacing == pytest.approx(expected)


def test_the_finest_level_of_a_tiff_has_the_very_number_of_its_metadata(tmp_path: Path) -> None:
    image, labels = tmp_path / "image.ome.tif", tmp_path / "labels.tif"
    sizes = {"PhysicalSizeX": 0.499, "PhysicalSizeY": 0.499}
    tifffile.imwrite(image, np.ones((2, 12, 12), "u2"), metadata={"axes": "CYX", **sizes})
    tifffile.imwrite(labels, np.ones((12, 12), "u2"))
    assert hc.open_raster(image, labels=str(labels)).spacing == (0.499, 0.499)


def test_shapes_are_in_micrometres_where_the_metadata_say_how_large_a_pixel_is(
    tmp_path: Path,
) -> None:
    raster = hc.open_raster(ngff(tmp_path / "a.zarr", MICROMETER, [0.5, 0.5]))
    found = hc.aggregate_stats(None, raster.labels, "area", spacing=raster.spacing_of("metadata"))
    assert found.obs["area"].tolist() == [64.0]
    assert raster.spacing_of([2.0, 1.0]) == [2.0, 1.0]
    assert raster.spacing_of(None) is None
    other = hc.open_raster(ngff(tmp_path / "b.zarr", {}, [0.5, 0.5]))
    with pytest.raises(hc.InputError, match="the metadata do not say how large a pixel is"):
        other.spacing_of("metadata")
