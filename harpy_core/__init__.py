"""Per-cell statistics and crops of terapixel microscopy images.

The public names are imported on first use, so that parsing the workflow stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harpy_core.aggregate.aggregation import aggregate_stats
    from harpy_core.errors import InputError
    from harpy_core.extract.crops import open_crops
    from harpy_core.extract.extraction import extract_instances
    from harpy_core.instances.finding import find_instances
    from harpy_core.planning.plan import plan_aggregate, plan_extract
    from harpy_core.raster import open_raster
    from harpy_core.statistics.declared import STATISTICS, Statistic
    from harpy_core.training.batches import CropBatches
    from harpy_core.training.dataset import CropDataset as CropDataset
    from harpy_core.training.normalisation import crop_percentiles

__version__ = "0.1.0"

_HOME = {
    "CropBatches": "training.batches",
    "CropDataset": "training.dataset",
    "InputError": "errors",
    "STATISTICS": "statistics.declared",
    "Statistic": "statistics.declared",
    "aggregate_stats": "aggregate.aggregation",
    "crop_percentiles": "training.normalisation",
    "extract_instances": "extract.extraction",
    "find_instances": "instances.finding",
    "open_crops": "extract.crops",
    "open_raster": "raster",
    "plan_aggregate": "planning.plan",
    "plan_extract": "planning.plan",
}

__all__ = [
    "STATISTICS",
    "CropBatches",
    "InputError",
    "Statistic",
    "__version__",
    "aggregate_stats",
    "crop_percentiles",
    "extract_instances",
    "find_instances",
    "open_crops",
    "open_raster",
    "plan_aggregate",
    "plan_extract",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    # `import *` leaves it out: it needs PyTorch, which may not be installed.
    return [*__all__, "CropDataset"]
