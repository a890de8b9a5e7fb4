"""Medians with their intervals, and Amdahl's law."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from harpy_core.benchmark.summaries import median_of, serial_share


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 9, 20])
def test_the_interval_holds_the_median_as_often_as_it_says(n: int) -> None:
    found = median_of(list(range(n)))
    below = n - 1 - found.high
    assert found.low == below
    expected = 1 - 2 * scipy.stats.binom.cdf(below, n, 0.5)
    assert found.confidence == pytest.approx(expected)
    assert found.value == np.median(range(n))
    if n >= 6:
        assert found.confidence >= 0.95
        tighter = 1 - 2 * scipy.stats.binom.cdf(below + 1, n, 0.5)
        assert tighter < 0.95
    else:
        assert (found.low, found.high) == (0, n - 1)


def test_the_interval_is_right_for_skewed_times() -> None:
    generator = np.random.default_rng(0)
    rounds = [median_of(generator.exponential(size=9).tolist()) for _ in range(2000)]
    held = np.mean([one.low <= np.log(2) <= one.high for one in rounds])
    assert held == pytest.approx(rounds[0].confidence, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_serial_share_of_a_known_law_is_found(share: float) -> None:
    threads = np.array([1, 1, 2, 4, 8, 16])
    seconds = 40 * (share + (1 - share) / threads)
    assert serial_share(threads.tolist(), seconds.tolist()) == pytest.approx(share, abs=1e-9)


def test_times_that_rise_or_fall_too_fast_stay_within_the_law() -> None:
    assert serial_share([1, 2, 4], [10, 11, 12]) == 1
    assert serial_share([1, 2, 4], [10, 4, 1]) == 0
    assert serial_share([2, 2], [3, 4]) is None
