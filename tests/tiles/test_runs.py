"""The run table against the label tile it was made of."""

from __future__ import annotations

import numpy as np
import pytest
from cases import Case, cases
from hypothesis import given
from oracle import geometry, labels_in, spatial

from harpy_core import InputError
from harpy_core.kernels import engine
from harpy_core.kernels.layout import LONGEST_RUN
from harpy_core.tiles.runs import RunTable, encode_runs, measure_geometry

ENGINES = ("numpy", "numba")


def painted(runs: RunTable, shape: tuple[int, ...], stride: tuple[int, int]) -> np.ndarray:
    """The label tile that the runs stand for, padded to `stride`."""
    plane = np.zeros(shape[0] * stride[0] * stride[1], np.uint64)
    for start, length, slot in zip(runs.start, runs.length, runs.slot, strict=True):
        assert np.all(plane[start : start + length] == 0)
        plane[start : start + length] = runs.ids[slot]
    return plane.reshape(shape[0], *stride)


@given(cases(dtypes=("u1",)))
def test_runs_stand_for_the_labels_and_both_engines_find_the_same(case: Case) -> None:
    labels = spatial(case.image, case.labels)[1]
    depth, height, width = labels.shape
    for padding in (0, 3):
        stride = (height + padding, width + padding)
        tables = [encode_runs(labels, engine(name), (depth, *stride)) for name in ENGINES]
        for runs in tables:
            inside = painted(runs, labels.shape, stride)
            np.testing.assert_array_equal(inside[:, :height, :width], labels.astype("u8"))
            assert not inside[:, height:].any()
            assert not inside[:, :, width:].any()
            np.testing.assert_array_equal(np.sort(runs.ids), labels_in(labels))
        for name in ("start", "length", "slot", "ids"):
            ours, theirs = (getattr(table, name) for table in tables)
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype


@given(cases(dtypes=("u1",)))
def test_geometry_is_that_of_the_labels(case: Case) -> None:
    labels = spatial(case.image, case.labels)[1]
    for name in ENGINES:
        runs = encode_runs(labels, engine(name))
        found = measure_geometry(runs, engine(name), (4, 50, 600))
        order = np.argsort(runs.ids)
        count, centroid, box = geometry(labels)
        totals = found.totals[order]
        np.testing.assert_array_equal(totals[:, 0], count)
        np.testing.assert_allclose(
            totals[:, 1:] / totals[:, :1], centroid + np.array([4, 50, 600]), rtol=1e-12
        )
        np.testing.assert_array_equal(found.box[order], box + np.array([4, 50, 600] * 2))


@pytest.mark.parametrize("name", ENGINES)
def test_runs_are_maximal_but_never_longer_than_sums_can_take(name: str) -> None:
    labels = np.full((1, 2, 3 * LONGEST_RUN + 5), 9, "u4")
    runs = encode_runs(labels, engine(name))
    assert runs.length.tolist() == 2 * [LONGEST_RUN, LONGEST_RUN, LONGEST_RUN, 5]
    labels = np.array([[[1, 1, 2, 0, 0, 2, 2, 1]]], "u4")
    runs = encode_runs(labels, engine(name))
    assert runs.start.tolist() == [0, 2, 5, 7]
    assert runs.ids[runs.slot].tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize("name", ENGINES)
def test_many_labels_in_one_tile_are_kept_apart(name: str) -> None:
    rng = np.random.default_rng(0)
    labels = rng.permutation(200_000).astype("u8").reshape(1, 400, 500) * np.uint64(2**46)
    runs = encode_runs(labels, engine(name))
    assert runs.slots == 200_000 - 1
    np.testing.assert_array_equal(runs.ids[runs.slot], labels.ravel()[runs.start])


@pytest.mark.parametrize("name", ENGINES)
def test_negative_labels_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"labels hold -3: .*renumber"):
        encode_runs(np.array([[[0, -3, 2]]], "i4"), engine(name))
