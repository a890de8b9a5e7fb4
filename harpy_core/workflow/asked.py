"""Arguments of a case's table and crops, as its config asks for them.

The rules of both and the one that reads the image for both are given the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harpy_core.aggregate.layers import made_layers, opened_layers
from harpy_core.config.crops import CropSettings
from harpy_core.statistics.asked import of_section
from harpy_core.tiles.labels import read_labels

if TYPE_CHECKING:
    from harpy_core.instances.finding import Instances
    from harpy_core.raster import Raster, RasterInfo


def table_settings(section: Mapping[str, Any], instances: Instances) -> dict[str, Any]:
    """Return what `stage_plan` takes of a section aggregate."""
    named = ("layers", "derived", "neighbors", "whole_channels")
    taken = {name: section[name] for name in named}
    return {"stats": of_section(section), "instances": len(instances), **taken}


def table_arguments(section: Mapping[str, Any], info: RasterInfo, raster: Raster) -> dict[str, Any]:
    """Return what `aggregate_to_store` takes of a section aggregate and its raster."""
    layers = section["layers"]
    return {
        "stats": of_section(section),
        "channels": raster.channels,
        "strict": info.strict,
        "ignore_nan": section["ignore_nan"],
        "whole_channels": section["whole_channels"],
        "spacing": raster.spacing_of(section["spacing"]),
        "neighbors": section["neighbors"],
        "layers": made_layers(layers, raster, opened_layers(info, layers)),
        "derived": section["derived"],
        "region": next(iter(raster.layers)),
    }


def cropped(section: Mapping[str, Any], instances: Instances) -> Instances:
    """Return the instances that a section extract names."""
    index = section["index"]
    if index is None:
        return instances
    return instances.chosen(read_labels(index) if isinstance(index, str) else index)


def crop_settings(section: Mapping[str, Any], raster: Raster) -> CropSettings:
    """Return the settings of a section extract, for an image of known spacing."""
    return CropSettings.within(section).on(raster.spacing)
