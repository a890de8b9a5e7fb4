"""Pictures for people: the benchmark's panels, the tissue, its crops and its table.

The public names are imported on first use: no picture needs the libraries of all others.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harpy_core.figures.composites import tissue
    from harpy_core.figures.galleries import gallery
    from harpy_core.figures.heatmaps import heatmap
    from harpy_core.figures.sweeps import sweep_panels

_HOME = {
    "gallery": "galleries",
    "heatmap": "heatmaps",
    "sweep_panels": "sweeps",
    "tissue": "composites",
}

__all__ = ["gallery", "heatmap", "sweep_panels", "tissue"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
