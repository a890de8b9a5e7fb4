"""Opening what people have: stores of any version, and archives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
import zarr
from stores import (
    NAMES,
    assert_is_coarse,
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
from harpy_core.raster.fingerprints import fingerprint

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
