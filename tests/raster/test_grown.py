"""Grown labels, rings and differences against scikit-image and against every pixel."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from cases import Case, as_form, cases, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from skimage import segmentation

import harpy_core as hc
from harpy_core.raster import Raster

if TYPE_CHECKING:
    from distributed import Client

DISTANCES = (0.0, 1.0, 1.5, 2.9, 7.0)


def grown(labels: np.ndarray, inner: float | None, outer: float) -> np.ndarray:
    """The nearest label of every pixel, of several the smallest, by looking at all pixels."""
    places = np.argwhere(labels)
    found = np.zeros_like(labels)
    for pixel in np.ndindex(labels.shape):
        if len(places) == 0:
            break
        squares = ((places - np.array(pixel)) ** 2).sum(axis=1)
        near = squares.min()
        if near <= outer**2 and (inner is None or near > inner**2):
            found[pixel] = min(labels[tuple(p)] for p in places[squares == near])
    return found


def read(labels: Any) -> np.ndarray:
    """All of some labels, tile by tile."""
    raster = Raster.of(None, labels)
    if raster.lazy:
        return np.asarray(labels)
    from harpy_core.running.tasks import label_tasks

    shape = labels.shape if labels.ndim == 3 else (1, *labels.shape)
    found = np.zeros(shape, labels.dtype)
    for task in label_tasks(raster):
        found[tuple(slice(a, b) for a, b in task.region)] = task.detached().read_labels()
    return found.reshape(labels.shape)


@given(
    cases(dtypes=("u1",)),
    st.sampled_from(["numpy", "zarr", "dask"]),
    st.sampled_from(DISTANCES),
    st.sampled_from([None, 0.0, 1.0, 2.0]),
)
def test_labels_grow_as_on_the_whole_image(
    case: Case, form: str, outer: float, inner: float | None
) -> None:
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        if inner is None:
            made = hc.expand_labels(labels, outer)
        elif inner < outer:
            made = hc.label_rings(labels, inner, outer)
        else:
            return
        found = read(made)
    np.testing.assert_array_equal(found, grown(case.labels, inner, outer))
    assert found.dtype == case.labels.dtype


@given(cases(dtypes=("u1",)), st.sampled_from(DISTANCES))
def test_labels_grow_as_in_scikit_image_where_one_is_nearest(case: Case, distance: float) -> None:
    labels = case.labels.astype(np.int64) if case.labels.max(initial=0) < 2**62 else case.labels
    expected = segmentation.expand_labels(labels, distance)
    found = read(hc.expand_labels(labels, distance))
    far = [ndimage.distance_transform_edt(labels != label) for label in np.unique(labels) if label]
    alone = np.ones(labels.shape, bool)
    if far:
        alone = (np.isclose(far, np.min(far, axis=0))).sum(axis=0) == 1
    np.testing.assert_array_equal(found[alone], expected[alone])
    np.testing.assert_array_equal(found > 0, expected > 0)


@given(cases(dtypes=("u1",)), st.sampled_from(["numpy", "zarr", "dask"]))
def test_what_others_have_is_taken_away(case: Case, form: str) -> None:
    others = np.roll(case.labels, 3)
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        without = as_form(form, others, case.labels.shape, folder, "labels")
        found = read(hc.subtract_labels(labels, without))
    np.testing.assert_array_equal(found, np.where(others == 0, case.labels, 0))


def test_labels_are_made_of_labels_that_are_made(tmp_path: Path) -> None:
    labels = np.zeros((30, 30), "u2")
    labels[5:9, 6:9], labels[20, 20] = 3, 9
    stored = as_form("zarr", labels, (7, 8), tmp_path, "labels")
    with tiles_of(1):
        twice = hc.expand_labels(hc.expand_labels(stored, 2), 1)
        ring = hc.subtract_labels(twice, hc.subtract_labels(hc.expand_labels(stored, 1), stored))
        found = read(ring)
    first = grown(labels, None, 2)
    expected = np.where((grown(labels, None, 1) == 0) | (labels > 0), grown(first, None, 1), 0)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(ring[4:9, ::2], expected[4:9, ::2])


@pytest.mark.parametrize("form", ["zarr", "dask"])
def test_jobs_take_grown_labels(form: str, client: Client, tmp_path: Path) -> None:
    labels = np.kron(np.arange(1, 26, dtype="u4").reshape(5, 5), np.ones((9, 7), "u4"))
    labels[np.arange(45) % 9 < 5] = 0
    image = np.random.default_rng(0).integers(0, 99, (2, *labels.shape)).astype("u2")
    stored = as_form(form, labels, (10, 6), tmp_path, "labels")
    pixels = as_form(form, image, (1, 11, 13), tmp_path)
    ring, whole = hc.label_rings(stored, 1, 3), grown(labels, 1, 3)
    with tiles_of(1):
        for workers in (None, client):
            found = hc.aggregate_stats(pixels, ring, ("mean", "median", "area"), client=workers)
            expected = hc.aggregate_stats(image, whole, ("mean", "median", "area"))
            assert found.obs.equals(expected.obs)
            for name in ("mean", "median"):
                np.testing.assert_array_equal(found.layers[name], expected.layers[name])
    crops = hc.extract_instances(pixels, ring, tmp_path / "crops", diameter=9)
    plain = hc.extract_instances(image, whole, tmp_path / "plain", diameter=9)
    np.testing.assert_array_equal(crops.image[...], plain.image[...])


@pytest.mark.parametrize("form", ["numpy", "zarr", "dask"])
def test_a_distance_may_be_longer_than_the_image(form: str, tmp_path: Path) -> None:
    labels = np.zeros((1, 3, 5), "u4")
    labels[0, 1, 1:4:2] = 8, 3
    stored = as_form(form, labels, (1, 2, 2), tmp_path, "labels")
    np.testing.assert_array_equal(read(hc.expand_labels(stored, 10)), grown(labels, None, 10))
    np.testing.assert_array_equal(read(hc.label_rings(stored, 1, 99.5)), grown(labels, 1, 99.5))


def test_labels_grow_from_all_that_the_jobs_take() -> None:
    labels = np.zeros((4, 6), "i8")
    labels[1, 1], labels[3, 4] = 5, 7
    turned = xr.DataArray(labels.T, dims=("x", "y"))
    for given_labels in (labels.astype("f4"), turned, turned.chunk(x=3), da.from_array(labels)):
        for made, expected in (
            (hc.expand_labels(given_labels, 2), grown(labels, None, 2)),
            (hc.label_rings(given_labels, 1, 3), grown(labels, 1, 3)),
            (hc.subtract_labels(given_labels, labels == 5), np.where(labels == 7, 7, 0)),
            (hc.subtract_labels(labels, given_labels == 5), np.where(labels == 7, 7, 0)),
        ):
            np.testing.assert_array_equal(read(made), expected)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([[0, -3], [0, 2]]), "labels hold -3: labels must be 0"),
        (np.array([[0, 1.5], [0, 2]]), "labels are float64, and one is 1.5"),
        (np.array([[False, True]]), "labels are bool, a binary mask"),
    ],
)
def test_labels_that_the_jobs_refuse_do_not_grow(labels: Any, told: str, lazy: bool) -> None:
    with pytest.raises(hc.InputError, match=told):
        read(hc.label_rings(da.from_array(labels) if lazy else labels, 0, 1))


def test_grown_labels_are_another_input_than_those_they_are_made_of() -> None:
    labels = np.eye(5, dtype="u1")
    made = [labels, hc.expand_labels(labels, 1), hc.expand_labels(labels, 2)]
    made += [hc.label_rings(labels, 1, 2), hc.subtract_labels(labels, labels)]
    assert len({Raster.of(None, one).fingerprint for one in made}) == len(made)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda x: hc.expand_labels(x, -1), "distance = -1: a distance is a number from 0 to 10,"),
        (lambda x: hc.expand_labels(x, float("nan")), "distance = nan"),
        (lambda x: hc.expand_labels(x, "near"), "distance = near: a distance is a number"),
        (lambda x: hc.label_rings(x, 2, 2), "inner = 2, outer = 2: a ring's outer"),
        (lambda x: hc.subtract_labels(x, x[:2]), r"labels \(4, 4\) and others \(2, 4\)"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(make: Any, told: str) -> None:
    for labels in (np.zeros((4, 4), "u1"), da.zeros((4, 4), dtype="u1")):
        with pytest.raises(hc.InputError, match=told):
            make(labels)
