"""Heat map of mean intensities, cells and channels ordered by similarity.

A table on disk is read a slab of instances at a time, three times: for the means, for the standard
deviations, and for the scores. Its memory does not grow with the number of instances.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage
from scipy.spatial.distance import pdist

from harpy_core.errors import InputError
from harpy_core.figures import style

if TYPE_CHECKING:
    from anndata import AnnData

_MOST = 1000
_LIMIT = 3.0
_SLAB = 2**22
"""Values of a slab of 32 MiB, of which some ten are held while it is processed."""


def heatmap(
    table: AnnData | str | os.PathLike[str], out_png: str | os.PathLike[str], seed: int = 0
) -> None:
    """Draw the mean intensities as z-scores: a row for each channel, a column for each instance.

    Rows and columns are ordered by average-linkage and Ward's clustering. Of more than 1,000
    instances a random 1,000 are shown; the z-scores are taken over all instances.

    Parameters
    ----------
    table
        Table from `harpy_core.aggregate_stats`, or the folder of one; its layer ``mean``, or else
        `X`, is shown.
    out_png
        Path of the picture.
    seed
        Seed of the choice of instances.

    Raises
    ------
    InputError
        No instance has a value in every channel.
    """
    values, names, name = _opened(table)
    scale = _Scale.of(values)
    if not scale.count:
        raise InputError(f"table with {len(values)} instances: none has a value in every channel")
    chosen = _sample(scale.count, seed)
    # Distances of whole columns, as for `linkage`: their squares are summed slab by slab.
    apart = np.zeros(values.shape[1] * (values.shape[1] - 1) // 2)
    found, before = [], 0
    for slab in _slabs(values):
        scores = scale.scores(slab)
        apart += pdist(scores.T, "sqeuclidean")
        first, last = np.searchsorted(chosen, [before, before + len(slab)])
        found.append(scores[chosen[first:last] - before])
        before += len(slab)
    shown = np.concatenate(found)
    tree = linkage(np.sqrt(apart), "average") if len(apart) else None
    rows = leaves_list(tree) if tree is not None else np.zeros(1, int)
    columns = order(shown)
    with style.applied():
        _draw(
            shown[columns][:, rows].T,
            [names[row] for row in rows],
            tree,
            name,
            scale.count,
            out_png,
        )


def _opened(table: AnnData | str | os.PathLike[str]) -> tuple[Any, list[str], str]:
    """Return values (instances, channels) to be sliced on demand, channels, statistic."""
    if isinstance(table, (str, os.PathLike)):
        import zarr

        from harpy_core.storage.tables import channel_names

        group: Any = zarr.open_group(table, mode="r")
        layers: Any = group["layers"]
        channels = channel_names(group)
    else:
        group, layers, channels = {"X": table.X}, table.layers, table.var_names
    name = "mean" if "mean" in layers else next(map(str, layers), "X")
    values = layers[name] if name in layers else group["X"]
    return values, [str(channel) for channel in channels], name


def _slabs(values: Any) -> Iterator[np.ndarray]:
    """Yield instances with a value in every channel, several at a time, float64."""
    step = max(_SLAB // max(values.shape[1], 1), 1)
    for first in range(0, values.shape[0], step):
        slab = np.asarray(values[first : first + step], np.float64)
        yield slab[np.isfinite(slab).all(axis=1)]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Mean and spread from which z-scores are taken.

    Attributes
    ----------
    count
        Number of instances with a value in every channel.
    mean, spread : (channels,) float64
        Mean and standard deviation of each channel; the latter is 0 for a constant one.
    """

    count: int
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, values: Any) -> _Scale:
        """Read the values twice: deviations are from the mean of all."""
        count, total, most = 0, np.zeros(values.shape[1]), np.zeros(values.shape[1])
        for slab in _slabs(values):
            count += len(slab)
            total += slab.sum(axis=0)
            most = np.maximum(most, np.abs(slab).max(axis=0, initial=0))
        mean = total / max(count, 1)
        squares = np.zeros(values.shape[1])
        for slab in _slabs(values):
            squares += ((slab - mean) ** 2).sum(axis=0)
        spread = np.sqrt(squares / max(count, 1))
        # A constant column is left with rounding errors after centring.
        return cls(count, mean, np.where(spread <= 1e-12 * most, 0.0, spread))

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Distances from the mean in standard deviations; 0 in a constant channel."""
        constant = self.spread == 0
        return np.where(constant, 0.0, (values - self.mean) / np.where(constant, 1, self.spread))


def z_scores(values: np.ndarray) -> np.ndarray:
    """Distance from the column's mean in standard deviations; 0 in a constant column.

    Parameters
    ----------
    values
        Array (instances, channels), float64.
    """
    return _Scale.of(values).scores(values)


def order(rows: np.ndarray) -> np.ndarray:
    """Indices that put similar rows side by side: leaves of Ward's tree, lower branches first.

    A branch is as high as the mean of its values. (The order of least distances between
    neighbours takes five seconds for a thousand rows.)
    """
    if len(rows) < 3:
        return np.arange(len(rows))
    branches = [[leaf] for leaf in range(len(rows))]
    heights = rows.mean(axis=1).tolist()
    for pair in linkage(rows, "ward")[:, :2].astype(int).tolist():
        low, high = sorted(pair, key=lambda branch: heights[branch])
        branches.append(branches[low] + branches[high])
        heights.append(rows[branches[-1]].mean())
    return np.array(branches[-1])


def _sample(count: int, seed: int) -> np.ndarray:
    if count <= _MOST:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:_MOST])


def _draw(
    scores: np.ndarray,
    names: list[str],
    tree: np.ndarray | None,
    statistic: str,
    instances: int,
    out_png: str | os.PathLike[str],
) -> None:
    channels, shown = scores.shape
    pitch = min(0.26, 12 / channels)
    inner = max(1.6, pitch * channels)
    figure = style.new_figure(11, inner + 1.2)
    chosen = f"{shown:,} of {instances:,} instances, chosen at random"
    style.add_title(
        figure,
        f"Table of {statistic} intensities",
        chosen if shown < instances else f"{shown:,} instances",
    )
    left, middle = figure.subplots(1, 2, width_ratios=(1, 14))
    _draw_tree(left, tree)
    picture = middle.imshow(
        scores, aspect="auto", cmap="RdBu_r", vmin=-_LIMIT, vmax=_LIMIT, interpolation="nearest"
    )
    middle.set_yticks(range(channels), names, size=min(8.5, 0.6 * 72 * pitch))
    middle.tick_params(length=0)
    middle.set_xticks([])
    middle.set_xlabel("instances, like beside like")
    for spine in middle.spines.values():
        spine.set_visible(False)
    length = min(inner, 3.0)
    bar = figure.colorbar(
        picture,
        ax=middle,
        extend="both",
        shrink=length / inner,
        aspect=length / 0.13,
        anchor=(0.0, 1.0),
        pad=0.02,
    )
    bar.set_label(f"z-score of the {statistic}, per channel", size=8.5)
    bar.outline.set_visible(False)
    style.save(figure, out_png)


def _draw_tree(axes: Axes, tree: np.ndarray | None) -> None:
    style.bare(axes)
    if tree is None:
        return
    drawn = dendrogram(tree, no_plot=True)
    for depths, places in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        # SciPy puts the leaves at 5, 15, 25, …; the picture's rows are at 0, 1, 2, …
        axes.plot(depths, (np.asarray(places) - 5) / 10, color=style.MUTED, linewidth=0.8)
    axes.set_ylim(len(drawn["leaves"]) - 0.5, -0.5)
    axes.invert_xaxis()
