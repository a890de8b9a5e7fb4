"""Per-cell statistics and crops of terapixel microscopy images.

The public names are imported on first use, so that parsing the workflow stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from harpy_core.version import __version__ as __version__

if TYPE_CHECKING:
    from harpy_core.aggregate.aggregation import aggregate_stats
    from harpy_core.aggregate.layers import aggregate_layers
    from harpy_core.embedding.embedding import embed
    from harpy_core.errors import InputError
    from harpy_core.extract.crops import open_crops
    from harpy_core.extract.exporting import export_crops
    from harpy_core.extract.extraction import extract_instances
    from harpy_core.extract.one_read import aggregate_and_extract
    from harpy_core.instances.finding import find_instances
    from harpy_core.planning.plan import plan_aggregate, plan_extract
    from harpy_core.raster import label_connected, open_raster
    from harpy_core.raster.growing import expand_labels, label_rings, subtract_labels
    from harpy_core.raster.overlay import place_labels
    from harpy_core.raster.polygons import polygon_labels, read_polygons
    from harpy_core.statistics.asked import radial_mean
    from harpy_core.statistics.channels import channel_percentiles
    from harpy_core.statistics.declared import STATISTICS, Statistic
    from harpy_core.statistics.joint import (
        manders_coloc_coeff,
        manders_overlap_coeff,
        pearson_corr_coeff,
    )
    from harpy_core.statistics.own import measure
    from harpy_core.statistics.shapes import Shape
    from harpy_core.training.batches import CropBatches
    from harpy_core.training.dataset import CropDataset as CropDataset
    from harpy_core.training.normalisation import crop_percentiles

_HOME = {
    "CropBatches": "training.batches",
    "CropDataset": "training.dataset",
    "InputError": "errors",
    "STATISTICS": "statistics.declared",
    "Shape": "statistics.shapes",
    "Statistic": "statistics.declared",
    "aggregate_and_extract": "extract.one_read",
    "aggregate_layers": "aggregate.layers",
    "aggregate_stats": "aggregate.aggregation",
    "channel_percentiles": "statistics.channels",
    "crop_percentiles": "training.normalisation",
    "embed": "embedding.embedding",
    "expand_labels": "raster.growing",
    "export_crops": "extract.exporting",
    "extract_instances": "extract.extraction",
    "find_instances": "instances.finding",
    "label_connected": "raster",
    "label_rings": "raster.growing",
    "manders_coloc_coeff": "statistics.joint",
    "manders_overlap_coeff": "statistics.joint",
    "measure": "statistics.own",
    "open_crops": "extract.crops",
    "open_raster": "raster",
    "pearson_corr_coeff": "statistics.joint",
    "place_labels": "raster.overlay",
    "plan_aggregate": "planning.plan",
    "plan_extract": "planning.plan",
    "polygon_labels": "raster.polygons",
    "read_polygons": "raster.polygons",
    "radial_mean": "statistics.asked",
    "subtract_labels": "raster.growing",
}

__all__ = [
    "STATISTICS",
    "CropBatches",
    "InputError",
    "Shape",
    "Statistic",
    "__version__",
    "aggregate_and_extract",
    "aggregate_layers",
    "aggregate_stats",
    "channel_percentiles",
    "crop_percentiles",
    "embed",
    "expand_labels",
    "export_crops",
    "extract_instances",
    "find_instances",
    "label_connected",
    "label_rings",
    "manders_coloc_coeff",
    "manders_overlap_coeff",
    "measure",
    "open_crops",
    "open_raster",
    "pearson_corr_coeff",
    "place_labels",
    "plan_aggregate",
    "plan_extract",
    "polygon_labels",
    "radial_mean",
    "read_polygons",
    "subtract_labels",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    # `import *` leaves it out: it needs PyTorch, which may not be installed.
    return [*__all__, "CropDataset"]
