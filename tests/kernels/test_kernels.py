"""The kernels of every engine against each other, and against sums in Python integers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
from cases import NARROW, REAL, WIDE, pixels
from emulated import emulation
from hypothesis import given
from hypothesis import strategies as st

from harpy_core import InputError
from harpy_core.extract.views import View
from harpy_core.kernels import compiled, compiled_index, engine, gpu, layout, reference
from harpy_core.kernels.layout import LONGEST_RUN, bias_of, place_of
from harpy_core.kernels.registry import ENGINES

Table = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(params=["numpy", "numba", "emulated", pytest.param("cupy", marks=pytest.mark.gpu)])
def kernels(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The kernels of each engine, those of cupy on a GPU or on an emulated card."""
    if request.param == "emulated":
        with emulation(request.getfixturevalue("emulator")):
            yield ENGINES["cupy"].load()
    else:
        if request.param == "cupy":
            request.getfixturevalue("gpu")
        yield engine(request.param)


def table(rng: np.random.Generator, plane: int, slots: int) -> Table:
    """Runs of random lengths with random owners, none of them overlapping."""
    length = rng.integers(1, 30, plane // 40)
    start = np.arange(len(length)) * 40 + rng.integers(0, 10, len(length))
    slot = rng.integers(0, slots, len(length))
    slot[:slots] = np.arange(slots)
    return start.astype(np.int64), length.astype(np.int32), slot.astype(np.int32)


def owned(plane: np.ndarray, runs: Table, slot: int) -> list[int]:
    """Pixels of a slot, as Python integers."""
    mine = (plane[s : s + n] for s, n, k in zip(*runs, strict=True) if k == slot)
    return [int(v) for part in mine for v in part]


def whole_number(words: np.ndarray, low: int) -> int:
    return int(words[low]) + (int(words[low + 1]) << 64)


@pytest.mark.parametrize("dtype", NARROW)
def test_powers_of_narrow_pixels_are_summed_without_rounding(
    dtype: str, kernels: ModuleType
) -> None:
    rng = np.random.default_rng(1)
    planes = pixels(rng, (2, 4000), dtype)
    planes[1] = np.iinfo(dtype).max
    runs = table(rng, 4000, 5)
    full, light, simple = (
        kernels.reduce(planes, *runs, 5, loop, False) for loop in ("full", "extremes", "sum")
    )
    powers, extremes = (place_of("narrow", "full", name) for name in ("powers", "extremes"))
    for c, plane in enumerate(planes):
        for slot in range(5):
            x = [v + bias_of(planes.dtype) for v in owned(plane, runs, slot)]
            words = full[slot, c]
            assert int(simple[slot, c, 0]) == int(light[slot, c, 0]) == int(words[0]) == sum(x)
            for place, power in ((layout.SQUARE, 2), (layout.CUBE, 3), (layout.FOURTH, 4)):
                assert whole_number(words, powers + place) == sum(v**power for v in x)
            assert words[extremes:].tolist() == light[slot, c, 1:].tolist() == [min(x), max(x)]


def test_the_longest_run_of_the_largest_pixels_does_not_overflow(kernels: ModuleType) -> None:
    planes = np.full((1, 4 * LONGEST_RUN), 65535, "u2")
    start = np.arange(4, dtype=np.int64) * LONGEST_RUN
    runs = (start, np.full(4, LONGEST_RUN, np.int32), np.zeros(4, np.int32))
    number = 4 * LONGEST_RUN
    for loop in layout.LOOPS["narrow"]:
        words = kernels.reduce(planes, *runs, 1, loop, False)[0, 0]
        assert int(words[0]) == number * 65535
    powers = place_of("narrow", "full", "powers")
    for place, power in ((layout.SQUARE, 2), (layout.CUBE, 3), (layout.FOURTH, 4)):
        assert whole_number(words, powers + place) == number * 65535**power


def test_the_square_sum_of_a_tile_has_more_than_one_word() -> None:
    words = np.zeros(layout.words_of("narrow", "full"), np.uint64)
    square = place_of("narrow", "full", "powers") + layout.SQUARE
    words[square] = 2**64 - 1
    # What a loop over 2^32 pixels comes to.
    compiled._add_powers(words, *(np.uint64(number) for number in (3, 9, 27, 81, 0)))
    assert whole_number(words, square) == 2**64 + 8


@pytest.mark.parametrize("dtype", WIDE)
def test_wide_pixels_are_summed_without_rounding(dtype: str, kernels: ModuleType) -> None:
    rng = np.random.default_rng(2)
    planes = pixels(rng, (2, 4000), dtype)
    planes[1] = np.iinfo(dtype).max
    runs = table(rng, 4000, 5)
    words, simple = (kernels.reduce(planes, *runs, 5, loop, False) for loop in ("extremes", "sum"))
    extremes = place_of("wide", "extremes", "extremes")
    for c, plane in enumerate(planes):
        for slot in range(5):
            x = [v + bias_of(planes.dtype) for v in owned(plane, runs, slot)]
            assert whole_number(words[slot, c], 0) == whole_number(simple[slot, c], 0) == sum(x)
            assert words[slot, c, extremes:].tolist() == [min(x), max(x)]


@pytest.mark.parametrize("dtype", [*WIDE, *REAL[1:]])
def test_powers_about_a_pivot_agree(dtype: str, kernels: ModuleType) -> None:
    rng = np.random.default_rng(3)
    planes = pixels(rng, (2, 4000), dtype)
    runs = table(rng, 4000, 5)
    real = planes.dtype.kind == "f"
    pivot = rng.normal(size=(5, 2)) if real else rng.integers(0, 2**31, (5, 2), np.uint64)
    found, expected = (k.powers(planes, *runs, pivot, False) for k in (kernels, reference))
    for order in range(4):
        size = np.abs(expected[..., order]).max()
        np.testing.assert_allclose(found[..., order], expected[..., order], 1e-12, 1e-12 * size)


@pytest.mark.parametrize("ignore_nan", [True, False])
@pytest.mark.parametrize("dtype", REAL[1:])
def test_sums_of_floats_agree_with_nan_among_them(
    dtype: str, ignore_nan: bool, kernels: ModuleType
) -> None:
    rng = np.random.default_rng(4)
    planes = pixels(rng, (2, 4000), dtype)
    planes[0, rng.integers(0, 4000, 40)] = np.nan
    planes[1, 77] = np.inf
    runs = table(rng, 4000, 9)
    with np.errstate(invalid="ignore"):
        found, expected = (
            k.reduce(planes, *runs, 9, "extremes", ignore_nan).view(np.float64)
            for k in (kernels, reference)
        )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)
    assert np.isnan(found[:, 0, 0]).any() != ignore_nan


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_stretches_are_copied_to_their_places(dtype: str, kernels: ModuleType) -> None:
    rng = np.random.default_rng(5)
    planes = pixels(rng, (3, 4000), dtype)
    source, length, _ = table(rng, 4000, 5)
    target = rng.permutation(len(source)).astype(np.int64) * 30
    out = np.zeros((3, 30 * len(source)), dtype)
    kernels.gather(planes, source, target, length.astype(np.int64), out.shape[1], out.reshape(-1))
    expected = np.zeros_like(out)
    for s, t, n in zip(source, target, length, strict=True):
        expected[:, t : t + n] = planes[:, s : s + n]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [*NARROW, *WIDE, *REAL[1:]])
@pytest.mark.parametrize("spread", ["all", "few"])
def test_pixels_of_a_rank_are_those_of_sorted_pixels(
    dtype: str, spread: str, kernels: ModuleType
) -> None:
    rng = np.random.default_rng(6)
    number = np.array([1, 0, 2, 700, 7, 5000])
    begin = np.concatenate([[0], np.cumsum(number)])
    values = pixels(rng, (begin[-1],), dtype)
    if spread == "few":
        values = rng.integers(0, 9, begin[-1]).astype(dtype)
    ordered = [np.sort(values[a:b]) for a, b in pairwise(begin)]
    rank = np.stack([(np.maximum(number - 1, 0) * q) // 7 for q in range(8)], axis=1)
    found = kernels.order_statistics(values.copy(), begin, rank)
    assert found.dtype == values.dtype
    for i, sorted_pixels in enumerate(ordered):
        expected = sorted_pixels[rank[i]] if number[i] else 0
        np.testing.assert_array_equal(found[i], expected)


@pytest.mark.parametrize("flat", [True, False])
def test_edges_take_no_memory_for_the_pixels_between_distant_parts(
    flat: bool, kernels: ModuleType
) -> None:
    near = np.argwhere(np.ones((1, 3, 3) if flat else (3, 3, 3)))
    far = near + np.array([0 if flat else 2**30 - 3, 2**30 - 3, 2**29])
    offset = np.ascontiguousarray(np.concatenate([near, far]).T.astype(np.int32))
    found = kernels.edge(offset, np.array([0, offset.shape[1]]), flat)
    middle = len(near) // 2
    assert np.flatnonzero(~found).tolist() == [middle, len(near) + middle]


def test_the_table_of_labels_finds_what_was_put_in() -> None:
    rng = np.random.default_rng(6)
    labels = np.unique(rng.integers(1, 2**64 - 1, 5000, np.uint64))
    labels[-1] = 2**64 - 1
    keys, rows = compiled_index.rehash(labels[:3000], 3000, 16384)
    known = np.empty(len(labels), np.uint64)
    known[:3000] = labels[:3000]
    order = rng.permutation(len(labels))
    found, count = compiled_index.rows_of(labels[order], keys, rows, known, 3000)
    assert count == len(labels)
    np.testing.assert_array_equal(known[found], labels[order])
    np.testing.assert_array_equal(found[order < 3000], order[order < 3000])


def test_an_engine_has_a_name_and_another_is_refused() -> None:
    assert engine("numba") is compiled
    assert engine("auto") in (compiled, gpu)
    assert engine("numpy") is reference
    with pytest.raises(InputError, match=r"engine = 'cuda': .*; choose auto, numba, numpy, cupy"):
        engine("cuda")


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.floats(0.3, 4), st.floats(0.3, 4)),
    st.one_of(st.just(0.0), st.floats(-1.6, 1.6)),
    st.sampled_from(["u1", "u2", "i4", "f4", "f8"]),
)
def test_samples_are_the_same_to_the_last_bit(
    size: tuple[int, int], step: tuple[float, float], angle: float, dtype: str
) -> None:
    view = View("", (1, *size), step, rotated=True)
    turn = (math.sin(angle), math.cos(angle)) if angle else (0.0, 1.0)
    grid = size, view.span[1:], step, view.samples, turn
    planes = pixels(np.random.default_rng(0), (2, math.prod(view.span)), dtype)
    if planes.dtype.kind == "f":
        planes[0, ::7], planes[1, ::5] = np.nan, np.inf
    places = reference.samples(*grid)
    expected = reference.interpolate(planes, *places[1:])
    found = compiled.samples(*grid)
    for mine, theirs in zip(found, places, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(compiled.interpolate(planes, *found[1:]), expected)
