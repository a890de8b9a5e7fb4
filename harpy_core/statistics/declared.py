"""Declarations of all partials and statistics.

A partial is what a tile contributes to an instance in a channel; the contributions of several tiles
are merged. A statistic is finished from the partials that it needs. A job makes the union of the
partials of the statistics asked for, in one read of the pixels.

A statistic for which existing partials suffice is one entry of `STATISTICS`. A partial is one entry
of `PARTIALS` with its module, and a kernel in each engine. This module imports nothing heavy: the
workflow reads names and sizes while it is parsed.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol, cast

from harpy_core.errors import InputError
from harpy_core.statistics.shapes import SHAPES, Shape

if TYPE_CHECKING:
    import numpy as np

    from harpy_core.kernels.layout import Family
    from harpy_core.statistics.tile import Tile


class Arithmetic(Protocol):
    """Functions of a partial's module, on words: (instances, c, words) uint64 each."""

    def empty(self, family: Family, words: np.ndarray) -> None:
        """Turn words of zeros into those of no pixel at all."""

    def merge(self, family: Family, into: np.ndarray, other: np.ndarray) -> None:
        """Add the words of other pixels of the same instances, in place."""

    def make(self, tile: Tile, made: Mapping[str, np.ndarray]) -> np.ndarray:
        """Measure a tile, where the loops of `kernels.layout` do not make it."""

    def finish(self, dtype: np.dtype, made: Mapping[str, np.ndarray], pixels: np.ndarray) -> Any:
        """Return what statistics are finished from; `pixels` of instances are (instances, 1)."""


@dataclass(frozen=True, slots=True)
class Partial:
    """Contribution of a tile to an instance in a channel.

    Attributes
    ----------
    description
        Meaning, in a few words.
    module
        Module with its `Arithmetic`.
    words
        Words of 8 bytes per instance and channel, for each family of pixel types.
    after
        Partials that are needed to make and finish it.
    whole
        Whether it is finished only where all pixels of an instance are together.
    """

    description: str
    module: str
    words: Mapping[Family, int]
    after: tuple[str, ...] = ()
    whole: bool = False

    @property
    def arithmetic(self) -> Arithmetic:
        """Its functions, imported on first use."""
        return cast(Arithmetic, importlib.import_module(self.module))


PARTIALS: dict[str, Partial] = {
    "count": Partial(
        "pixels that were counted",
        "harpy_core.statistics.count",
        {"narrow": 0, "wide": 0, "real": 1},
    ),
    "sum": Partial(
        "sum of the pixels",
        "harpy_core.statistics.sums",
        {"narrow": 1, "wide": 2, "real": 1},
        after=("count",),
    ),
    "extremes": Partial(
        "smallest and largest pixel",
        "harpy_core.statistics.extremes",
        {"narrow": 2, "wide": 2, "real": 2},
    ),
    "powers": Partial(
        "sums of the second to fourth power",
        "harpy_core.statistics.powers",
        {"narrow": 6, "wide": 6, "real": 6},
        after=("count", "sum", "extremes"),
    ),
    "pixels": Partial(
        "the pixels themselves, in order",
        "harpy_core.statistics.pixels",
        {"narrow": 0, "wide": 0, "real": 0},
        after=("count",),
        whole=True,
    ),
    "placed": Partial(
        "the pixels with their places",
        "harpy_core.statistics.places",
        {"narrow": 0, "wide": 0, "real": 0},
        after=("count",),
        whole=True,
    ),
}
"""Every partial by name, each after those it is made with."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number for each instance and channel.

    Attributes
    ----------
    name
        Name of its layer.
    description
        Meaning, in a few words, with its formula.
    needs
        Partials that it is finished from.
    finish
        Function of the finished partials, in the order of `needs`, that returns (instances, c)
        float64. ``count`` and ``sum`` are such arrays; ``extremes`` has `least` and `most`;
        ``powers`` has the central moments `m2`, `m3` and `m4` of the population; ``pixels`` has
        ``quantile(q)``, and ``distances(centre)`` with quantiles of its own; ``placed`` has
        ``centroid(axis)``, ``displacement()``, ``edge()`` and ``ring_mean(ring, rings)``.
    unit
        ``intensity``, ``intensity^2``, ``pixels`` or nothing.
    """

    name: str
    description: str
    needs: tuple[str, ...]
    finish: Callable[..., np.ndarray]
    unit: str = ""

    @property
    def whole(self) -> bool:
        """Whether it is finished only where all pixels of an instance are together."""
        return any(PARTIALS[name].whole for name in self.needs)

    @property
    def placed(self) -> bool:
        """Whether it needs to know where the pixels lie."""
        return "placed" in self.needs

    def __post_init__(self) -> None:
        unknown = [name for name in self.needs if name not in PARTIALS]
        if unknown or not self.needs:
            raise InputError(
                f"statistic {self.name!r}: needs {unknown[0] if unknown else 'nothing'!r}; "
                f"choose from the partials {', '.join(PARTIALS)}"
            )


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: np.ndarray = np.where(b == 0, np.nan, a / b)
    return ratio


def _centroid(axis: int, placed: Any) -> np.ndarray:
    found: np.ndarray = placed.centroid(axis)
    return found


_ALL = (
    Statistic("count", "pixels measured", ("count",), lambda count: count, "pixels"),
    Statistic("sum", "sum of the pixels", ("sum",), lambda total: total, "intensity"),
    Statistic("mean", "mean of the pixels", ("sum", "count"), _ratio, "intensity"),
    Statistic(
        "var",
        "variance of the population, m2, with mk = sum((pixel - mean)^k) / n",
        ("powers",),
        lambda p: p.m2,
        "intensity^2",
    ),
    Statistic(
        "std",
        "standard deviation of the population, m2^0.5",
        ("powers",),
        lambda p: p.m2**0.5,
        "intensity",
    ),
    Statistic("min", "smallest pixel", ("extremes",), lambda e: e.least, "intensity"),
    Statistic("max", "largest pixel", ("extremes",), lambda e: e.most, "intensity"),
    Statistic(
        "skew",
        "skewness of the population, m3 / m2^1.5",
        ("powers",),
        lambda p: _ratio(p.m3, p.m2**1.5),
    ),
    Statistic(
        "kurtosis",
        "excess kurtosis (Fisher), m4 / m2^2 - 3",
        ("powers",),
        lambda p: _ratio(p.m4, p.m2**2) - 3.0,
    ),
    Statistic("median", "median, q50", ("pixels",), lambda p: p.quantile(0.5), "intensity"),
    Statistic(
        "iqr",
        "interquartile range, q75 - q25",
        ("pixels",),
        lambda p: p.quantile(0.75) - p.quantile(0.25),
        "intensity",
    ),
    Statistic(
        "mad",
        "median of the absolute distances to the median",
        ("pixels",),
        lambda p: p.distances(p.quantile(0.5)).quantile(0.5),
        "intensity",
    ),
    *(
        Statistic(
            f"centroid_weighted-{axis}",
            f"{axis} of the centroid weighted by the pixels, sum({axis} * pixel) / sum(pixel)",
            ("placed",),
            functools.partial(_centroid, number),
            "pixels",
        )
        for number, axis in enumerate("zyx")
    ),
    Statistic(
        "mass_displacement",
        "distance of the weighted centroid to the centroid",
        ("placed",),
        lambda p: p.displacement(),
        "pixels",
    ),
    Statistic(
        "edge_mean",
        "mean of the pixels at the edge: a neighbour along an axis is not of the instance",
        ("placed",),
        lambda p: p.edge().mean,
        "intensity",
    ),
    Statistic(
        "edge_std",
        "standard deviation of the population of the pixels at the edge",
        ("placed",),
        lambda p: p.edge().std,
        "intensity",
    ),
    Statistic(
        "edge_sum",
        "sum of the pixels at the edge",
        ("placed",),
        lambda p: p.edge().total,
        "intensity",
    ),
)

STATISTICS: dict[str, Statistic | Shape] = {
    **{statistic.name: statistic for statistic in _ALL},
    **SHAPES,
}
"""Statistics of channels, and shapes, by name; percentiles ``q01`` to ``q99`` are statistics too.
"""

PARAMETRIC = {
    "radial_mean": (
        "mean in n rings from the centroid: ring k of pixels with k - 1 <= n * r / R < k, r the "
        "distance to the centroid and R the largest (radial_mean-1 to radial_mean-n)",
        "intensity",
    ),
    "pearson_corr_coeff": (
        "Pearson's correlation of pairs of channels, "
        "sum((x - mean(x)) * (y - mean(y))) / (n * std(x) * std(y)), in obsm",
        "",
    ),
    "manders_overlap_coeff": (
        "Manders' overlap of pairs of channels, sum(x * y) / (sum(x^2) * sum(y^2))^0.5, in obsm",
        "",
    ),
    "manders_coloc_coeff": (
        "Manders' colocalisation of pairs of channels, sum(x where y > threshold) / sum(x), both "
        "ways, in obsm",
        "",
    ),
}
"""Description and unit of the names that have parameters."""

_OTHER_NAMES = {
    "mean": ("average", "intensity_mean", "mean_intensity"),
    "sum": ("total", "integrated"),
    "std": ("standard_deviation", "stdev", "sd"),
    "var": ("variance",),
    "min": ("minimum", "intensity_min"),
    "max": ("maximum", "intensity_max"),
    "skew": ("skewness",),
    "count": ("pixels", "npixels"),
}
"""Names that other programs give to statistics."""

_PERCENTILE = "q(0[1-9]|[1-9][0-9])"
NAMES = f"{', '.join(STATISTICS)}, and the percentiles q01 to q99"
NAME_PATTERN = f"^({'|'.join(STATISTICS)}|{_PERCENTILE})$"


Declared = str | Statistic | Shape
"""What a user asks for: a name, or a declaration of their own."""


def chosen(asked: Sequence[Declared] | Declared) -> dict[str, Statistic | Shape]:
    """The statistics and shapes asked for, by name, in the order asked for.

    Raises
    ------
    InputError
        A name is not a statistic, two statistics share a name, or none is given.
    """
    wanted = [asked] if isinstance(asked, Declared) else list(asked)
    if not wanted:
        raise InputError(f"stats = []: choose at least one of {NAMES}")
    found: dict[str, Statistic | Shape] = {}
    for one in wanted:
        statistic = one if isinstance(one, Statistic | Shape) else _named(one)
        if found.setdefault(statistic.name, statistic) is not statistic:
            raise InputError(
                f"stats: two statistics are called {statistic.name!r}; rename one of them"
            )
    return found


def of_channels(found: Mapping[str, Statistic | Shape]) -> dict[str, Statistic]:
    """Those that are measured in each channel."""
    return {name: one for name, one in found.items() if isinstance(one, Statistic)}


def of_labels(found: Mapping[str, Statistic | Shape]) -> dict[str, Shape]:
    """Those that follow from the labels alone."""
    return {name: one for name, one in found.items() if isinstance(one, Shape)}


def _named(name: str) -> Statistic | Shape:
    percentile = re.fullmatch(_PERCENTILE, str(name))
    if percentile:
        return _percentile(int(percentile[1]))
    if name not in STATISTICS:
        raise InputError(f"stats: {name!r} is not a statistic; {hint(name)}")
    return STATISTICS[name]


def hint(name: str) -> str:
    """Return what to do about a name that is no statistic: the one that was meant, or all."""
    word = str(name).lower()
    percentile = re.fullmatch(r"[pq]_?(\d{1,2})", word)
    if percentile and int(percentile[1]):
        return f"did you mean q{int(percentile[1]):02}?"
    close = get_close_matches(word, [*STATISTICS, *PARAMETRIC], 1) or [
        ours for ours, others in _OTHER_NAMES.items() if get_close_matches(word, others, 1)
    ]
    if close:
        return f"did you mean {close[0]}?"
    return f"choose from {NAMES}; {', '.join(PARAMETRIC)}"


def percentile_told(number: str) -> str:
    """Return the description of a percentile."""
    rank = f"(n - 1) * {number} / 100"
    return f"percentile {number}: pixel of rank {rank} from 0, linear between two"


@functools.cache
def _percentile(number: int) -> Statistic:
    q = number / 100
    return Statistic(
        f"q{number:02}",
        percentile_told(str(number)),
        ("pixels",),
        lambda p: p.quantile(q),
        "intensity",
    )


def partials_of(statistics: Iterable[Statistic]) -> tuple[str, ...]:
    """The partials that some statistics are finished from, and those that these are made with."""
    needed = {name for statistic in statistics for name in statistic.needs}
    for name in reversed(PARTIALS):
        if name in needed:
            needed.update(PARTIALS[name].after)
    return tuple(name for name in PARTIALS if name in needed)


def family_called(dtype: str) -> Family:
    """Family, as `kernels.layout` defines it, of a pixel type given by its NumPy name."""
    if "float" in dtype:
        return "real"
    digits = "".join(c for c in dtype if c.isdigit())
    return "wide" if digits and int(digits) > 16 else "narrow"


def words_of(statistics: Collection[Statistic], dtype: str) -> int:
    """Number of words per instance and channel until the statistics are finished.

    Parameters
    ----------
    dtype
        NumPy name of the pixels' type.
    """
    family = family_called(dtype)
    merged = sum(PARTIALS[name].words[family] for name in partials_of(statistics))
    # Statistics of whole instances are finished, and kept, as the instances arrive.
    return merged + sum(statistic.whole for statistic in statistics)
