"""Every compression and layout of TIFF that people bring, as tifffile reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from stores import NAMES, assert_passes_the_check, cells, tiffs

import harpy_core as hc
from harpy_core.raster import open_raster

LOSSLESS = ("none", "lzw", "zlib", "zstd", "lzma", "packbits", "deflate")
PREDICTED = ("lzw", "zlib", "zstd")


def pixels(dtype: str = "u2") -> np.ndarray:
    """Smooth, as what compresses well is, in three channels."""
    y, x = np.mgrid[:50, :70]
    return np.stack([y * 2 + x, y + 3 * x, 200 - y]).astype(dtype)


def assert_is_that_of_tifffile(path: Path, labels: str) -> None:
    assert_passes_the_check(path, labels=labels)
    raster = open_raster(path, labels=labels)
    expected = tifffile.imread(path)
    np.testing.assert_array_equal(np.asarray(raster.image[...]), expected)
    found = hc.aggregate_stats(raster.image, raster.labels)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(expected, wide()).X)


def wide() -> np.ndarray:
    labels = np.zeros((50, 70), "u4")
    labels[:40, :50] = cells()
    return labels


def written(folder: Path, values: np.ndarray, **options: Any) -> tuple[Path, str]:
    tifffile.imwrite(folder / "labels.tif", wide())
    tifffile.imwrite(folder / "i.tif", values, photometric="minisblack", **options)
    return folder / "i.tif", str(folder / "labels.tif")


@pytest.mark.parametrize("layout", [{"tile": (16, 32)}, {"rowsperstrip": 7}], ids=["tile", "strip"])
@pytest.mark.parametrize("compression", LOSSLESS)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_every_compression_is_read(
    compression: str, layout: dict[str, Any], byteorder: Any, tmp_path: Path
) -> None:
    options = {**layout, "byteorder": byteorder, "bigtiff": byteorder == ">"}
    assert_is_that_of_tifffile(*written(tmp_path, pixels(), compression=compression, **options))


@pytest.mark.parametrize("compression", PREDICTED)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_every_predictor_is_undone(compression: str, dtype: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"compression": compression, "predictor": True, "tile": (16, 16)}
    assert_is_that_of_tifffile(*written(tmp_path, pixels(dtype), **options))


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "jpegxl", "lerc"])
def test_lossy_pixels_are_those_that_the_decoder_gives(compression: str, tmp_path: Path) -> None:
    path, labels = written(tmp_path, pixels("u1"), compression=compression, tile=(16, 16))
    assert_is_that_of_tifffile(path, labels)


def test_compressed_labels_are_read(tmp_path: Path) -> None:
    image, labels = tiffs(tmp_path, compression="lzw", predictor=True)
    np.testing.assert_array_equal(open_raster(image, labels=labels).labels[...], cells())


WITHOUT = """
import sys
sys.modules["imagecodecs"] = None
import harpy_core as hc
from harpy_core.raster import open_raster
raster = open_raster(sys.argv[1], labels=sys.argv[2])
try:
    hc.aggregate_stats(raster.image, raster.labels)
except hc.InputError as error:
    print(error)
"""


def test_a_decoder_that_is_not_installed_is_named(tmp_path: Path) -> None:
    path, labels = written(tmp_path, pixels(), compression="lzw")
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(path), labels], capture_output=True, text=True
    )
    (line,) = ended.stdout.splitlines()
    assert line.startswith(f"{path}: its compression needs a package: pip install imagecodecs (")


@pytest.mark.parametrize("named", [True, False])
def test_a_planar_colour_image_has_a_channel_for_each_sample(named: bool, tmp_path: Path) -> None:
    metadata: dict[str, Any] = {"axes": "CYX"}
    if named:
        metadata["Channel"] = {"Name": "H&E"}
    tifffile.imwrite(
        tmp_path / "i.ome.tif",
        pixels("u1"),
        photometric="rgb",
        planarconfig="separate",
        metadata=metadata,
    )
    tifffile.imwrite(tmp_path / "labels.tif", wide())
    raster = open_raster(tmp_path / "i.ome.tif", labels=str(tmp_path / "labels.tif"))
    np.testing.assert_array_equal(raster.image[...], pixels("u1"))
    expected = ["H&E red", "H&E green", "H&E blue"] if named else ["0", "1", "2"]
    assert raster.channels == expected


def test_channels_that_are_named_one_by_one_keep_their_names(tmp_path: Path) -> None:
    image, labels = tiffs(tmp_path)
    assert open_raster(image, labels=labels).channels == NAMES


def test_a_slide_of_aperio_is_read_without_its_label_and_overview(tmp_path: Path) -> None:
    values = np.ascontiguousarray(np.moveaxis(pixels("u1"), 0, -1))
    more: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "slide.svs") as tiff:
        for step, kind in ((1, "Aperio Image Library v1\r\n70x50"), (5, "Aperio thumbnail")):
            layout = {"tile": (16, 16), "compression": "jpeg"} if step == 1 else {}
            tiff.write(values[::step, ::step], description=kind, **layout, **more)
    tifffile.imwrite(tmp_path / "labels.tif", wide())
    raster = open_raster(tmp_path / "slide.svs", labels="labels.tif")
    expected = np.moveaxis(tifffile.imread(tmp_path / "slide.svs"), -1, 0)
    np.testing.assert_array_equal(raster.image[...], expected)


@pytest.mark.parametrize("tag", ["Biomarker", "Name"])
def test_a_slide_of_perkinelmer_names_its_channels(tag: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.qptiff"
    with tifffile.TiffWriter(path) as tiff:
        for plane, name in zip(pixels(), NAMES, strict=True):
            text = f"<PerkinElmer-QPI-ImageDescription><{tag}>{name}</{tag}><Resp/>"
            text += "<ImageType>FullResolution</ImageType></PerkinElmer-QPI-ImageDescription>"
            tiff.write(
                plane, description=text, software="PerkinElmer-QPI", metadata=None, tile=(16, 16)
            )
    tifffile.imwrite(tmp_path / "labels.tif", wide())
    raster = open_raster(path, labels="labels.tif")
    np.testing.assert_array_equal(raster.image[...], pixels())
    assert raster.channels == NAMES


@pytest.mark.parametrize("imagej", [False, True])
def test_pages_of_labels_are_planes_of_a_volume(imagej: bool, tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 60_000, (2, 5, 40, 50)).astype("u2")
    solid = cells((5, 40, 50)).astype("u2")
    tifffile.imwrite(tmp_path / "i.ome.tif", volume, metadata={"axes": "CZYX"})
    more: dict[str, Any] = {"imagej": True, "metadata": {"axes": "ZYX"}} if imagej else {}
    tifffile.imwrite(tmp_path / "labels.tif", solid, **more)
    raster = open_raster(tmp_path / "i.ome.tif", labels=str(tmp_path / "labels.tif"))
    np.testing.assert_array_equal(raster.labels[...], solid)
    tifffile.imwrite(tmp_path / "flat.tif", solid[0])
    with pytest.raises(hc.InputError, match="do not cover the same pixels"):
        open_raster(tmp_path / "flat.tif", labels=str(tmp_path / "labels.tif"))
