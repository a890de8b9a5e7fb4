"""The label pass against SciPy."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cases import FORMS, Case, as_form, cases, counted_reads, threads, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import geometry, labels_in

import harpy_core as hc
from harpy_core.instances.finding import Instances
from harpy_core.kernels import engine as kernels_of

if TYPE_CHECKING:
    from distributed import Client


def assert_equal(found: Instances, other: Instances) -> None:
    for name in Instances.__slots__:
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name), err_msg=name)


@given(
    cases(dtypes=("u1",)),
    st.sampled_from(FORMS),
    st.sampled_from(["numpy", "numba"]),
    st.sampled_from([1, 3]),
)
def test_instances_are_those_that_scipy_finds(
    case: Case, form: str, engine: str, number: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile), threads(number):
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        found = hc.find_instances(labels, engine=engine)
    count, centroid, box = geometry(case.labels)
    np.testing.assert_array_equal(found.id, labels_in(case.labels))
    np.testing.assert_array_equal(found.count, count)
    np.testing.assert_allclose(found.centroid, centroid, rtol=1e-12)
    np.testing.assert_array_equal(found.bbox, box)
    assert [getattr(found, n).dtype.str[1:] for n in Instances.__slots__] == [
        "u8",
        "i8",
        "f8",
        "i8",
    ]


def test_a_cell_in_pieces_over_every_chunk_is_one_instance(tmp_path: Any) -> None:
    labels = np.zeros((20, 20), "u8")
    labels[::3, ::2] = 2**64 - 1
    found = hc.find_instances(as_form("zarr", labels, (1, 1), tmp_path))
    assert found.id.tolist() == [2**64 - 1]
    assert found.count.tolist() == [70]
    assert found.centroid.tolist() == [[0.0, 9.0, 9.0]]
    assert found.bbox.tolist() == [[0, 0, 0, 1, 19, 19]]


def test_workers_find_what_threads_find(client: Client, tmp_path: Any) -> None:
    labels = np.random.default_rng(0).integers(0, 900, (3, 60, 60)).astype("u4")
    for form in ("numpy", "zarr", "dask"):
        with tiles_of(1):
            given = as_form(form, labels, (2, 20, 25), tmp_path, "labels")
            assert_equal(hc.find_instances(given, client=client), hc.find_instances(labels))


def test_each_label_chunk_is_decoded_once(tmp_path: Any) -> None:
    labels = as_form("zarr", np.ones((30, 40), "u4"), (7, 9), tmp_path)
    for tile in (1, 300):
        with tiles_of(tile), counted_reads(labels) as reads:
            hc.find_instances(labels)
        assert len(reads) == 5 * 5
        assert set(reads.values()) == {1}


def test_instances_are_read_back_as_they_were_written(tmp_path: Any) -> None:
    for labels in (
        np.arange(64, dtype="u8").reshape(8, 8) << np.uint64(58),
        np.zeros((4, 4), "u1"),
    ):
        found = hc.find_instances(labels)
        found.write(tmp_path / "instances.zarr")
        assert_equal(Instances.read(tmp_path / "instances.zarr"), found)
        assert [p.name for p in tmp_path.iterdir()] == ["instances.zarr"]


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_rows_are_given_in_the_order_of_meeting_and_kept(engine: str) -> None:
    rng = np.random.default_rng(0)
    index, known = kernels_of(engine).LabelIndex(), {}
    for _ in range(40):
        ids = np.unique(rng.integers(1, 5000, 300)).astype(np.uint64) * np.uint64(2**50)
        rng.shuffle(ids)
        for label in ids.tolist():
            known.setdefault(label, len(known))
        assert index.rows(ids).tolist() == [known[label] for label in ids.tolist()]
    assert index.ids.tolist() == list(known)
    assert len(index) == len(known)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.full((3, 3), -2, "i8"), "labels hold -2"),
        (np.full((3, 3), 0.5, "f4"), "labels are float32"),
        (np.ones(3, "u4"), "labels have 1 axes"),
    ],
)
def test_bad_labels_are_told_in_one_line(labels: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        hc.find_instances(labels)
    assert isinstance(error.value, hc.InputError)
    assert "\n" not in str(error.value)
