"""Pictures that explain the methods, drawn from the embedded sample with plain NumPy."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Rectangle
from skimage.segmentation import relabel_sequential

from harpy_core.datasets import ihc
from harpy_core.figures import style

BORDER = 256
"""Pixel at which the sample's chunks end."""


def draw(folder: Path) -> None:
    """Draw all of them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    image = ihc.stains()
    labels = ihc.nuclei(image[0])
    with style.applied():
        _runs(labels, folder / "runs.png")
        _fragments(image[2], labels, folder / "fragments.png")
        _exactness(folder / "exactness.png")
        _commits(folder / "commits.png")


def _show_labels(axes: Axes, patch: np.ndarray, *, faint: bool = False) -> None:
    """Draw labels as flat colours, different ones for neighbours."""
    dense = relabel_sequential(patch.astype(np.int64))[0]
    shown = np.where(dense > 0, (dense - 1) % len(style.SERIES) + 1, 0)
    colours = ListedColormap(["#ffffff", *style.SERIES])
    axes.imshow(shown, cmap=colours, vmin=0, vmax=len(style.SERIES), alpha=0.25 if faint else 0.9)
    style.bare(axes)


def _runs(labels: np.ndarray, path: Path) -> None:
    patch = labels[150:182, 96:128]
    figure = style.new_figure(7.2, 3.9)
    left, right = figure.subplots(1, 2)
    _show_labels(left, patch)
    left.set_title("Labels: every pixel")
    _show_labels(right, patch, faint=True)
    count = 0
    for y, row in enumerate(patch):
        edges = np.flatnonzero(np.diff(row.astype(np.int64), prepend=-1, append=-1))
        for start, stop in pairwise(edges):
            if row[start]:
                count += 1
                right.plot([start - 0.2, stop - 0.8], [y, y], color=style.INK, linewidth=2.2)
    right.set_title("Runs: start, stop and label of each bar")
    cells = len(np.unique(patch)) - 1
    style.add_title(
        figure,
        f"{count} runs stand for {int((patch > 0).sum())} pixels of {cells} nuclei",
        f"A patch of {patch.shape[0]} x {patch.shape[1]} pixels of the embedded sample",
    )
    style.save(figure, path)


def _fragments(stain: np.ndarray, labels: np.ndarray, path: Path) -> None:
    half = 20
    cell = _split(labels, half - 2)
    top = int(np.flatnonzero((labels == cell).any(axis=1)).mean()) - half
    place = (slice(top, top + 2 * half), slice(BORDER - half, BORDER + half))
    patch, pixels = labels[place], stain[place]
    figure = style.new_figure(7.2, 4.1)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    left.imshow(pixels, cmap="gray_r")
    left.contour(patch == cell, [0.5], colors=style.SERIES[1], linewidths=1.6)
    left.axvline(half - 0.5, color=style.SERIES[0], linewidth=1.6)
    style.bare(left)
    left.set_title("A nucleus on the border of two chunks")
    right.set_axis_off()
    right.set_xlim(0, 1)
    right.set_ylim(0, 1)
    parts = [patch[:, :half] == cell, patch[:, half:] == cell]
    sums = [int(pixels[:, :half][parts[0]].sum()), int(pixels[:, half:][parts[1]].sum())]
    counts = [int(part.sum()) for part in parts]
    for x, name, count, total in zip(
        (0.0, 0.54), ("left tile", "right tile"), counts, sums, strict=True
    ):
        right.add_patch(Rectangle((x, 0.62), 0.46, 0.26, fill=False, edgecolor=style.SERIES[0]))
        right.text(x + 0.23, 0.82, name, ha="center", weight="bold")
        right.text(x + 0.23, 0.68, f"count {count}\nsum {total:,}", ha="center")
    for x in (0.23, 0.77):
        right.annotate(
            "",
            (0.5, 0.40),
            (x, 0.61),
            arrowprops={"arrowstyle": "->", "color": style.MUTED},
        )
    right.add_patch(Rectangle((0.2, 0.12), 0.6, 0.27, fill=False, edgecolor=style.SERIES[1]))
    right.text(0.5, 0.325, "merged", ha="center", weight="bold")
    mean = sum(sums) / sum(counts)
    right.text(0.5, 0.16, f"count {sum(counts)}, sum {sum(sums):,}\nmean {mean:,.2f}", ha="center")
    style.add_title(
        figure,
        "Each tile says what it holds of a cell; the merge is exact",
        "The stain DAB of one nucleus of the embedded sample; no tile reads beyond its border",
    )
    style.save(figure, path)


def _split(labels: np.ndarray, reach: int) -> int:
    """Find the nucleus, near the border, that it cuts most evenly."""
    best, most = 0, 0
    for cell in np.intersect1d(labels[:, BORDER - 1], labels[:, BORDER]).tolist():
        rows, columns = np.nonzero(labels == cell)
        near = np.ptp(rows) < reach and np.abs(columns - BORDER).max() < reach
        smaller = min((columns < BORDER).sum(), (columns >= BORDER).sum())
        if cell and near and smaller > most:
            best, most = cell, smaller
    return best


def _exactness(path: Path) -> None:
    values = np.random.default_rng(7).poisson(20_000, 2**22).astype(np.uint16)
    exact = int(values.sum(dtype=np.uint64))
    sizes = 2 ** np.arange(4, 23)
    singles = []
    for size in sizes:
        total = np.float32(0)
        for part in values.astype(np.float32).reshape(-1, size).sum(axis=1, dtype=np.float32):
            total += part
        singles.append(float(total) - exact)
    figure = style.new_figure(7.2, 3.7)
    axes = figure.subplots()
    axes.plot(sizes, np.array(singles) / exact, "o-", color=style.SERIES[1], label="float32")
    axes.plot(sizes, np.zeros(len(sizes)), "o-", color=style.SERIES[0], label="integers")
    axes.set_xscale("log", base=2)
    axes.set_yscale("symlog", linthresh=1e-8)
    axes.set_ylim(-4e-3, 1e-5)
    axes.set_xlabel("pixels in a chunk")
    axes.set_ylabel("relative error of the sum")
    axes.grid(axis="y")
    axes.legend()
    style.add_title(
        figure,
        "A sum in float32 depends on the chunks, a sum in integers does not",
        f"{len(values):,} uint16 pixels around 20,000, added chunk by chunk",
    )
    style.save(figure, path)


def _commits(path: Path) -> None:
    figure = style.new_figure(7.2, 3.6, layout=False)
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.76))
    axes.set_axis_off()
    axes.set_xlim(0, 13.8)
    axes.set_ylim(0, 4)
    done, again = style.SERIES[0], style.SERIES[1]
    for y, title, kinds in (
        (2.95, "killed", ["done"] * 5 + ["half"] * 2),
        (1.65, "run again", ["kept"] * 5 + ["done"] * 3),
    ):
        axes.text(0, y + 0.3, title, va="center", weight="bold")
        for i, kind in enumerate(kinds):
            x = 2.0 + 0.95 * i
            look = {
                "done": {"facecolor": done},
                "kept": {"facecolor": done, "alpha": 0.35},
                "half": {"facecolor": "none", "hatch": "////", "edgecolor": again},
            }[kind]
            axes.add_patch(Rectangle((x, y), 0.75, 0.6, **look))
    axes.text(9.9, 3.25, "batches under way: lost", va="center", color=again)
    axes.text(9.9, 1.95, "committed batches: kept", va="center", color=done)
    axes.add_patch(Rectangle((2.0, 0.3), 7.4, 0.6, facecolor="none", edgecolor=style.INK))
    axes.text(5.7, 0.6, "crops.zarr, then its manifest", ha="center", va="center")
    axes.text(0, 0.6, "complete", va="center", weight="bold")
    axes.annotate("", (5.7, 0.95), (5.7, 1.6), arrowprops={"arrowstyle": "->"})
    axes.text(5.9, 1.27, "renamed, in one step", va="center", color=style.MUTED)
    style.add_title(
        figure,
        "A batch counts once its files and its record are on disk",
        "Until all do, the work is in a hidden folder named after inputs and parameters",
    )
    style.save(figure, path)
