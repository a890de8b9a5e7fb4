"""TIFFs with their label TIFFs: levels, series, sizes, and files that are written again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from stores import NAMES, assert_is_coarse, assert_is_whole, cells, pixels, tiffs

import harpy_core as hc
from harpy_core.raster import describe, open_described, open_raster
from harpy_core.raster.chunks import Slices
from harpy_core.raster.tiff_array import TiffArray


def test_a_pyramid_in_a_tiff_has_its_levels(tmp_path: Path) -> None:
    for name, values, axes in (("image", pixels(), "CYX"), ("labels", cells(), "YX")):
        with tifffile.TiffWriter(tmp_path / f"{name}.ome.tif", bigtiff=True) as tiff:
            more = {"tile": (16, 16), "photometric": "minisblack", "compression": "zlib"}
            metadata = {"axes": axes, **({"Channel": {"Name": NAMES}} if axes == "CYX" else {})}
            tiff.write(values, subifds=1, metadata=metadata, **more)
            coarse = np.ascontiguousarray(values[..., ::2, ::2])
            tiff.write(coarse, subfiletype=1, metadata=None, **more)
    image, labels = str(tmp_path / "image.ome.tif"), str(tmp_path / "labels.ome.tif")
    assert_is_whole(open_raster(image, labels=labels))
    assert_is_coarse(open_raster(image, labels=labels, level=1))
    assert_is_coarse(open_described(describe(image, labels=labels, level=1)))
    with pytest.raises(hc.InputError, match="no level 2; there are 0 to 1"):
        open_raster(image, labels=labels, level=2)


def test_a_series_of_a_tiff_is_chosen_by_name_or_number(tmp_path: Path) -> None:
    other = (pixels() // 2).astype("u2")
    with tifffile.TiffWriter(tmp_path / "two.ome.tif") as tiff:
        for name, values in (("overview", other), ("slide", pixels())):
            metadata = {"axes": "CYX", "Name": name, "Channel": {"Name": NAMES}}
            tiff.write(values, photometric="minisblack", metadata=metadata)
    _, labels = tiffs(tmp_path)
    for series in ("slide", "1"):
        assert_is_whole(open_raster(tmp_path / "two.ome.tif", series, labels))
    with pytest.raises(hc.InputError, match=r"which of its images\? .*0 'overview' .*1 'slide'"):
        open_raster(tmp_path / "two.ome.tif", labels=labels)
    with pytest.raises(hc.InputError, match="no image 'he'; found overview, slide, or 0 to 1"):
        open_raster(tmp_path / "two.ome.tif", "he", labels)


def test_a_tiff_of_more_than_4_gb_is_read_beyond_them(tmp_path: Path) -> None:
    """A sparse file: the disk holds its last strips only."""
    path = tmp_path / "big.tif"
    metadata = {"axes": "CYX"}
    tifffile.imwrite(
        path, shape=(3, 30_000, 30_000), dtype="u2", rowsperstrip=100, bigtiff=True,
        photometric="minisblack", metadata=metadata,
    )  # fmt: skip
    written = tifffile.memmap(path, mode="r+")
    end = np.arange(250 * 30_000).astype("u2").reshape(250, 30_000)
    written[2, -250:] = end
    written.flush()
    assert path.stat().st_size > 2**32
    array = TiffArray(str(path))
    assert array.chunks == (1, 100, 30_000)
    np.testing.assert_array_equal(array[2, -250:], end)
    chunk = np.empty(array.chunks, "u2")
    Slices(array, str(path)).read((2, 299, 0), chunk)
    np.testing.assert_array_equal(chunk[0], end[-100:])


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
