"""Opening what people have: stores of any version, archives, TIFFs; being told what is wrong."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from stores import (
    NAMES,
    assert_is_whole,
    cells,
    ngff,
    ome_zarr,
    omero,
    pixels,
    plain,
    scales,
    tiffs,
)

import harpy_core as hc
from harpy_core.raster import RasterInfo, describe, open_described, open_raster
from harpy_core.raster.chunks import Slices
from harpy_core.raster.fingerprints import fingerprint
from harpy_core.raster.tiff_array import TiffArray

if TYPE_CHECKING:
    from distributed import Client

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
    with pytest.raises(
        hc.InputError, match=r"do not lie on the image: scaled by y 2, x 2 .*resample"
    ):
        open_raster(tmp_path / "i.zarr")
    zarr.open_group(tmp_path / "i.zarr" / "labels" / "cells").attrs["ome"] = {
        "multiscales": scales("yx", "fine", 0.5)
    }
    assert_is_whole(open_raster(tmp_path / "i.zarr"))


def test_labels_without_a_placement_of_their_own_lie_on_any_image(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    root = zarr.open_group(tmp_path / "i.zarr")
    root.attrs["ome"] = {"multiscales": scales("cyx", "fine", 0.5), "omero": omero()}
    _, labels = tiffs(tmp_path)
    assert_is_whole(open_raster(tmp_path / "i.zarr", labels=labels))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_axes_of_one_pixel_that_the_jobs_do_not_know_are_left_out(
    version: str, tmp_path: Path, client: Client
) -> None:
    """Write t, c, z, y, x, for labels too, as most writers of OME-Zarr do."""
    root = zarr.open_group(tmp_path / "i.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    ngff(root, "", pixels((1, 3, 1, 40, 50)), "tczyx", version)
    ngff(root, "labels/cells", cells((1, 1, 1, 40, 50)), "tczyx", version)
    raster = open_raster(tmp_path / "i.zarr")
    np.testing.assert_array_equal(raster.image[...], pixels((3, 1, 40, 50)))
    np.testing.assert_array_equal(raster.image[1, 0, 3:5], pixels((3, 1, 40, 50))[1, 0, 3:5])
    assert (raster.image.shape, raster.labels.shape) == ((3, 1, 40, 50), (1, 40, 50))
    assert raster.channels == NAMES
    found = hc.aggregate_stats(raster.image, raster.labels, client=client)
    np.testing.assert_array_equal(found.X, hc.aggregate_stats(pixels(), cells()).X)
    chosen = open_raster(tmp_path / "i.zarr", channels=["CD3"])
    np.testing.assert_array_equal(chosen.image[...], pixels((3, 1, 40, 50))[1:2])


def test_labels_below_their_image_are_found(tmp_path: Path) -> None:
    """Write several images in the layout of bioformats2raw."""
    root = zarr.open_group(tmp_path / "i.zarr", mode="w")
    for name in ("0", "1"):
        ngff(root, name, pixels(), "cyx", "0.5")
    ngff(root, "1/labels/cells", cells(), "yx", "0.5")
    assert_is_whole(open_raster(tmp_path / "i.zarr", "1", "cells"))
    assert_is_whole(open_raster(tmp_path / "i.zarr", "1"))
    with pytest.raises(hc.InputError, match=r"which images\? found 0, 1"):
        open_raster(tmp_path / "i.zarr")
    with pytest.raises(hc.InputError, match="labels 'cells' is not there; found none"):
        open_raster(tmp_path / "i.zarr", "0", "cells")


# Levels -------------------------------------------------------------------------------------------


def assert_is_coarse(raster: Any) -> None:
    np.testing.assert_array_equal(raster.image[...], pixels()[:, ::2, ::2])
    np.testing.assert_array_equal(raster.labels[...], cells()[::2, ::2])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_is_that_of_the_image_and_of_the_labels(version: str, tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", version)
    assert_is_whole(open_raster(tmp_path / "i.zarr", level=0))
    assert_is_coarse(open_raster(tmp_path / "i.zarr", level=1))
    assert describe(tmp_path / "i.zarr", level=1).image_shape == (3, 20, 25)
    assert_is_coarse(open_described(describe(tmp_path / "i.zarr", level=1)))
    fingerprints = {describe(tmp_path / "i.zarr", level=n).fingerprint for n in (0, 1)}
    assert len(fingerprints) == 2


def test_labels_with_one_level_are_those_of_any_level_of_their_shape(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    coarse = np.ascontiguousarray(cells()[::2, ::2])
    zarr.create_array(tmp_path / "coarse.zarr", data=coarse)
    tifffile.imwrite(tmp_path / "coarse.tif", coarse)
    for labels in ("coarse.zarr", "coarse.tif"):
        assert_is_coarse(open_raster(tmp_path / "i.zarr", labels=str(tmp_path / labels), level=1))
        with pytest.raises(hc.InputError, match="do not cover the same pixels"):
            open_raster(tmp_path / "i.zarr", labels=str(tmp_path / labels))


def test_a_level_of_a_spatialdata_store_is_the_one_that_it_wrote(tmp_path: Path) -> None:
    import spatialdata
    from spatialdata.models import Image2DModel, Labels2DModel

    image = Image2DModel.parse(pixels(), dims=("c", "y", "x"), scale_factors=[2, 2])
    labels = Labels2DModel.parse(cells(), dims=("y", "x"), scale_factors=[2, 2])
    spatialdata.SpatialData(images={"he": image}, labels={"cells": labels}).write(tmp_path / "s")
    for level in (1, 2):
        raster = open_raster(tmp_path / "s", level=level)
        np.testing.assert_array_equal(raster.image[...], image[f"scale{level}"]["image"].values)
        np.testing.assert_array_equal(raster.labels[...], labels[f"scale{level}"]["image"].values)


# Placement ----------------------------------------------------------------------------------------

MOVED = {
    "shifted": ([[1, 0, 5], [0, 1, 7], [0, 0, 1]], "shifted by y 7, x 5 pixels"),
    "scaled": ([[2, 0, 0], [0, 2, 0], [0, 0, 1]], "scaled by y 2, x 2"),
    "turned": ([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], "rotated, sheared or flipped"),
    "mirrored": ([[1, 0, 0], [0, -1, 40], [0, 0, 1]], "scaled by y -1, x 1"),
}


@pytest.mark.parametrize("moved", MOVED)
def test_labels_that_spatialdata_places_elsewhere_are_refused(moved: str, tmp_path: Path) -> None:
    import spatialdata
    from spatialdata.models import Image2DModel, Labels2DModel
    from spatialdata.transformations import Affine, Identity, Scale, Sequence

    axes = {"input_axes": ("x", "y"), "output_axes": ("x", "y")}
    matrix, told = MOVED[moved]
    common = Sequence(
        [Scale([0.5, 0.25], ("x", "y")), Affine([[1, 2, 3], [0, 1, 4], [0, 0, 1]], **axes)]
    )
    away = Sequence([Affine(matrix, **axes), common])
    image = Image2DModel.parse(
        pixels(), dims=("c", "y", "x"), transformations={"global": Identity(), "slide": common}
    )
    placed = {"global": Identity(), "slide": common}
    for name, transformations in (("on", placed), ("off", {**placed, "slide": away})):
        labels = Labels2DModel.parse(cells(), dims=("y", "x"), transformations=transformations)
        store = spatialdata.SpatialData(images={"he": image}, labels={"cells": labels})
        store.write(tmp_path / name)
    assert_is_whole(open_raster(tmp_path / "on"), ["0", "1", "2"])
    with pytest.raises(hc.InputError, match=told) as error:
        open_raster(tmp_path / "off")
    assert "coordinate system 'slide'" in str(error.value)
    assert "\n" not in str(error.value)


def transformed(path: Path, kind: str, steps: list[dict[str, Any]]) -> None:
    """Set the transformations of a multiscale as NGFF has them."""
    ome_zarr(path, "0.4")
    group = zarr.open_group(path / "labels" / "cells" if kind == "labels" else path)
    multiscales: Any = group.attrs["multiscales"]
    multiscales[0]["coordinateTransformations"] = steps
    group.attrs["multiscales"] = multiscales


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([{"type": "translation", "translation": [0, 3]}], "shifted by y 0, x 3 pixels"),
        ([{"type": "scale", "scale": [1, 1.01]}], "scaled by y 1, x 1.01"),
        ([{"type": "scale", "scale": [0, 1]}], "scaled by y 0, x 1"),
        ([{"type": "displacements", "path": "warp"}], "of type displacements, .* not understood"),
        ([{"type": "scale", "scale": [1, 1, 1]}], "cannot be understood"),
        ([{"type": "scale", "scale": [1, 1 + 1e-9]}], None),
        ([{"type": "identity"}], None),
    ],
)
def test_labels_that_ngff_places_elsewhere_are_refused(
    steps: list[dict[str, Any]], told: str | None, tmp_path: Path
) -> None:
    transformed(tmp_path / "i.zarr", "labels", steps)
    if told is None:
        assert_is_whole(open_raster(tmp_path / "i.zarr"))
        return
    with pytest.raises(hc.InputError, match=told) as error:
        open_raster(tmp_path / "i.zarr")
    assert "\n" not in str(error.value)


# TIFF ---------------------------------------------------------------------------------------------


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
    # Of the file; what is used of it, `channels` says.
    assert (info.image_shape, info.labels_shape) == ((3, 40, 50), (40, 50))
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


# The same input -----------------------------------------------------------------------------------


def in_place(path: Path) -> None:
    """Write some pixels of an array again, as large and where they were."""
    array = zarr.open_array(path, mode="r+")
    array[..., :2, :2] = np.asarray(array[..., :2, :2]) + 1


@pytest.mark.parametrize("changed", ["fine", "labels/cells/fine"])
def test_a_store_that_changed_in_place_is_not_what_was_described(
    changed: str, tmp_path: Path
) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    info = describe(tmp_path / "i.zarr")
    assert_is_whole(open_described(info.choosing(["CD3", "DAPI", "CD20"])))
    in_place(tmp_path / "i.zarr" / changed)
    for each in (info, info.choosing(["CD3"])):
        with pytest.raises(hc.InputError, match=r"i.zarr: .*changed since.*run again") as error:
            open_described(each)
        assert "\n" not in str(error.value)
    assert describe(tmp_path / "i.zarr").fingerprint != info.fingerprint


def test_labels_from_elsewhere_are_part_of_what_a_declared_store_is(tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    (tmp_path / "i.manifest.json").write_text('{"digest": "abc"}')
    _, labels = tiffs(tmp_path)
    assert describe(tmp_path / "i.zarr").fingerprint == "abc"
    info = describe(tmp_path / "i.zarr", labels=labels)
    tifffile.imwrite(labels, cells() + np.uint32(1))
    assert describe(tmp_path / "i.zarr", labels=labels).fingerprint != info.fingerprint
    with pytest.raises(hc.InputError, match="changed since"):
        open_described(info)


@pytest.mark.parametrize(
    ("given", "name"), [("cells", "cells"), ("mine.ome.tif", "mine"), ("my.zarr", "my")]
)
def test_a_layer_has_the_name_of_its_labels(given: str, name: str, tmp_path: Path) -> None:
    ome_zarr(tmp_path / "i.zarr", "0.5")
    tifffile.imwrite(tmp_path / "mine.ome.tif", cells())
    zarr.create_array(tmp_path / "my.zarr", data=cells())
    assert list(open_raster(tmp_path / "i.zarr", labels=given).layers) == [name]
