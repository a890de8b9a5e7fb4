"""Whole channels: the histogram of every pixel and of those inside instances, and what follows.

Exact for integers of up to 16 bits, whose histogram is bounded; others are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.kernels.layout import bias_of, family_of
from harpy_core.statistics.pixels import Counted
from harpy_core.tiles.grid import Region
from harpy_core.tiles.runs import RunTable
from harpy_core.tiles.scratch import scratch

if TYPE_CHECKING:
    import pandas as pd

WHERE = ("whole", "inside")
"""The pixels that are counted: all of them, and those inside instances, each once."""

QUANTILES = {"q01": 0.01, "median": 0.5, "q99": 0.99}
"""Columns of quantiles, beside those of mean, std, min and max."""

HISTOGRAMS = "channel_histograms"
"""Key of the histograms in a table's uns."""


@dataclass(frozen=True, slots=True)
class ChannelCounts:
    """Histograms of some channels of a tile, cut to the values that are there.

    Attributes
    ----------
    channels
        Channels.
    least
        Place of the first value among all of the pixel type.
    counts : (2, c, values) uint32
        Pixels of each value, as in `WHERE`.
    """

    channels: slice
    least: int
    counts: np.ndarray

    @classmethod
    def of(
        cls,
        channels: slice,
        planes: np.ndarray,
        shape: tuple[int, int, int],
        region: Region,
        runs: RunTable,
        kernels: ModuleType,
    ) -> ChannelCounts:
        """Count the pixels of a tile.

        Parameters
        ----------
        planes : (c, plane)
            Its pixels, in buffers of (z, y, x) `shape` that may be larger than the tile.
        region
            The tile.
        """
        bins = 1 << (8 * planes.itemsize)
        found = scratch("counts", 2 * len(planes) * bins, np.dtype(np.uint32))
        counts = found.reshape(2, len(planes), bins)
        counts[...] = 0
        inside = tuple(slice(0, b - a) for a, b in region)
        start, length = runs.covered()
        bias = bias_of(planes.dtype)
        for c, plane in enumerate(planes):
            kernels.count_all(plane.reshape(shape)[inside], bias, counts[0, c])
            kernels.count_runs(plane, start, length, bias, counts[1, c])
        there = np.flatnonzero(counts[0].any(axis=0))
        return cls(channels, int(there[0]), counts[..., there[0] : there[-1] + 1].copy())


class CountTable:
    """Histograms of some channels, merged as tiles arrive.

    Parameters
    ----------
    dtype
        Type of the pixels.
    channels
        First channel, and the one after the last.
    """

    def __init__(self, dtype: np.dtype, channels: tuple[int, int]) -> None:
        self._first = channels[0]
        shape = (2, channels[1] - channels[0], 1 << (8 * dtype.itemsize))
        self.counts = np.zeros(shape, np.int64)

    def add(self, found: ChannelCounts) -> None:
        """Add a tile's."""
        place = slice(found.channels.start - self._first, found.channels.stop - self._first)
        values = slice(found.least, found.least + found.counts.shape[-1])
        self.counts[:, place, values] += found.counts


def refuse_uncountable(dtype: np.dtype) -> None:
    """Refuse pixels whose histogram is not bounded.

    Raises
    ------
    InputError
        They are not integers of up to 16 bits.
    """
    if family_of(dtype) != "narrow":
        raise InputError(
            f"whole_channels: the histogram of {dtype} pixels is not bounded; give the image as "
            "integers of up to 16 bits, or leave it out"
        )


def histograms(counts: np.ndarray, dtype: np.dtype, channels: Sequence[str]) -> dict[str, Any]:
    """Return histograms for a table's uns, cut to the values that are there.

    They name their channels, for a table's uns stays whole where channels are taken from it.

    Parameters
    ----------
    counts : (2, c, values of the pixel type) int64
        Pixels of each value, as in `WHERE`.
    dtype
        Type of the pixels.
    channels
        Name of each channel.
    """
    there = np.flatnonzero(counts[0].any(axis=0))
    first, last = (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 1)
    named = {name: counts[i, :, first:last] for i, name in enumerate(WHERE)}
    return {"channels": np.array(channels, object), "least": first - bias_of(dtype), **named}


def in_order(found: Mapping[str, Any], channels: Sequence[str]) -> dict[str, Any]:
    """Return the histograms of some of their channels, in the order given."""
    there = {name: row for row, name in enumerate(found["channels"])}
    rows = [there[name] for name in channels]
    named = {name: np.asarray(found[name])[rows] for name in WHERE}
    return {"channels": np.array(channels, object), "least": int(found["least"]), **named}


def columns(found: Mapping[str, Any]) -> pd.DataFrame:
    """Return what follows from histograms: a row for each channel, for a table's var.

    Columns are ``whole_mean``, ``whole_std`` (of the population), ``whole_min``, ``whole_max``,
    ``whole_q01``, ``whole_median`` and ``whole_q99``, and the same with ``inside``; NaN without
    pixels.
    """
    import pandas as pd

    least = int(found["least"])
    made = {name: [_summary(np.asarray(counts), least) for counts in found[name]] for name in WHERE}
    return pd.DataFrame(
        {
            f"{name}_{column}": [row[column] for row in rows]
            for name, rows in made.items()
            for column in ("mean", "std", "min", "max", *QUANTILES)
        },
        index=pd.Index(list(found["channels"]), dtype=object),
    )


def _summary(counts: np.ndarray, least: int) -> dict[str, float]:
    there = np.flatnonzero(counts)
    if not len(there):
        return dict.fromkeys(("mean", "std", "min", "max", *QUANTILES), math.nan)
    values, number = there + least, counts[there]
    # Integers of any size: nothing is rounded before the end.
    pixels = int(number.sum())
    total = int(values.astype(object) @ number.astype(object))
    square = int((values.astype(object) ** 2) @ number.astype(object))
    counted = Counted(values.astype(np.float64), number)
    return {
        "mean": total / pixels,
        "std": math.sqrt((pixels * square - total**2) / pixels**2),
        "min": float(values[0]),
        "max": float(values[-1]),
        **{name: float(counted.quantile(q)[0, 0]) for name, q in QUANTILES.items()},
    }


def added(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add histograms of the same channels in several images."""
    least = min(int(part["least"]) for part in parts)
    most = max(int(part["least"]) + part["whole"].shape[1] for part in parts)
    named = {}
    for name in WHERE:
        total = np.zeros((len(parts[0][name]), most - least), np.int64)
        for part in parts:
            first = int(part["least"]) - least
            total[:, first : first + part[name].shape[1]] += np.asarray(part[name])
        named[name] = total
    return {"channels": parts[0]["channels"], "least": least, **named}


def channel_percentiles(
    table: Any,
    percentiles: tuple[float, float] = (1.0, 99.0),
    *,
    inside: bool = True,
    channels: Sequence[str] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact low and high percentile of each channel, for the normalisation of crops.

    Parameters
    ----------
    table
        AnnData of `harpy_core.aggregate_stats` with ``whole_channels=True``, or some of its rows
        and channels: which of its instances are left does not matter.
    percentiles
        Two percentiles, from 0 to 100; linear between two pixels.
    inside
        Take the pixels inside instances; False takes all.
    channels
        Names of the channels; None for all that the table has.

    Returns
    -------
    low, high : (c,) float64
        Percentiles in the image's units, as `normalise` of `harpy_core.CropBatches` takes them.

    Raises
    ------
    InputError
        The table has no histograms or no such channel, the percentiles are invalid, or a channel
        has no pixel.
    """
    counted = table.uns.get(HISTOGRAMS, {})
    if "channels" not in counted:
        raise InputError("table: no histograms in it; aggregate with whole_channels=True")
    if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise InputError(f"percentiles = {percentiles}: two that rise, from 0 to 100")
    if isinstance(channels, str):
        raise InputError(f"channels = {channels!r}: a list of names, or None")
    names, there = list(table.var_names if channels is None else channels), [*counted["channels"]]
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            f"channels: the table has no channel {missing[0]!r}; it has {', '.join(there)}"
        )
    found = in_order(counted, names)
    counts, least = found[WHERE[inside]], found["least"]
    if not counts.any(axis=1).all():
        raise InputError("table: a channel has no pixel inside instances; give inside=False")
    each = [Counted(np.flatnonzero(row) + float(least), row[np.flatnonzero(row)]) for row in counts]
    lower, upper = (
        np.array([float(one.quantile(q / 100)[0, 0]) for one in each]) for q in percentiles
    )
    return lower, upper
