"""The statistics there are, declared: what each needs, and how it is finished.

A new statistic that can be finished from `moments.Moments` is one entry here and no new loop over
tiles. This module imports nothing heavy: the workflow reads the names while it is parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from harpy_core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from harpy_core.statistics.moments import Moments


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number per instance and channel.

    Attributes
    ----------
    description
        What it is, in a few words.
    full
        Whether it needs higher powers or extremes, beyond the sum and the count.
    finish
        From the moments to its values, (instances, c) float64.
    """

    description: str
    full: bool
    finish: Callable[[Moments], np.ndarray]


def _mean(moments: Moments) -> np.ndarray:
    return _ratio(moments.total, moments.count)


def _skewness(moments: Moments) -> np.ndarray:
    return _ratio(moments.m3, moments.m2**1.5)


def _kurtosis(moments: Moments) -> np.ndarray:
    return _ratio(moments.m4, moments.m2**2) - 3.0


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: np.ndarray = np.where(b == 0, np.nan, a / b)
    return ratio


STATISTICS: dict[str, Statistic] = {
    "count": Statistic("pixels measured", False, lambda m: m.count),
    "sum": Statistic("sum of the pixels", False, lambda m: m.total),
    "mean": Statistic("mean of the pixels", False, _mean),
    "var": Statistic("variance of the population", True, lambda m: m.m2),
    "std": Statistic("standard deviation of the population", True, lambda m: m.m2**0.5),
    "min": Statistic("smallest pixel", True, lambda m: m.least),
    "max": Statistic("largest pixel", True, lambda m: m.most),
    "skew": Statistic("skewness of the population, m3 / m2^1.5", True, _skewness),
    "kurtosis": Statistic("excess kurtosis (Fisher), m4 / m2^2 - 3", True, _kurtosis),
}


def chosen(names: Sequence[str] | str) -> dict[str, Statistic]:
    """The statistics asked for, in the order asked for.

    Raises
    ------
    InputError
        A name that is no statistic, or none at all.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise InputError(f"stats = []: choose at least one of {', '.join(STATISTICS)}")
    for name in wanted:
        if name not in STATISTICS:
            close = get_close_matches(str(name), STATISTICS, 1)
            hint = f"did you mean {close[0]}?" if close else f"choose from {', '.join(STATISTICS)}"
            raise InputError(f"stats: {name!r} is not a statistic; {hint}")
    return {name: STATISTICS[name] for name in dict.fromkeys(wanted)}
