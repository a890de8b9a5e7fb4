"""Partials of parts, merged in any order, against those of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from cases import PIXELS, pixels
from hypothesis import given
from hypothesis import strategies as st
from oracle import statistics_of

from harpy_core.errors import InputError
from harpy_core.kernels import compiled
from harpy_core.raster.reading import delivered
from harpy_core.statistics import wide
from harpy_core.statistics.declared import PARTIALS, STATISTICS, Statistic, chosen, of_channels
from harpy_core.statistics.declared import partials_of as partials_of_statistics
from harpy_core.statistics.partials import Partials, Tile
from harpy_core.tiles.runs import RunTable

MERGED = tuple(name for name, partial in PARTIALS.items() if not partial.whole)
FINISHED = {name: s for name, s in of_channels(STATISTICS).items() if not s.whole}


def partials_of(values: np.ndarray, partials: Sequence[str] = MERGED) -> Partials:
    """Partials of the pixels of one instance and channel."""
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
    return Partials.of(tile, partials)


def of_nothing(dtype: np.dtype) -> Partials:
    return Partials.empty(dtype, MERGED, 1, 1)


def finished(partials: Partials, count: int) -> dict[str, float]:
    found = partials.finish(FINISHED.values(), np.array([count]))
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


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2"])
def test_moments_are_right_for_more_pixels_than_a_square_sum_of_one_word_has_room_for(
    dtype: str,
) -> None:
    limits = np.iinfo(dtype)
    values = np.array([limits.max, limits.max - 1, limits.max, limits.min], dtype)
    partials, count = partials_of(values), len(values)
    for _ in range(40):
        again = Partials(partials.dtype, {n: w.copy() for n, w in partials.words.items()})
        partials.merge(again)
        count *= 2
    found = finished(partials, count)
    for name, value in statistics_of(values).items():
        scale = count / len(values) if name in ("count", "sum") else 1
        assert found[name] == pytest.approx(value * scale, rel=1e-12), name


def test_no_more_is_made_than_the_statistics_need() -> None:
    made = {"mean": ("count", "sum"), "min": ("extremes",), "max": ("extremes",)}
    for name, partials in made.items():
        assert partials_of_statistics([STATISTICS[name]]) == partials
    everything = partials_of_statistics(STATISTICS.values())
    assert everything == tuple(PARTIALS)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f4", "f8"])
def test_a_partial_is_the_same_whatever_is_made_with_it(dtype: str) -> None:
    values = pixels(np.random.default_rng(0), (50,), dtype)
    everything = finished(partials_of(values), 50)
    for name, statistic in FINISHED.items():
        alone = partials_of(values, partials_of_statistics([statistic]))
        value = float(alone.finish([statistic], np.array([50]))[name][0, 0])
        assert value == everything[name], name


def test_a_statistic_of_ones_own_is_finished_from_partials() -> None:
    values = np.arange(50, dtype="u2")
    variation = Statistic(
        "cv", "m2^0.5 / mean", ("powers", "sum", "count"), lambda p, s, n: p.m2**0.5 * n / s
    )
    found = partials_of(values, partials_of_statistics([variation]))
    value = found.finish([variation], np.array([50]))["cv"].item()
    assert value == pytest.approx(values.std() / values.mean())


def test_a_statistic_that_needs_what_nobody_makes_is_refused() -> None:
    with pytest.raises(InputError, match="'entropy': needs 'histogram'; choose from the partials"):
        Statistic("entropy", "", ("histogram",), lambda h: h)
    mean = Statistic("mean", "of another kind", ("sum",), lambda s: s)
    with pytest.raises(InputError, match="two statistics are called 'mean'"):
        chosen(["mean", mean])


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
