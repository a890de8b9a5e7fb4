"""Partials of parts, merged in any order, against those of the whole."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from cases import PIXELS, pixels
from hypothesis import given
from hypothesis import strategies as st
from oracle import statistics_of

from harpy_core.kernels import compiled
from harpy_core.raster.reading import delivered
from harpy_core.statistics import wide
from harpy_core.statistics.declared import PARTIALS, STATISTICS
from harpy_core.statistics.partials import Partials, Tile
from harpy_core.tiles.runs import RunTable


def partials_of(values: np.ndarray) -> Partials:
    """All partials of the pixels of one instance and channel."""
    number = len(values)
    runs = RunTable(
        np.zeros(1, np.int64),
        np.array([number], np.int32),
        np.zeros(1, np.int32),
        np.ones(1, np.uint64),
        number,
        number,
    )
    tile = Tile(values[np.newaxis], runs, np.array([[number]]), compiled, ignore_nan=False)
    return Partials.of(tile, tuple(PARTIALS))


def of_nothing(dtype: np.dtype) -> Partials:
    return Partials.empty(dtype, tuple(PARTIALS), 1, 1)


def finished(partials: Partials, count: int) -> dict[str, float]:
    found = partials.finish(STATISTICS.values(), np.array([count]))
    return {name: float(values[0, 0]) for name, values in found.items()}


@given(
    st.sampled_from(PIXELS),
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(0, 2**32 - 1),
)
def test_parts_merged_in_any_order_give_the_statistics_of_the_whole(
    dtype: str, sizes: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = pixels(rng, (sum(sizes),), dtype)
    values = values.astype(delivered(values.dtype))
    expected = statistics_of(values)
    bounds = np.cumsum([0, *sizes])
    parts = [partials_of(values[a:b]) for a, b in pairwise(bounds)]
    for order in (range(len(parts)), reversed(range(len(parts))), rng.permutation(len(parts))):
        total = of_nothing(values.dtype)
        for i in order:
            total.merge(parts[i])
        found = finished(total, len(values))
        size = float(np.abs(values.astype(np.float64)).max())
        slack = {"sum": size * len(values), "mean": size, "skew": 1.0, "kurtosis": 1.0}
        for name, value in expected.items():
            least = 1e-12 * slack.get(name, 0.0)
            np.testing.assert_allclose(found[name], value, 1e-10, least, err_msg=name)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u8", "i4", "f4", "f8"])
def test_merging_with_no_pixel_at_all_changes_nothing(dtype: str) -> None:
    values = pixels(np.random.default_rng(0), (50,), dtype)
    alone = finished(partials_of(values), 50)
    for first, second in (
        (of_nothing(values.dtype), partials_of(values)),
        (partials_of(values), of_nothing(values.dtype)),
    ):
        first.merge(second)
        assert finished(first, 50) == alone


@pytest.mark.parametrize("dtype", ["u1", "i2", "u8", "i4", "f4", "f8"])
def test_no_pixel_at_all_has_no_statistics(dtype: str) -> None:
    found = finished(of_nothing(np.dtype(dtype)), 0)
    assert found.pop("count") == 0
    assert np.all(np.isnan(list(found.values())))


@pytest.mark.parametrize("dtype", ["u2", "u8", "f8"])
def test_growing_keeps_what_is_there(dtype: str) -> None:
    values = pixels(np.random.default_rng(0), (50,), dtype)
    alone = partials_of(values)
    grown = alone.grown(4)
    assert finished(grown.at(slice(0, 1), slice(0, 1)), 50) == finished(alone, 50)
    rows = np.array([2])
    grown.put(rows, slice(0, 1), alone)
    assert finished(grown.at(rows, slice(0, 1)), 50) == finished(alone, 50)


@given(st.integers(-(2**127), 2**127 - 1))
def test_wide_integers_become_floats_with_one_rounding(number: int) -> None:
    low, high = number % 2**64, (number >> 64) % 2**64
    found = wide.to_float((np.array([low], np.uint64), np.array([high], np.uint64)))
    assert found[0] == float(number)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**128 - 1))
def test_arithmetic_on_two_words_is_that_of_integers(a: int, b: int, c: int) -> None:
    def words(number: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array([number % 2**64], np.uint64), np.array([number >> 64], np.uint64)

    def integer(pair: tuple[np.ndarray, np.ndarray]) -> int:
        return int(pair[0][0]) + (int(pair[1][0]) << 64)

    one, two = words(a)[0], words(b)[0]
    with np.errstate(over="ignore"):
        assert integer(wide.multiply(one, two)) == a * b
        assert integer(wide.add(words(a * b), words(c))) == (a * b + c) % 2**128
        assert integer(wide.subtract(words(a * b), words(c))) == (a * b - c) % 2**128
        assert integer(wide.multiply_pair(words(c), two)) == c * b % 2**128
