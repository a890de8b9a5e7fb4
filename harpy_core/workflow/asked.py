"""Arguments of a case's table and crops, as its config asks for them, and of what follows.

The rules of both and the one that reads the image for both are given the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harpy_core.aggregate.layers import made_layers, opened_layers
from harpy_core.config.crops import CropSettings
from harpy_core.statistics.asked import of_section
from harpy_core.statistics.channels import HISTOGRAMS, channel_percentiles
from harpy_core.tiles.labels import read_labels

if TYPE_CHECKING:
    from anndata import AnnData

    from harpy_core.instances.finding import Instances
    from harpy_core.raster import Raster, RasterInfo


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


def counts(manifest: str) -> AnnData:
    """Return what the table beside a manifest knows of whole channels, without its values."""
    import zarr
    from anndata import AnnData
    from anndata.io import read_elem

    group = zarr.open_group(Path(manifest).with_name("table.zarr"), mode="r")
    counted: Any = read_elem(group[f"uns/{HISTOGRAMS}"])
    return AnnData(var=read_elem(group["var"]), uns={HISTOGRAMS: counted})


def ranges(
    manifests: Sequence[str], percentiles: tuple[float, float], *, inside: bool
) -> dict[str, tuple[float, float]]:
    """Return two percentiles of each channel, as the table beside a manifest has counted them.

    Parameters
    ----------
    manifests
        Manifest of the table; none, where it counts nothing.
    percentiles, inside
        See `harpy_core.channel_percentiles`.
    """
    if not manifests:
        return {}
    table = counts(manifests[0])
    low, high = channel_percentiles(table, percentiles, inside=inside)
    return dict(zip(table.var_names, zip(low.tolist(), high.tolist(), strict=True), strict=True))
