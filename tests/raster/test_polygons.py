"""Polygons as labels, against shapely's own test of every pixel's centre."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from cases import as_form, counted_reads, tiles_of
from hypothesis import given
from hypothesis import strategies as st

import harpy_core as hc

if TYPE_CHECKING:
    from distributed import Client

SHAPE = (37, 45)
COLUMNS, ROWS = np.meshgrid(np.arange(SHAPE[1]) + 0.5, np.arange(SHAPE[0]) + 0.5)


def inside(polygon: Any) -> np.ndarray:
    """Which pixels' centres lie in a polygon of shapely."""
    return np.asarray(shapely.contains_xy(polygon, COLUMNS, ROWS))


def stars(seed: int, number: int) -> list[Any]:
    """Polygons of any form, over each other and over the border, some with holes or in parts."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(number):
        angle = np.sort(rng.random(rng.integers(3, 12)) * 2 * np.pi)
        far = 2 + rng.random(len(angle)) * 9
        centre = rng.random(2) * np.array(SHAPE[::-1])
        corners = centre + np.stack([np.cos(angle), np.sin(angle)], 1) * far[:, np.newaxis]
        one = shapely.Polygon(corners).buffer(0)
        if i % 3 == 0:
            one = one.difference(shapely.Point(*centre).buffer(1.7))
        found.append(one)
    return [one for one in found if not one.is_empty]


def expected(image: np.ndarray, polygons: list[Any]) -> list[tuple[int, list[float]]]:
    """Pixels and means of each polygon that has pixels."""
    masks = [inside(polygon) for polygon in polygons]
    return [(int(mask.sum()), [c[mask].mean() for c in image]) for mask in masks if mask.any()]


@given(st.integers(0, 10**6), st.sampled_from([1, 150, 10**6]), st.sampled_from(["numba", "numpy"]))
def test_a_pixel_belongs_to_every_polygon_around_its_centre(
    seed: int, tile: int, engine: str
) -> None:
    polygons = stars(seed, 9)
    image = np.random.default_rng(seed).integers(0, 99, (2, *SHAPE)).astype("u2")
    labels = hc.polygon_labels(polygons, SHAPE)
    import tempfile

    with tempfile.TemporaryDirectory() as folder, tiles_of(tile):
        pixels = as_form("zarr", image, (1, 11, 13), folder)
        found = hc.aggregate_stats(pixels, labels, ("mean", "median", "area"), engine=engine)
    wanted = expected(image, polygons)
    assert found.obs["count"].tolist() == [count for count, _ in wanted]
    np.testing.assert_allclose(found.layers["mean"], [means for _, means in wanted], 1e-12)


def test_shapes_and_crops_of_polygons_are_those_of_their_masks(tmp_path: Path) -> None:
    polygons = [shapely.box(3, 4, 12, 9), shapely.Point(30, 20).buffer(8.2)]
    image = np.random.default_rng(0).integers(0, 99, (2, *SHAPE)).astype("u2")
    mask = np.zeros(SHAPE, "u2")
    for number, polygon in enumerate(polygons):
        mask[inside(polygon)] = number + 1
    labels = hc.polygon_labels(polygons, SHAPE)
    np.testing.assert_array_equal(labels[...], mask)
    names = ("perimeter", "solidity", "orientation", "euler_number")
    with tiles_of(1):
        found = hc.aggregate_stats(None, labels, names)
        assert found.obs.equals(hc.aggregate_stats(None, mask, names).obs)
        crops = hc.extract_instances(image, labels, tmp_path / "a", diameter=20)
    plain = hc.extract_instances(image, mask, tmp_path / "b", diameter=20)
    np.testing.assert_array_equal(crops.image[...], plain.image[...])


def test_tiles_without_a_polygon_are_not_read(tmp_path: Path) -> None:
    image = as_form("zarr", np.ones((2, *SHAPE), "u2"), (1, 10, 10), tmp_path)
    labels = hc.polygon_labels([shapely.box(12, 12, 18, 18)], SHAPE)
    with tiles_of(1), counted_reads(image) as reads:
        hc.aggregate_stats(image, labels, "mean")
    assert set(reads) == {(0, 1, 1), (1, 1, 1)}


@given(st.integers(0, 10**6), st.sampled_from([1, 150, 10**6]), st.sampled_from(["numba", "numpy"]))
def test_the_parent_of_a_polygon_has_most_of_it(seed: int, tile: int, engine: str) -> None:
    cells, nuclei = stars(seed, 9), stars(seed + 1, 6)
    layers = {"cell": hc.polygon_labels(cells, SHAPE), "nucleus": hc.polygon_labels(nuclei, SHAPE)}
    with tiles_of(tile):
        found = hc.aggregate_layers(None, layers, "area", engine=engine)["nucleus"].obs
    shared = np.array([[(inside(n) & inside(c)).sum() for c in cells] for n in nuclei])
    rows = [i for i, nucleus in enumerate(nuclei) if inside(nucleus).any()]
    assert found["overlap"].tolist() == shared.max(axis=1)[rows].tolist()
    most = np.where(shared.max(axis=1) > 0, shared.argmax(axis=1) + 1, 0)
    assert found["parent"].tolist() == most[rows].tolist()


def test_workers_measure_the_polygons_that_threads_measure(client: Client) -> None:
    image = np.random.default_rng(0).integers(0, 99, (2, *SHAPE)).astype("u2")
    labels = hc.polygon_labels(stars(1, 9), SHAPE)
    with tiles_of(1):
        found = hc.aggregate_stats(image, labels, ("mean", "median"), client=client)
    alone = hc.aggregate_stats(image, labels, ("mean", "median"))
    assert found.obs.equals(alone.obs)
    np.testing.assert_array_equal(found.layers["median"], alone.layers["median"])


def test_polygons_of_a_geojson_file_are_read_in_its_order(tmp_path: Path) -> None:
    polygons = stars(3, 6)
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(one), "properties": {}}
        for one in polygons
    ]
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}}
    whole = {"type": "FeatureCollection", "features": [point, *features]}
    labels = hc.polygon_labels(polygons, SHAPE)
    for content in (whole, [point, *features]):
        (tmp_path / "cells.geojson").write_text(json.dumps(content))
        found = hc.read_polygons(tmp_path / "cells.geojson", SHAPE)
        assert found.facts() == labels.facts()


def test_corners_are_scaled_and_shifted_to_pixels() -> None:
    corners = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
    labels = hc.polygon_labels([corners], (6, 9), ids=[7], scale=(2, 4), translation=(3, 1))
    wanted = np.zeros((6, 9), "u8")
    wanted[1:5, 3:7] = 7
    np.testing.assert_array_equal(labels[...], wanted)


def test_polygons_may_be_a_geodataframe() -> None:
    geopandas = pytest.importorskip("geopandas")
    polygons = stars(4, 5)
    frame = geopandas.GeoDataFrame(geometry=polygons)
    assert hc.polygon_labels(frame, SHAPE).facts() == hc.polygon_labels(polygons, SHAPE).facts()


def test_polygons_of_a_geoparquet_file_are_read_in_its_order(tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    polygons = stars(4, 5)
    geopandas.GeoDataFrame(geometry=polygons).to_parquet(tmp_path / "cells.parquet")
    found = hc.read_polygons(tmp_path / "cells.parquet", SHAPE)
    assert found.facts() == hc.polygon_labels(polygons, SHAPE).facts()
    (tmp_path / "none.parquet").write_text("none")
    for name in ("none.parquet", "missing.parquet"):
        with pytest.raises(hc.InputError, match=f"{name}: cannot be read as GeoParquet"):
            hc.read_polygons(tmp_path / name, SHAPE)


SQUARE = np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0]])


@pytest.mark.parametrize(
    ("polygons", "options", "told"),
    [
        ([SQUARE, SQUARE[:2]], {}, "a ring of polygon 1 is no array of three or more corners"),
        ([SQUARE * np.nan], {}, "a ring of polygon 0"),
        ([SQUARE], {"ids": [1, 2]}, "2 different labels for 1 polygons"),
        ([SQUARE, SQUARE], {"ids": [3, 3]}, "1 different labels for 2 polygons"),
        ([shapely.Point(3, 4)], {}, r"0 is no polygon, but of type Point: .*\.buffer\(radius\)"),
        ([SQUARE, None], {}, "polygon 1 is no polygon, but of type NoneType"),
        (["text"], {}, "polygon 0 is no polygon, but of type str"),
        (shapely.box(0, 0, 2, 2), {}, "one Polygon: give a list of polygons"),
        ([SQUARE], {"scale": (1, 2, 3)}, "scale = .*: give a number, or two"),
        ([SQUARE], {"scale": 0}, "scale = 0: 0 leaves nothing"),
        ([SQUARE], {"translation": np.nan}, "translation = nan: give a number, or two"),
        ([SQUARE], {"shape": (3, *SHAPE)}, "shape = .*: give the image's pixels along y and x"),
    ],
)
def test_polygons_that_are_none_are_told_in_one_line(
    polygons: Any, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(hc.InputError, match=told):
        hc.polygon_labels(polygons, **{"shape": SHAPE, **options})


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"type": "Topology"}', '{"features": []}'])
def test_a_file_without_polygons_is_told(content: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.geojson"
    path.write_text(content)
    with pytest.raises(hc.InputError, match=r"cells\.geojson: (cannot be read|there is no)"):
        hc.read_polygons(path, SHAPE)


def test_polygons_have_neighbours_by_distance_alone() -> None:
    labels = hc.polygon_labels(stars(1, 3), SHAPE)
    assert hc.aggregate_stats(None, labels, "area", neighbors=100).obsp
    with pytest.raises(hc.InputError, match="polygons may overlap"):
        hc.aggregate_stats(None, labels, "area", neighbors="touching")
