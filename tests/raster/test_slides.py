"""Slides of scanners that are TIFFs inside, as tifffile and OpenSlide read them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import microscopes as made
import numpy as np
import pytest
import skimage.data
import tifffile
from stores import assert_passes_the_check

import harpy_core as hc
from harpy_core.raster import open_raster

HIGH, WIDE = 192, 256


@pytest.fixture
def labels(tmp_path: Path) -> str:
    mask = np.zeros((HIGH, WIDE), "u2")
    mask[20:60, 30:90], mask[100:150, 100:240] = 3, 9
    tifffile.imwrite(tmp_path / "labels.tif", mask)
    return str(tmp_path / "labels.tif")


def tissue() -> list[np.ndarray]:
    """Two levels of a stained section."""
    values = skimage.data.immunohistochemistry()[:HIGH, :WIDE]
    return [np.ascontiguousarray(values), np.ascontiguousarray(values[::4, ::4])]


def assert_is(path: Path, labels: str, expected: np.ndarray, **chosen: Any) -> None:
    """An image is the pixels (y, x, 3), through the check, the raster and a measurement."""
    assert_passes_the_check(path, labels=labels, **chosen)
    raster = open_raster(path, labels=labels, **chosen)
    moved = np.moveaxis(expected, -1, 0)
    np.testing.assert_array_equal(raster.image[...], moved)
    found = hc.aggregate_stats(raster.image, raster.labels)
    mask = tifffile.imread(labels)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(moved, mask).X)


def assert_openslide_agrees(
    pixels: np.ndarray, path: Path, vendor: str, at: tuple[int, int] = (0, 0)
) -> None:
    """The finest level is what another reader gives, where it is installed (make test-readers)."""
    if find_spec("openslide") is None:
        return
    slide = import_module("openslide").OpenSlide(path)
    assert slide.properties["openslide.vendor"] == vendor
    found = np.asarray(slide.read_region(at, 0, (WIDE, HIGH)))[..., :3]
    np.testing.assert_array_equal(pixels, found)


@pytest.mark.parametrize("compression", ["jpeg", tifffile.COMPRESSION.APERIO_JP2000_RGB])
def test_a_slide_of_aperio_is_its_first_image(
    compression: Any, labels: str, tmp_path: Path
) -> None:
    path, levels = tmp_path / "slide.svs", tissue()
    made.svs(path, levels, compression)
    expected = tifffile.imread(path)
    assert np.abs(expected.astype(int) - levels[0]).max() <= 16
    assert_is(path, labels, expected)
    assert open_raster(path, labels=labels).spacing == pytest.approx((0.499, 0.499))
    coarse = open_raster(path, labels=save(tmp_path, levels[1].shape[:2]), level=1)
    with tifffile.TiffFile(path) as tiff:
        second = tiff.series[0].levels[1].asarray()
    np.testing.assert_array_equal(coarse.image[...], np.moveaxis(second, -1, 0))
    assert_openslide_agrees(expected, path, "aperio")


def test_colours_that_the_decoder_leaves_as_luminance_are_refused(
    labels: str, tmp_path: Path
) -> None:
    path = tmp_path / "slide.svs"
    made.svs(path, tissue(), tifffile.COMPRESSION.APERIO_JP2000_YCBC)
    with pytest.raises(hc.InputError, match=r"YCbCr in JPEG 2000 \(33003\).* export it") as error:
        open_raster(path, labels=labels)
    assert "\n" not in str(error.value)
    tifffile.imwrite(tmp_path / "i.tif", tissue()[0], photometric="ycbcr", compression="lzw")
    with pytest.raises(hc.InputError, match="YCbCr in TIFF"):
        open_raster(tmp_path / "i.tif", labels=labels)


def test_a_slide_of_leica_is_the_image_that_is_no_overview(labels: str, tmp_path: Path) -> None:
    path, levels = tmp_path / "slide.scn", tissue()
    made.scn(path, {"section": levels})
    with tifffile.TiffFile(path) as tiff:
        expected = tiff.pages[1].asarray()
    assert np.abs(expected.astype(int) - levels[0]).max() <= 16
    assert_is(path, labels, expected)
    assert open_raster(path, labels=labels).spacing == (0.5, 0.5)
    # OpenSlide has the whole slide, on which the image lies 100 µm from the corner.
    assert_openslide_agrees(expected, path, "leica", (200, 200))


def test_an_image_of_a_slide_of_leica_is_chosen_where_there_are_several(
    labels: str, tmp_path: Path
) -> None:
    path, levels = tmp_path / "slide.scn", tissue()
    made.scn(path, {"one": levels, "two": [level[::-1] for level in levels]})
    with pytest.raises(hc.InputError, match=r"which of its images\? 0 'overview'.*2 'two'"):
        open_raster(path, labels=labels)
    with tifffile.TiffFile(path) as tiff:
        expected = tiff.pages[3].asarray()
    assert_is(path, labels, expected, image="two")


def test_channels_of_a_fluorescent_slide_of_leica_are_pages(labels: str, tmp_path: Path) -> None:
    path = tmp_path / "slide.scn"
    values = np.random.default_rng(0).integers(0, 60_000, (4, HIGH, WIDE)).astype("u2")
    made.scn(path, {"section": [values, values[:, ::4, ::4]]}, bright=False)
    assert_is(path, labels, np.moveaxis(values, 0, -1))


def test_a_slide_of_hamamatsu_is_read_part_by_part(labels: str, tmp_path: Path) -> None:
    path, levels = tmp_path / "slide.ndpi", tissue()
    overview = np.ascontiguousarray(levels[0][:60, ::4])
    decoded = made.ndpi(path, [(20.0, levels[0]), (5.0, levels[1]), (-1.0, overview)])
    assert_is(path, labels, decoded[0])
    raster = open_raster(path, labels=labels)
    # Parts begin where the file says that they can be decoded alone.
    assert raster.image.chunks == (3, 8, WIDE)
    assert raster.spacing == (0.25, 0.25)
    assert_openslide_agrees(decoded[0], path, "hamamatsu")
    small = open_raster(path, image="1", labels=save(tmp_path, overview.shape[:2]))
    np.testing.assert_array_equal(small.image[...], np.moveaxis(decoded[2], -1, 0))


def save(folder: Path, shape: tuple[int, ...]) -> str:
    """Labels of one instance."""
    tifffile.imwrite(folder / "small.tif", np.ones(shape, "u1"))
    return str(folder / "small.tif")
