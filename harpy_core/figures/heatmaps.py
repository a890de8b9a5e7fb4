"""Heat map of mean intensities, cells and channels ordered by similarity."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from scipy.cluster.hierarchy import dendrogram, leaves_list, linkage, optimal_leaf_ordering

from harpy_core.errors import InputError
from harpy_core.figures import style

if TYPE_CHECKING:
    from anndata import AnnData

_MOST = 1000
_LIMIT = 3.0


def heatmap(adata: AnnData, out_png: str | os.PathLike[str], seed: int = 0) -> None:
    """Draw the mean intensities as z-scores: a row for each channel, a column for each instance.

    Rows and columns are ordered by average-linkage and Ward's clustering. Of more than 1,000
    instances a random 1,000 are shown; the z-scores are taken over all instances.

    Parameters
    ----------
    adata
        Table from `harpy_core.aggregate_stats`; its layer ``mean``, or else `X`, is shown.
    out_png
        Path of the picture.
    seed
        Seed of the choice of instances.

    Raises
    ------
    InputError
        No instance has a value in every channel.
    """
    name = "mean" if "mean" in adata.layers else next(iter(adata.layers), "X")
    values = np.asarray(adata.layers.get(name, adata.X), np.float64)
    whole = np.isfinite(values).all(axis=1)
    if not whole.any():
        raise InputError(f"table with {len(values)} instances: none has a value in every channel")
    scores = z_scores(values[whole])
    shown = scores[_sample(len(scores), seed)]
    tree = linkage(scores.T, "average") if scores.shape[1] > 1 else None
    rows = leaves_list(tree) if tree is not None else np.zeros(1, int)
    columns = order(shown)
    with style.applied():
        _draw(
            shown[columns][:, rows].T,
            [str(adata.var_names[row]) for row in rows],
            tree,
            name,
            len(scores),
            out_png,
        )


def z_scores(values: np.ndarray) -> np.ndarray:
    """Distance from the column's mean in standard deviations; 0 in a constant column.

    Parameters
    ----------
    values
        Array (instances, channels), float64.
    """
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    # A constant column is left with rounding errors after centring.
    constant = spread <= 1e-12 * np.abs(values).max(axis=0, initial=0)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))


def order(rows: np.ndarray) -> np.ndarray:
    """Indices that put similar rows side by side: leaves of Ward's tree, optimally ordered."""
    if len(rows) < 3:
        return np.arange(len(rows))
    return leaves_list(optimal_leaf_ordering(linkage(rows, "ward"), rows))


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
