"""Declarations of numbers that take several channels of an instance together.

A statistic is one number for each instance and channel, kept in a layer of the table; these are
some numbers for each instance, kept in ``obsm``. It is imported while the workflow is parsed, so
nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING

from harpy_core.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from harpy_core.statistics.together import Together

Pairs = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Joint:
    """Numbers for each instance, from the pixels of several channels together.

    Attributes
    ----------
    name
        Name of its columns in obsm.
    description
        Meaning, in a few words, with its formula.
    outputs
        Name of each number.
    channels
        Names of the channels that it needs; None: all.
    finish
        Function of a `statistics.together.Together`, its channels in the order named, that returns
        (instances, outputs) float64.
    unit
        As of a `Statistic`.
    """

    name: str
    description: str
    outputs: tuple[str, ...]
    channels: tuple[str, ...] | None
    finish: Callable[..., np.ndarray]
    unit: str = ""

    def numbers(self, channels: Sequence[str]) -> list[int]:
        """Numbers of the channels that it needs among those of an image.

        Raises
        ------
        InputError
            The image lacks one of them.
        """
        wanted = channels if self.channels is None else self.channels
        for name in wanted:
            if name not in channels:
                close = get_close_matches(name, channels, 1)
                hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(channels)}"
                raise InputError(f"stats: {self.name}: the image has no channel {name!r}; {hint}")
        return [list(channels).index(name) for name in wanted]


def pearson_corr_coeff(pairs: Pairs) -> Joint:
    """Pearson's correlation of pairs of channels inside each instance.

    sum((x - mean(x)) * (y - mean(y))) / (n * std(x) * std(y)), as
    `skimage.measure.pearson_corr_coeff` with the instance as its mask; NaN where a channel is
    constant.

    Parameters
    ----------
    pairs
        Names of two channels each; the column of a pair is ``one:other``.
    """
    channels, places = _places("pearson_corr_coeff", pairs)
    return Joint(
        "pearson_corr_coeff",
        "Pearson's correlation of two channels",
        tuple(f"{one}:{other}" for one, other in pairs),
        channels,
        partial(_each_pair, "pearson", places),
    )


def manders_overlap_coeff(pairs: Pairs) -> Joint:
    """Manders' overlap coefficient of pairs of channels inside each instance.

    sum(x * y) / sqrt(sum(x^2) * sum(y^2)), as `skimage.measure.manders_overlap_coeff` with the
    instance as its mask.

    Parameters
    ----------
    pairs
        Names of two channels each; the column of a pair is ``one:other``.
    """
    channels, places = _places("manders_overlap_coeff", pairs)
    return Joint(
        "manders_overlap_coeff",
        "Manders' overlap coefficient of two channels",
        tuple(f"{one}:{other}" for one, other in pairs),
        channels,
        partial(_each_pair, "overlap", places),
    )


def manders_coloc_coeff(pairs: Pairs, thresholds: Mapping[str, float]) -> Joint:
    """Manders' colocalisation coefficients of pairs of channels inside each instance.

    sum(x where y > threshold of y) / sum(x), as `skimage.measure.manders_coloc_coeff` with the
    instance as its mask; each pair both ways: ``one:other`` is the fraction of one where the other
    is above its threshold, ``other:one`` that of the other.

    Parameters
    ----------
    pairs
        Names of two channels each.
    thresholds
        Threshold of each channel, in its units.
    """
    channels, _ = _places("manders_coloc_coeff", pairs)
    missing = [name for name in channels if not isinstance(thresholds.get(name), Real)]
    if missing:
        raise InputError(
            f"stats: manders_coloc_coeff: channel {missing[0]!r} has no threshold; give a number "
            "for each channel of the pairs"
        )
    both = [way for one, other in pairs for way in ((one, other), (other, one))]
    ways = [(channels.index(one), channels.index(other)) for one, other in both]
    return Joint(
        "manders_coloc_coeff",
        "fraction of a channel's sum where another is above its threshold",
        tuple(f"{one}:{other}" for one, other in both),
        channels,
        partial(_each_way, ways, [float(thresholds[other]) for _, other in both]),
    )


def _places(name: str, pairs: Pairs) -> tuple[tuple[str, ...], list[tuple[int, int]]]:
    """Channels of some pairs, and the place of each pair among them."""
    listed = [(pair,) if isinstance(pair, str) else tuple(pair) for pair in pairs]
    if not listed:
        raise InputError(f"stats: {name} needs pairs of channels, and there are none; give pairs")
    if any(len(pair) != 2 or pair[0] == pair[1] for pair in listed):
        raise InputError(f"stats: {name}: pairs = {listed}: give two different channels each")
    if len({frozenset(pair) for pair in listed}) < len(listed):
        raise InputError(f"stats: {name}: pairs = {listed}: give each pair once")
    channels = tuple(dict.fromkeys(channel for pair in listed for channel in pair))
    return channels, [(channels.index(one), channels.index(other)) for one, other in listed]


def _each_pair(method: str, places: Sequence[tuple[int, int]], pixels: Together) -> np.ndarray:
    import numpy as np

    return np.stack([getattr(pixels, method)(*place) for place in places], axis=1)


def _each_way(
    ways: Sequence[tuple[int, int]], thresholds: Sequence[float], pixels: Together
) -> np.ndarray:
    import numpy as np

    found = [pixels.coloc(*way, t) for way, t in zip(ways, thresholds, strict=True)]
    return np.stack(found, axis=1)
