"""Summaries of repeated runs: medians with intervals, and how time falls with threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Median:
    """A median and an interval that holds the true one, from order statistics.

    Attributes
    ----------
    value
        Median of the runs.
    low, high
        The innermost pair of ordered runs that holds the true median at 95 % or more; the lowest
        and the highest run where there are too few for that.
    confidence
        How sure it is that they do: 75 % for 3 runs, 94 % for 5.
    runs
        Number of runs.
    """

    value: float
    low: float
    high: float
    confidence: float
    runs: int


def median_of(values: Sequence[float]) -> Median:
    """The median of some runs, whatever their distribution.

    The number of runs below the true median is binomial with a half, so the k-th lowest and the
    k-th highest of n hold it with probability 1 - 2 P(fewer than k of n).
    """
    ordered = sorted(values)
    n = len(ordered)
    k = 1
    while k < n - k and _holds(n, k + 1) >= 0.95:
        k += 1
    return Median(float(np.median(ordered)), ordered[k - 1], ordered[n - k], _holds(n, k), n)


def _holds(n: int, k: int) -> float:
    return 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n


def serial_share(threads: Sequence[float], seconds: Sequence[float]) -> float | None:
    """Share of the work that does not spread over threads, by Amdahl's law.

    The least-squares fit of ``seconds = a + b / threads`` with neither below zero; the share is
    a / (a + b), 0 for a perfect speed-up. None where there are not two numbers of threads.
    """
    if len(set(threads)) < 2:
        return None
    inverse, time = 1 / np.asarray(threads, float), np.asarray(seconds, float)
    spread, mean = inverse - inverse.mean(), time.mean()
    b = float((spread * (time - mean)).sum() / (spread**2).sum())
    a = float(mean - b * inverse.mean())
    if b < 0:
        return 1.0
    return max(a, 0.0) / (max(a, 0.0) + b) if a > 0 else 0.0
