"""The look that all figures share, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#222222"
MUTED = "#767676"
GRID = "#e4e4e4"
# Okabe and Ito's palette, distinct for any kind of colour vision, without black and yellow.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DPI = 150

_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
}


@contextmanager
def applied() -> Iterator[None]:
    """Draw with these settings, whatever the user's own matplotlib settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        yield


def new_figure(width: float, height: float, layout: bool = True) -> Figure:
    """Make an empty figure, `width` × `height` inches, without overlaps if `layout`."""
    figure = Figure(figsize=(width, height), layout="constrained" if layout else None)
    FigureCanvasAgg(figure)
    return figure


def space(figure: Figure, across: float, down: float) -> None:
    """Set the space between panels, as a share of theirs, where a figure is laid out by itself."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(wspace=across, hspace=down)


def add_title(figure: Figure, title: str, subtitle: str) -> None:
    """Add a left-aligned title, and the conditions below it."""
    width, height = figure.get_size_inches()
    figure.text(0.12 / width, 1 - 0.14 / height, title, size=13, weight="bold", va="top")
    figure.text(0.12 / width, 1 - 0.42 / height, subtitle, size=9, color=MUTED, va="top")
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        edge_x, edge_y = 0.08 / width, 0.08 / height
        rect = (edge_x, edge_y, 1 - 2 * edge_x, 1 - edge_y - 0.7 / height)
        engine.set(rect=rect)


def bare(axes: Axes) -> None:
    """Remove ticks and frame from a picture."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def display_range(values: np.ndarray, low: float = 1, high: float = 99.8) -> tuple[float, float]:
    """Percentiles of the finite values that are shown as darkest and brightest.

    The brightest stays above the darkest: a constant plane shows dark.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return 0.0, 1.0
    bottom, top = np.percentile(finite, [low, high])
    if top <= bottom:
        top = max(float(finite.max()), bottom + 1)
    return float(bottom), float(top)


def above(bottom: float, top: float) -> tuple[float, float]:
    """A range whose brightest value stays above the darkest: a constant plane shows dark."""
    return bottom, top if top > bottom else bottom + 1


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG, the same bytes for the same figure; the path never holds half a picture."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
