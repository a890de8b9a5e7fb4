"""Pictures for people: the benchmark's panels, the tissue, its crops and its table.

The public names are imported on first use: no picture needs the libraries of all others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harpy_core.figures.comparisons import comparison
    from harpy_core.figures.composites import tissue
    from harpy_core.figures.galleries import gallery
    from harpy_core.figures.heatmaps import heatmap
    from harpy_core.figures.overviews import overview
    from harpy_core.figures.speedups import scaling
    from harpy_core.figures.sweeps import sweep_panels
    from harpy_core.figures.timelines import timeline

_HOME = {
    "comparison": "comparisons",
    "gallery": "galleries",
    "heatmap": "heatmaps",
    "overview": "overviews",
    "scaling": "speedups",
    "sweep_panels": "sweeps",
    "timeline": "timelines",
    "tissue": "composites",
}

__all__ = [
    "comparison",
    "gallery",
    "heatmap",
    "overview",
    "scaling",
    "sweep_panels",
    "timeline",
    "tissue",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
