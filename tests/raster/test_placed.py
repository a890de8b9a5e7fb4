"""Labels of another resolution or place, against NumPy's repeat and pad."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from cases import as_form, counted_reads, threads, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from stores import assert_passes_the_check, ngff, scales

import harpy_core as hc
from harpy_core.config.source import Source
from harpy_core.planning import preflight
from harpy_core.raster import describe, open_described, open_raster

SHAPE = (29, 37)


def repeated(labels: np.ndarray, shape: tuple[int, ...], scale: Any, shift: Any) -> np.ndarray:
    """Labels repeated along each axis, shifted, and cut or filled to a shape."""
    for axis, factor in enumerate(scale):
        labels = np.repeat(labels, factor, axis)
    out = np.zeros(shape, labels.dtype)
    there, here = [], []
    for n, size, first in zip(shape, labels.shape, shift, strict=True):
        a, b = max(first, 0), min(first + size, n)
        there.append(slice(a, max(a, b)))
        here.append(slice(a - first, max(a, b) - first))
    out[tuple(there)] = labels[tuple(here)]
    return out


def blobs(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Labels in patches."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 9, [-(-n // 3) for n in shape]).astype("u4")
    for axis in range(len(shape)):
        coarse = np.repeat(coarse, 3, axis)
    return coarse[tuple(slice(0, n) for n in shape)]


@given(
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(-9, 12), st.integers(-40, 40)),
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from(["numpy", "zarr"]),
    st.integers(0, 99),
)
def test_labels_of_whole_factors_are_those_that_numpy_repeats_and_pads(
    scale: tuple[int, int], shift: tuple[int, int], size: tuple[int, int], form: str, seed: int
) -> None:
    labels = blobs(size, seed)
    wanted = repeated(labels, SHAPE, scale, shift)
    image = np.random.default_rng(seed).integers(0, 99, (2, *SHAPE)).astype("u2")
    with tempfile.TemporaryDirectory() as folder, tiles_of(1):
        stored = as_form(form, labels, (5, 7), folder, "labels")
        pixels = as_form(form, image, (1, 8, 9), folder)
        placed = hc.place_labels(stored, SHAPE, scale, shift)
        np.testing.assert_array_equal(placed[...], wanted)
        np.testing.assert_array_equal(placed[3:17:2, 5], wanted[3:17:2, 5])
        found = hc.aggregate_stats(pixels, placed, ("mean", "median", "perimeter"))
        grown = hc.expand_labels(placed, 2)[...]
    expected = hc.aggregate_stats(image, wanted, ("mean", "median", "perimeter"))
    assert found.obs.equals(expected.obs)
    np.testing.assert_array_equal(found.layers["median"], expected.layers["median"])
    np.testing.assert_array_equal(grown, hc.expand_labels(wanted, 2)[...])


def test_volumes_are_placed_along_z_too() -> None:
    labels = blobs((3, 5, 6))
    placed = hc.place_labels(labels, (7, 12, 13), (2, 2, 2), (1, 0, 3))
    np.testing.assert_array_equal(placed[...], repeated(labels, (7, 12, 13), (2, 2, 2), (1, 0, 3)))


@given(
    st.floats(0.3, 3),
    st.floats(0.3, 3),
    st.floats(-20, 20),
    st.sampled_from([1, 150, 10**6]),
)
def test_a_pixel_takes_the_label_at_its_centre(
    tall: float, wide: float, shift: float, tile: int
) -> None:
    labels = blobs((11, 13))
    with tiles_of(tile):
        placed = hc.place_labels(labels, SHAPE, (tall, wide), (shift, 0.25), nearest=True)
        found = placed[...]
        counts = hc.aggregate_stats(None, placed, "area").obs["count"].tolist()
    wanted = np.zeros(SHAPE, labels.dtype)
    for y in range(SHAPE[0]):
        for x in range(SHAPE[1]):
            row, column = (y + 0.5 - shift) / tall, (x + 0.5 - 0.25) / wide
            if 0 <= row < 11 and 0 <= column < 13:
                wanted[y, x] = labels[int(row), int(column)]
    np.testing.assert_array_equal(found, wanted)
    assert counts == np.unique(wanted[wanted > 0], return_counts=True)[1].tolist()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"scale": 1.5}, r"scale = 1.5, .*not whole ones of the image"),
        ({"translation": 0.5}, r"translation = 0.5: .*not whole ones"),
        ({"scale": 0.5}, r"scale = 0.5, .*give whole numbers, or nearest=True"),
        ({"scale": -1}, "^scale = -1: give positive numbers"),
        ({"translation": np.nan}, "^translation = nan: give numbers"),
        ({"labels": np.ones((4, 4), bool)}, "labels are bool, a binary mask"),
        ({"labels": hc.polygon_labels([], (4, 4))}, "give the place of polygons to polygon_labels"),
        ({"scale": (1, 1, 1)}, "give one number, or 2"),
        ({"shape": (4, 4, 4)}, "give 2 numbers"),
    ],
)
def test_what_cannot_be_placed_is_told_in_one_line(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(hc.InputError, match=told) as error:
        hc.place_labels(**{"labels": np.ones((4, 4), "u1"), "shape": (8, 8), **arguments})
    assert "\n" not in str(error.value)


def test_each_chunk_of_an_image_is_decoded_once_under_labels_of_half_its_resolution(
    tmp_path: Path,
) -> None:
    image = as_form("zarr", np.ones((2, 24, 36), "u2"), (1, 8, 9), tmp_path)
    labels = as_form("zarr", np.ones((12, 18), "u2"), (5, 7), tmp_path, "labels")
    with tiles_of(1), threads(4), counted_reads(image) as reads:
        found = hc.aggregate_stats(image, hc.place_labels(labels, (24, 36), 2), "mean")
    assert set(reads.values()) == {1}
    assert found.obs["count"].tolist() == [24 * 36]


# From metadata, and from keys ---------------------------------------------------------------------

WHOLE = np.random.default_rng(0).integers(0, 999, (3, 40, 50)).astype("u2")


def store(path: Path, labels: np.ndarray, steps: list[dict[str, Any]]) -> Path:
    """An OME-Zarr image in half micrometres, with labels of one level, placed by some steps."""
    root = zarr.open_group(path, mode="w")
    ngff(root, "", WHOLE, "cyx", "0.5")
    root.attrs["ome"] = {"multiscales": scales("cyx", "fine", 0.5)}
    group = root.require_group("labels/cells")
    group.create_array("0", data=labels, chunks=(7, 8))
    level = {"path": "0", "coordinateTransformations": steps}
    axes = [{"name": axis, "type": "space"} for axis in "yx"]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [level]}]}
    return path


def scale(*values: float) -> dict[str, Any]:
    return {"type": "scale", "scale": [*values]}


def translation(*values: float) -> dict[str, Any]:
    return {"type": "translation", "translation": [*values]}


@pytest.mark.parametrize(
    ("size", "steps", "factor", "shift"),
    [
        ((20, 25), [scale(1, 1)], 2, (0, 0)),
        ((20, 25), [scale(1, 1), translation(0.25, 0.25)], 2, (0, 0)),
        ((14, 17), [scale(1.5, 1.5)], 3, (0, 0)),
        ((10, 12), [scale(0.5, 0.5), translation(4, 7.5)], 1, (8, 15)),
        ((10, 12), [scale(1, 1), translation(3.25, 7.25)], 2, (6, 14)),
    ],
)
def test_labels_lie_where_the_metadata_place_them(
    size: tuple[int, int],
    steps: list[dict[str, Any]],
    factor: int,
    shift: tuple[int, int],
    tmp_path: Path,
) -> None:
    labels = blobs(size)
    path = store(tmp_path / "i.zarr", labels, steps)
    wanted = repeated(labels, (40, 50), (factor, factor), shift)
    info = describe(path)
    np.testing.assert_array_equal(open_described(info).labels[...], wanted)
    assert_passes_the_check(path)


@pytest.mark.parametrize(
    ("size", "steps", "told"),
    [
        ((40, 50), [scale(1, 1)], "scaled by y 2, x 2"),
        ((14, 17), [scale(1.5, 1.5), translation(0.5, 0)], "scaled by y 3, x 3"),
        ((40, 50), [scale(0.5, 0.5), translation(0, -1)], "shifted by y 0, x -2 pixels"),
        ((30, 40), [scale(0.6, 0.6)], "scaled by y 1.2, x 1.2"),
        ((80, 100), [scale(0.25, 0.25)], "scaled by y 0.5, x 0.5"),
    ],
)
def test_labels_that_the_metadata_place_otherwise_are_refused_unless_their_place_is_given(
    size: tuple[int, int], steps: list[dict[str, Any]], told: str, tmp_path: Path
) -> None:
    labels = blobs(size)
    path = store(tmp_path / "i.zarr", labels, steps)
    with pytest.raises(hc.InputError, match=told + ".*labels_scale and labels_translation") as one:
        open_raster(path)
    assert "\n" not in str(one.value)
    wanted = repeated(labels, (40, 50), (1, 1), (0, 3))
    found = open_raster(path, labels_scale=1, labels_translation=(0, 3)).labels[...]
    np.testing.assert_array_equal(found, wanted)


def test_turned_labels_take_the_label_at_each_centre_when_asked(tmp_path: Path) -> None:
    labels = blobs((50, 40))
    turned = {"type": "rotation", "rotation": [[0, 1], [1, 0]]}
    path = store(tmp_path / "i.zarr", labels, [scale(0.5, 0.5), turned])
    with pytest.raises(hc.InputError, match="rotated, sheared or flipped"):
        open_raster(path)
    raster = open_raster(path, labels_nearest=True)
    np.testing.assert_array_equal(raster.labels[...], labels.T)
    np.testing.assert_array_equal(raster.labels[5:9, 30:], labels.T[5:9, 30:])


def test_a_label_tiff_of_half_the_resolution_is_placed_by_a_key(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", WHOLE, photometric="minisblack")
    labels = blobs((20, 25))
    tifffile.imwrite(tmp_path / "cells.tif", labels)
    keys = {"labels": str(tmp_path / "cells.tif"), "labels_scale": 2}
    with pytest.raises(hc.InputError, match=r"2 times as many .*, give labels_scale: 2$"):
        open_raster(tmp_path / "image.tif", labels=keys["labels"])
    info = describe(tmp_path / "image.tif", **keys)
    wanted = np.repeat(np.repeat(labels, 2, 0), 2, 1)
    np.testing.assert_array_equal(open_described(info).labels[...], wanted)
    moved = describe(tmp_path / "image.tif", **keys, labels_translation=1)
    assert moved.fingerprint != info.fingerprint
    assert_passes_the_check(tmp_path / "image.tif", **keys)


# Polygons as the labels of a source ---------------------------------------------------------------

BOXES = [shapely.box(2, 3, 9, 8), shapely.box(20.6, 10, 44, 39)]


def mask(factor: float = 1.0) -> np.ndarray:
    """The boxes, painted at their pixels' centres."""
    columns, rows = np.meshgrid(np.arange(50) + 0.5, np.arange(40) + 0.5)
    found = np.zeros((40, 50), "u8")
    for number, box in enumerate(BOXES):
        found[shapely.contains_xy(box, columns * factor, rows * factor)] = number + 1
    return found


def test_spatialdata_shapes_lie_where_their_transformation_places_them(tmp_path: Path) -> None:
    import geopandas
    import spatialdata
    from spatialdata.models import Image2DModel, ShapesModel
    from spatialdata.transformations import Scale

    half = Scale([0.5, 0.5], ("x", "y"))
    image = Image2DModel.parse(WHOLE, dims=("c", "y", "x"), transformations={"global": half})
    shapes = ShapesModel.parse(geopandas.GeoDataFrame(geometry=BOXES))
    shapely_store = spatialdata.SpatialData(images={"he": image}, shapes={"cells": shapes})
    shapely_store.write(tmp_path / "s.zarr")
    path = str(tmp_path / "s.zarr" / "shapes" / "cells" / "shapes.parquet")
    raster = open_described(describe(tmp_path / "s.zarr", labels=path))
    np.testing.assert_array_equal(raster.labels[...], mask(0.5))
    assert_passes_the_check(tmp_path / "s.zarr", labels=path)


def test_polygons_of_xenium_are_scaled_to_pixels(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    corners = [np.asarray(box.exterior.coords) * 0.2125 for box in BOXES]
    rows = {
        "cell_id": [name for name, part in zip("ab", corners, strict=True) for _ in part],
        "vertex_x": np.concatenate(corners)[:, 0].astype("f4"),
        "vertex_y": np.concatenate(corners)[:, 1].astype("f4"),
    }
    parquet.write_table(pyarrow.table(rows), tmp_path / "cell_boundaries.parquet")
    tifffile.imwrite(tmp_path / "image.tif", WHOLE, photometric="minisblack")
    keys = {"labels": str(tmp_path / "cell_boundaries.parquet"), "labels_scale": 1 / 0.2125}
    raster = open_raster(tmp_path / "image.tif", **keys)
    np.testing.assert_array_equal(raster.labels[...], mask())
    assert next(iter(raster.layers)) == "cell_boundaries"
    assert_passes_the_check(tmp_path / "image.tif", **keys)


def test_polygons_of_qupath_are_the_labels_of_a_source_and_identify_it(tmp_path: Path) -> None:
    path, image = tmp_path / "cells.geojson", tmp_path / "image.tif"
    tifffile.imwrite(image, WHOLE, photometric="minisblack")

    def export(boxes: list[Any]) -> None:
        features = [{"type": "Feature", "geometry": shapely.geometry.mapping(b)} for b in boxes]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))

    export(BOXES)
    source = Source(uri=str(image), labels="cells.geojson")
    info, before = describe(image, labels="cells.geojson"), preflight.files_digest(source)
    raster = open_described(info)
    found = hc.aggregate_stats(raster.image, raster.labels, ("mean", "area"))
    expected = hc.aggregate_stats(WHOLE, mask(), ("mean", "area"))
    assert found.obs["area"].tolist() == expected.obs["area"].tolist()
    np.testing.assert_array_equal(found.layers["mean"], expected.layers["mean"])
    assert str(path) in preflight.watched_files(source)
    assert_passes_the_check(image, labels="cells.geojson")
    export([*BOXES, shapely.box(0, 0, 2, 2)])
    assert preflight.files_digest(source) != before
    with pytest.raises(hc.InputError, match="its files are not those that were described"):
        open_described(info)


@pytest.mark.parametrize(
    ("name", "content", "keys", "told"),
    [
        ("cells.geojson", "cell,x,y", {}, "is no GeoJSON file: export the polygons again"),
        ("cells.parquet", "{}", {}, "is no Parquet file: export the polygons again"),
        ("cells.geojson", "[]", {"tile": {"c": 1, "y": 2, "x": 3}}, "tile repeats a label image"),
    ],
)
def test_files_of_no_polygons_are_told_before_anything_runs(
    name: str, content: str, keys: dict[str, Any], told: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    tifffile.imwrite(tmp_path / "image.tif", WHOLE, photometric="minisblack")
    source = {"uri": str(tmp_path / "image.tif"), "labels": str(tmp_path / name)}
    with pytest.raises(hc.InputError, match=rf"^f.yaml: cases.c.source.labels = .*{told}[^\n]*$"):
        preflight.checked({"cases": {"c": {"source": source, **keys}}}, "f.yaml")


def test_polygons_have_neither_volumes_nor_levels(tmp_path: Path) -> None:
    (tmp_path / "cells.geojson").write_text("[]")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("volume", data=np.ones((1, 3, 4, 4), "u1"))
    group.create_array("flat", data=np.ones((1, 4, 4), "u1"))
    with pytest.raises(hc.InputError, match="polygons are flat, the image is a volume"):
        open_raster(tmp_path / "a.zarr", "volume", str(tmp_path / "cells.geojson"))
    with pytest.raises(hc.InputError, match="polygons have no levels; leave labels_level out"):
        open_raster(tmp_path / "a.zarr", "flat", str(tmp_path / "cells.geojson"), labels_level=0)
