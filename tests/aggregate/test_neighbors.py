"""Neighbours of instances, against every pair of pixels and of centroids."""

from __future__ import annotations

import tempfile
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cases import FORMS, Case, as_form, cases, threads, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import geometry, labels_in

import harpy_core as hc
from harpy_core.aggregate import neighbors
from harpy_core.aggregate.fields import join_tables
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.kernels import engine as kernels_of
from harpy_core.tiles.runs import encode_runs

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client


def borders(labels: np.ndarray) -> np.ndarray:
    """Number of sides that each pair of labels shares, by id."""
    ids = labels_in(labels).tolist()
    place = {label: i for i, label in enumerate(ids)}
    found = np.zeros((len(ids), len(ids)))
    for axis in range(labels.ndim):
        along = np.moveaxis(labels, axis, 0)
        for a, b in zip(along[:-1].ravel().tolist(), along[1:].ravel().tolist(), strict=True):
            if a and b and a != b:
                found[place[a], place[b]] += 1
                found[place[b], place[a]] += 1
    return found


def measured(case: Case, form: str, engine: str, **options: Any) -> AnnData:
    """Neighbours of a case, of labels alone."""
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        return hc.aggregate_stats(None, labels, "area", engine=engine, **options)


@given(
    cases(dtypes=("u1",)),
    st.sampled_from(FORMS),
    st.sampled_from(["numba", "numpy"]),
    st.sampled_from([1, 3]),
)
def test_instances_that_touch_are_those_with_sides_in_common(
    case: Case, form: str, engine: str, number: int
) -> None:
    with threads(number):
        found = measured(case, form, engine, neighbors="touching").obsp
    expected = borders(case.labels)
    _, centroid, _ = geometry(case.labels)
    far = np.linalg.norm(centroid[:, np.newaxis] - centroid, axis=2)
    np.testing.assert_array_equal(found["spatial_borders"].toarray(), expected)
    np.testing.assert_array_equal(found["spatial_connectivities"].toarray(), expected > 0)
    distances = np.where(expected > 0, far, 0)
    np.testing.assert_allclose(found["spatial_distances"].toarray(), distances, 1e-12)


def test_of_faces_only_those_wait_that_meet_another_tile() -> None:
    labels = np.ones((1, 6, 6), "u1")
    kernels = kernels_of("numpy")
    table, runs = neighbors.ContactTable(kernels.LabelIndex()), encode_runs(labels, kernels)
    extent = (1, 12, 12)
    for y, x in np.ndindex(2, 2):
        region = ((0, 1), (6 * y, 6 * y + 6), (6 * x, 6 * x + 6))
        part = neighbors.ContactPart.of(runs, labels, kernels, region, extent)
        sizes = [None if face is None else face.size for face in (*part.low, *part.high)]
        assert sizes == [
            None,
            6 * y or None,
            6 * x or None,
            None,
            6 - 6 * y or None,
            6 - 6 * x or None,
        ]
        table.add(region, runs.ids, part)
    assert not table._faces


@given(cases(dtypes=("u1",)), st.sampled_from([1.5, 4.0, 100.0]))
def test_instances_are_close_by_their_centroids(case: Case, distance: float) -> None:
    found = measured(case, "zarr", "numba", neighbors=distance)
    _, centroid, _ = geometry(case.labels)
    expected = np.zeros((len(centroid), len(centroid)))
    for i, j in combinations(range(len(centroid)), 2):
        far = float(np.linalg.norm(centroid[i] - centroid[j]))
        expected[i, j] = expected[j, i] = far if far <= distance else 0
    np.testing.assert_allclose(found.obsp["spatial_distances"].toarray(), expected, 1e-12)
    assert "spatial_borders" not in found.obsp


def test_centroids_that_are_just_as_far_apart_as_the_distance_are_close() -> None:
    labels = np.arange(1, 50, dtype="u1").reshape(7, 7)
    places = np.argwhere(labels)
    squares = ((places[:, np.newaxis] - places) ** 2).sum(axis=2)
    for square in np.unique(squares[squares > 0]):
        found = hc.aggregate_stats(None, labels, "area", neighbors=float(np.sqrt(square)))
        expected = (squares > 0) & (squares <= square)
        np.testing.assert_array_equal(found.obsp["spatial_connectivities"].toarray(), expected)


def test_borders_and_distances_have_the_unit_of_the_sides_of_pixels() -> None:
    labels = np.array([[1, 1, 2], [3, 3, 2]], "u1")
    found = hc.aggregate_stats(None, labels, "area", spacing=(2.0, 0.5), neighbors="touching")
    assert found.obsp["spatial_borders"].toarray().tolist() == [[0, 2, 1], [2, 0, 2], [1, 2, 0]]
    assert found.obsp["spatial_distances"].toarray()[0, 2] == 2.0
    near = hc.aggregate_stats(None, labels, "area", spacing=(2.0, 0.5), neighbors=1.5)
    assert near.obsp["spatial_connectivities"].toarray().tolist() == [
        [0, 1, 0],
        [1, 0, 1],
        [0, 1, 0],
    ]


def test_neighbours_are_those_among_the_labels_asked_for() -> None:
    labels = np.array([[5, 7, 9]], "u1")
    found = hc.aggregate_stats(None, labels, "area", index=[9, 4, 7], neighbors="touching")
    assert found.obsp["spatial_borders"].toarray().tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    near = hc.aggregate_stats(None, labels, "area", index=[9, 4, 7], neighbors=5)
    assert near.obsp["spatial_distances"].toarray().tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("form", ["zarr", "dask"])
def test_workers_find_the_neighbours_that_threads_find(
    form: str, client: Client, tmp_path: Path
) -> None:
    labels = np.random.default_rng(0).integers(0, 9, (3, 30, 30)).astype("u4")
    stored = as_form(form, labels, (2, 11, 13), tmp_path, "labels")
    with tiles_of(1):
        found = hc.aggregate_stats(
            labels[np.newaxis], stored, ("mean",), neighbors="touching", client=client
        )
    assert found.obsp["spatial_borders"].toarray().tolist() == borders(labels).tolist()


def test_a_table_on_disk_and_one_of_several_fields_have_the_neighbours(tmp_path: Path) -> None:
    import anndata

    labels = np.random.default_rng(0).integers(0, 5, (20, 20)).astype("u4")
    image = np.ones((3, 20, 20), "u2")
    for field in ("a", "b"):
        aggregate_to_store(
            image,
            labels,
            tmp_path / f"{field}.zarr",
            hc.find_instances(labels),
            slab_bytes=1,
            neighbors="touching",
        )
    alone = anndata.read_zarr(tmp_path / "a.zarr").obsp["spatial_borders"].toarray()
    assert alone.tolist() == borders(labels).tolist()
    join_tables({f: tmp_path / f"{f}.zarr" for f in ("a", "b")}, tmp_path / "both.zarr")
    both = anndata.read_zarr(tmp_path / "both.zarr").obsp["spatial_borders"].toarray()
    assert both[:4, :4].tolist() == both[4:, 4:].tolist() == alone.tolist()
    assert not both[:4, 4:].any()


@pytest.mark.parametrize("given_neighbors", ["near", 0, -1.0, float("nan"), True, [30]])
def test_what_neighbours_cannot_be_is_told_in_one_line(given_neighbors: Any) -> None:
    with pytest.raises(hc.InputError, match=r"neighbors = .*: give touching, or the longest"):
        hc.aggregate_stats(None, np.ones((2, 2), "u1"), "area", neighbors=given_neighbors)


def test_more_pairs_than_can_be_held_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "MOST_BYTES", 400)
    labels = np.arange(1, 10, dtype="u1").reshape(3, 3)
    with pytest.raises(hc.InputError, match="36 pairs of instances are that close"):
        hc.aggregate_stats(None, labels, "area", neighbors=10)
