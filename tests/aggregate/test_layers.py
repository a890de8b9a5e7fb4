"""Several layers in one read, against each of them alone."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
import zarr
from cases import Case, as_form, cases, counted_reads, threads, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import labels_in
from tables import tissue

import harpy_core as hc
from harpy_core.aggregate.layers import made_layers, opened_layers
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.config.measures import Layer
from harpy_core.raster import Raster, describe, open_described

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client

STATS = ("mean", "max", "median", "area", "perimeter_crofton", "euler_number")


def parents(labels: np.ndarray, first: np.ndarray) -> tuple[list[int], list[int]]:
    """The label of another layer that has most of each instance's pixels, and how many it has."""
    found, shared = [], []
    for label in labels_in(labels):
        under = first[labels == label]
        each, count = np.unique(under[under > 0], return_counts=True)
        found.append(int(each[np.argmax(count)]) if len(each) else 0)
        shared.append(int(count.max(initial=0)))
    return found, shared


def assert_same_table(found: AnnData, expected: AnnData) -> None:
    alone = [name for name in found.obs if name not in ("parent", "overlap", "region")]
    assert found.obs[alone].equals(expected.obs[alone])
    assert list(found.layers) == list(expected.layers)
    for name in found.layers:
        np.testing.assert_array_equal(found.layers[name], expected.layers[name], err_msg=name)
    np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])


@given(
    cases(dtypes=("u2",), depths=False),
    st.sampled_from(["numpy", "zarr", "dask"]),
    st.sampled_from(["numba", "numpy"]),
    st.sampled_from([1, 4]),
)
def test_layers_have_the_tables_that_they_have_alone_and_their_parents(
    case: Case, form: str, engine: str, number: int
) -> None:
    others = np.roll(case.labels, (2, 1), (0, 1))
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile), threads(number):
        image = as_form(form, case.image, case.image_chunks, folder)
        cells = as_form(form, case.labels, case.label_chunks, folder, "labels")
        nuclei = as_form(form, others, case.labels.shape, folder, "labels")
        layers = {"cell": cells, "nucleus": nuclei, "rest": hc.subtract_labels(cells, nuclei)}
        found = hc.aggregate_layers(image, layers, STATS, engine=engine)
    rest = np.where(others == 0, case.labels, 0)
    assert list(found) == ["cell", "nucleus", "rest"]
    for (name, table), labels in zip(found.items(), (case.labels, others, rest), strict=True):
        assert_same_table(table, hc.aggregate_stats(case.image, labels, STATS))
        assert table.uns["spatialdata_attrs"]["region"] == name
        if name != "cell":
            expected, shared = parents(labels, case.labels)
            assert table.obs["parent"].tolist() == expected
            assert table.obs["overlap"].tolist() == shared
    assert "parent" not in found["cell"].obs


def test_of_two_parents_with_as_many_pixels_the_smaller_label_is_taken() -> None:
    cells = np.array([[9, 9, 4, 4, 0, 0]], "u2")
    nuclei = np.array([[0, 5, 5, 0, 0, 7]], "u2")
    found = hc.aggregate_layers(None, {"cell": cells, "nucleus": nuclei}, "area")["nucleus"]
    assert found.obs["parent"].tolist() == [4, 0]
    assert found.obs["overlap"].tolist() == [1, 0]


@pytest.mark.parametrize("number", [1, 8])
def test_each_chunk_of_the_image_is_decoded_once_for_all_layers(
    number: int, tmp_path: Path
) -> None:
    case = tissue("u2")
    image = as_form("zarr", case.image, (1, 4, 5), tmp_path)
    layers = {
        "cell": as_form("zarr", case.labels + 1, (7, 6), tmp_path),
        "grown": hc.expand_labels(as_form("zarr", case.labels, (30, 30), tmp_path), 2),
        "none": np.zeros_like(case.labels),
    }
    with tiles_of(1), threads(number), counted_reads(image) as reads:
        found = hc.aggregate_layers(image, layers, ("mean", "median"))
    assert len(reads) == 3 * 8 * 6
    assert set(reads.values()) == {1}
    assert len(found["none"]) == 0


@pytest.mark.parametrize("form", ["zarr", "dask"])
def test_workers_measure_the_layers_that_threads_measure(
    form: str, client: Client, tmp_path: Path
) -> None:
    case = tissue("u2")
    image = as_form(form, case.image, case.image_chunks, tmp_path)
    cells = as_form(form, case.labels, case.label_chunks, tmp_path, "labels")
    layers = {"cell": cells, "ring": hc.label_rings(cells, 0, 1)}
    with tiles_of(1):
        found = hc.aggregate_layers(image, layers, STATS, client=client, neighbors="touching")
        expected = hc.aggregate_layers(image, layers, STATS, neighbors="touching")
    for name, table in found.items():
        assert_same_table(table, expected[name])
        assert table.obs.equals(expected[name].obs)
        borders = (
            one.obsp["spatial_borders"].toarray().tolist() for one in (table, expected[name])
        )
        assert next(borders) == next(borders)


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ({}, "labels: none given"),
        (
            {"cell": np.ones((4, 4), "u1"), "nucleus": np.ones((4, 5), "u1")},
            r"'cell' \(4, 4\) and 'nucleus' \(4, 5\) do not cover the same pixels",
        ),
    ],
)
def test_layers_that_cannot_be_measured_are_told_in_one_line(
    layers: dict[str, Any], told: str
) -> None:
    with pytest.raises(hc.InputError, match=told):
        hc.aggregate_layers(None, layers, "area")


def test_a_store_has_the_rows_of_all_layers_in_one_table(tmp_path: Path) -> None:
    case = tissue("u2")
    others = np.roll(case.labels, 2, 0)
    layers = {"nucleus": others, "none": np.zeros_like(others)}
    instances = hc.find_instances(case.labels)
    aggregate_to_store(
        case.image,
        case.labels,
        tmp_path / "table.zarr",
        instances,
        ("mean", "median", "area"),
        region="cell",
        layers=layers,
        slab_bytes=1,
        neighbors="touching",
    )
    found = anndata.read_zarr(tmp_path / "table.zarr")
    expected = hc.aggregate_layers(
        case.image, {"cell": case.labels, **layers}, ("mean", "median", "area")
    )
    assert list(found.obs["region"]) == ["cell"] * 9 + ["nucleus"] * 9
    assert list(found.obs_names[8:10]) == ["cell-83", "nucleus-3"]
    assert list(found.uns["spatialdata_attrs"]["region"]) == ["cell", "nucleus", "none"]
    assert found.obs["parent"].tolist() == [0] * 9 + expected["nucleus"].obs["parent"].tolist()
    for name in ("mean", "median"):
        rows = [expected[layer].layers[name] for layer in ("cell", "nucleus")]
        np.testing.assert_array_equal(found.layers[name], np.concatenate(rows))
    np.testing.assert_array_equal(found.X, found.layers["mean"])


def test_a_layer_may_not_have_the_name_of_the_labels() -> None:
    raster = Raster.of(None, {"cell": np.ones((3, 3), "u1")})
    section = {"labels": None, "of": None, "expand": 1.0, "ring": None, "without": None}
    with pytest.raises(hc.InputError, match="'cell' is the name of the labels too"):
        made_layers({"cell": section}, raster, {})


def test_a_layer_may_be_a_file_of_polygons(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("image", data=np.ones((2, 12, 12), "u2"))
    group.create_array("labels", data=np.ones((12, 12), "u2"))
    corners = [[2, 2], [8, 2], [8, 5], [2, 5], [2, 2]]
    geometry = {"type": "Polygon", "coordinates": [corners]}
    (tmp_path / "cells.geojson").write_text(json.dumps([{"geometry": geometry}]))
    info = describe(tmp_path / "a.zarr", image="image", labels="labels")
    moved = Layer(labels="cells.geojson", scale=0.5, translation=[4, 1])
    named = {"cell": Layer(labels="cells.geojson"), "moved": moved}
    sections = {name: layer.model_dump() for name, layer in named.items()}
    layers = made_layers(sections, open_described(info), opened_layers(info, sections))
    found = hc.aggregate_layers(None, {"all": np.ones((12, 12), "u2"), **layers}, "area")
    assert found["cell"].obs["area"].tolist() == [18.0]
    assert found["cell"].obs["parent"].tolist() == [1]
    # From x = 2, y = 5 to x = 5, y = 6.5: a row of centres lies on its edge.
    assert found["moved"].obsm["spatial"][0, 0] == 3.0
    assert found["moved"].obsm["spatial"][0, 1] in (5.0, 5.5)


# Derived columns ----------------------------------------------------------------------------------

DERIVED = {
    "signal": "mean - ring.mean",
    "balance": "nucleus.mean / cytoplasm.mean",
    "variation": "std / mean",
    "fraction": "nucleus.area / cell.area",
}


def ring(labels: np.ndarray, outer: float) -> np.ndarray:
    """Background no farther from a label than `outer`: the nearest one's, of several the least."""
    found = np.zeros_like(labels)
    inside = np.argwhere(labels)
    for place in np.argwhere(labels == 0):
        away = ((inside - place) ** 2).sum(axis=1)
        if len(away) and away.min() <= outer**2:
            found[tuple(place)] = labels[tuple(inside[away == away.min()].T)].min()
    return found


def quotient(one: Any, other: Any) -> np.ndarray:
    """Quotients in plain Python; NaN where there is nothing to divide by."""
    pairs = zip(np.ravel(one).tolist(), np.ravel(other).tolist(), strict=True)
    return np.array([a / b if b else np.nan for a, b in pairs])


@given(
    cases(dtypes=("u2",), depths=False),
    st.sampled_from(["numpy", "zarr", "dask"]),
    st.sampled_from(["numpy", "zarr"]),
    st.sampled_from(["numba", "numpy"]),
)
def test_derived_columns_are_arithmetic_on_the_pixels_of_two_layers(
    case: Case, pixels_form: str, form: str, engine: str
) -> None:
    nuclei = np.roll(case.labels, (2, 1), (0, 1))
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        image = as_form(pixels_form, case.image, case.image_chunks, folder)
        cells = as_form(form, case.labels, case.label_chunks, folder, "labels")
        layers = {
            "cell": cells,
            "nucleus": nuclei,
            "cytoplasm": hc.subtract_labels(cells, nuclei),
            "ring": hc.label_rings(cells, 0, 2),
        }
        found = hc.aggregate_layers(
            image, layers, ("mean", "std", "area"), engine=engine, derived=DERIVED
        )
    pixels = case.image[:, case.labels >= 0].astype(float)
    flat = {
        "cell": case.labels.ravel(),
        "nucleus": nuclei.ravel(),
        "cytoplasm": np.where(nuclei == 0, case.labels, 0).ravel(),
    }
    flat["ring"] = ring(case.labels, 2).ravel()

    def mean(layer: str, label: int) -> np.ndarray:
        inside = pixels[:, flat[layer] == label] if label else pixels[:, :0]
        return inside.mean(axis=1) if inside.size else np.full(len(pixels), np.nan)

    cell, nucleus = found["cell"], found["nucleus"]
    assert "balance" not in cell.layers
    assert "signal" not in nucleus.layers
    for row, label in enumerate(cell.obs["instance_id"]):
        signal = mean("cell", label) - mean("ring", label)
        np.testing.assert_allclose(cell.layers["signal"][row], signal, rtol=1e-12, atol=1e-9)
        spread = pixels[:, flat["cell"] == label].std(axis=1)
        np.testing.assert_allclose(
            cell.layers["variation"][row], quotient(spread, mean("cell", label)), rtol=1e-9
        )
    above = parents(nuclei, case.labels)[0]
    for row, (label, parent) in enumerate(zip(labels_in(nuclei).tolist(), above, strict=True)):
        balance = quotient(mean("nucleus", label), mean("cytoplasm", parent))
        np.testing.assert_allclose(nucleus.layers["balance"][row], balance, rtol=1e-12)
        areas = (flat["nucleus"] == label).sum(), (flat["cell"] == parent).sum() if parent else 0
        np.testing.assert_allclose(nucleus.obs["fraction"].iloc[row], quotient(*areas)[0])


def test_a_quotient_of_nothing_is_nan_for_whole_numbers_and_shapes_alike() -> None:
    image = np.zeros((1, 1, 6), "u2")
    image[0, 0, :2] = 3
    cells = np.array([[5, 5, 5, 8, 8, 0]], "u2")
    nuclei = np.array([[2, 2, 0, 0, 4, 6]], "u2")
    layers = {"cell": cells, "nucleus": nuclei, "rest": hc.subtract_labels(cells, nuclei)}
    derived = {"balance": "nucleus.mean / rest.mean", "difference": "nucleus.mean - rest.mean"}
    found = hc.aggregate_layers(image, layers, "mean", derived=derived)["nucleus"]
    np.testing.assert_array_equal(found.layers["balance"], np.full((3, 1), np.nan))
    np.testing.assert_array_equal(found.layers["difference"], [[3], [0], [np.nan]])


def test_a_store_has_derived_columns_slab_by_slab_and_nan_in_the_rows_of_other_layers(
    tmp_path: Path,
) -> None:
    case = tissue("u2")
    nuclei = np.roll(case.labels, 1, 0)
    layers = {
        "nucleus": nuclei,
        "cytoplasm": hc.subtract_labels(case.labels, nuclei),
        "ring": hc.label_rings(case.labels, 0, 2),
    }
    stats = ("mean", "std", "area")
    derived = {name: text.replace("cell.", "") for name, text in DERIVED.items()}
    aggregate_to_store(
        case.image,
        case.labels,
        tmp_path / "table.zarr",
        hc.find_instances(case.labels),
        stats,
        region="cell",
        layers=layers,
        derived=derived,
        slab_bytes=1,
    )
    found = anndata.read_zarr(tmp_path / "table.zarr")
    tables = hc.aggregate_layers(
        case.image, {"cell": case.labels, **layers}, stats, derived=DERIVED
    )
    assert dict(found.uns["harpy_core"]["derived"]) == derived
    for name, layer in (("signal", "cell"), ("balance", "nucleus"), ("variation", "cell")):
        own = (found.obs["region"] == layer).to_numpy()
        np.testing.assert_array_equal(found.layers[name][own], tables[layer].layers[name])
        assert np.isnan(found.layers[name][~own]).all()
    own = found.obs["region"] == "nucleus"
    fraction = tables["nucleus"].obs["fraction"].to_numpy()
    np.testing.assert_array_equal(found.obs["fraction"][own], fraction)
    assert np.isfinite(fraction).any()
    assert found.obs["fraction"][~own].isna().all()
    np.testing.assert_array_equal(found.X, found.layers["mean"])


@pytest.mark.parametrize(
    ("formula", "told"),
    [
        ("mean/ring.mean", "give two of stats with - or / between spaces"),
        ("mean - rings.mean", "no layer is called rings: there are cell, nucleus, ring"),
        ("mean - ring.median", "ring.median is none of stats: mean, area"),
        ("mean / area", "area is a shape, and mean a statistic of channels"),
        ("cell.mean / nucleus.mean", "an instance of cell may have none or several of nucleus"),
        ("ring.bbox - bbox", "ring.bbox is none of stats"),
        ("ring", "give two of stats with - or / between spaces"),
    ],
)
def test_what_cannot_be_derived_is_told_in_one_line(formula: str, told: str) -> None:
    cells = np.eye(4, dtype="u1")
    layers = {"cell": cells, "nucleus": cells.copy(), "ring": hc.label_rings(cells, 0, 1)}
    with pytest.raises(hc.InputError, match=f"^derived: one = '.*': {told}[^\n]*$"):
        hc.aggregate_layers(
            np.zeros((1, 4, 4), "u2"), layers, ("mean", "area", "bbox"), derived={"one": formula}
        )


@pytest.mark.parametrize("name", ["mean", "parent", "a b"])
def test_a_derived_column_needs_a_name_of_its_own(name: str) -> None:
    cells = np.eye(4, dtype="u1")
    with pytest.raises(hc.InputError, match=f"^derived: '{name}' "):
        hc.aggregate_layers(
            cells[np.newaxis], {"cell": cells}, ("mean", "max"), derived={name: "mean / max"}
        )
