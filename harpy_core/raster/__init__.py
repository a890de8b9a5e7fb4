"""Images and labels: describing, opening and reading them.

The public names are imported on first use, so that `raster.info` stays cheap for the workflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harpy_core.raster.info import RasterInfo
    from harpy_core.raster.opening import describe, open_described, open_layer, open_raster
    from harpy_core.raster.raster import Raster, label_connected

_HOME = {
    "Raster": "raster",
    "RasterInfo": "info",
    "describe": "opening",
    "label_connected": "raster",
    "open_described": "opening",
    "open_layer": "opening",
    "open_raster": "opening",
}

__all__ = [
    "Raster",
    "RasterInfo",
    "describe",
    "label_connected",
    "open_described",
    "open_layer",
    "open_raster",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
