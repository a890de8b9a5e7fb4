"""Rasters that cases will work on: described where they are, else foretold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harpy_core.config.cases import ImageCase
from harpy_core.config.models import DATASETS
from harpy_core.datasets import REGISTRY
from harpy_core.planning.tile_plan import tiled
from harpy_core.raster.info import RasterInfo
from harpy_core.storage.manifest import read_manifest

ASSUMED_SPACING = (0.5, 0.5)
"""Sides of a pixel in micrometres, assumed of a data set that is not there yet."""


def describe_source(source: dict[str, Any]) -> RasterInfo:
    """Describe a source; a registered dataset by the elements that it is known to have.

    Parameters
    ----------
    source
        `config.models.Source` as builtins, with the path in `uri`, and in `dataset` the registered
        name or None.
    """
    from harpy_core.raster import describe

    given = dict(source)
    name = given.pop("dataset")
    if name is not None:
        known = REGISTRY[name]
        given["image"] = given["image"] or known.image
        given["labels"] = given["labels"] or known.labels
    return describe(**given)


def case_raster(name: str, case: ImageCase, results: Path) -> tuple[RasterInfo, int | None]:
    """Return the raster that a case will work on, and the number of its instances if known.

    It is the one that the workflow has described, if any; else that of the source, as it is on disk
    or, for a registered name, as it is known to be, repeated to the target size.
    """
    described = results / name / ("tiled.json" if case.tile else "source.json")
    counted = results / name / "instances.manifest.json"
    if described.is_file():
        known = int(read_manifest(counted)["instances"]) if counted.is_file() else None
        return RasterInfo.from_json(described), known
    info, instances = source_raster(case)
    if case.tile is None:
        return info, instances
    repeats = case.tile.y * case.tile.x / math.prod(info.image_shape[-2:])
    return tiled(info, case.tile), None if instances is None else math.ceil(instances * repeats)


def source_raster(case: ImageCase) -> tuple[RasterInfo, int | None]:
    """Describe the raster of a case's source, and count its instances where they are known."""
    if case.source.uri in DATASETS:
        return _foretold(case.source.uri, case.source.channels)
    return describe_source({**case.source.model_dump(), "dataset": None}), None


def check_layers(case: ImageCase) -> None:
    """Open the labels of a case's other layers, where its source is there.

    Raises
    ------
    InputError
        They cannot be measured with the case's image.
    """
    layers = case.aggregate.opened_layers if case.aggregate else {}
    if not layers or case.source.uri in DATASETS:
        return
    from harpy_core.aggregate.layers import opened_layers

    sections = {name: layer.model_dump() for name, layer in layers.items()}
    opened_layers(source_raster(case)[0], sections)


def _foretold(name: str, channels: list[str] | str | None) -> tuple[RasterInfo, int]:
    known = REGISTRY[name]
    count = len(channels) if isinstance(channels, list) else known.shape[0]
    info = RasterInfo(
        uri=name,
        image=None,
        labels=None,
        channels=[str(channel) for channel in range(count)],
        image_shape=(count, *known.shape[1:]),
        image_chunks=known.chunks,
        image_dtype=known.dtype,
        labels_shape=known.shape[1:],
        labels_chunks=known.chunks[1:],
        labels_dtype=known.labels_dtype,
        fingerprint="",
        spacing=ASSUMED_SPACING,
    )
    return info, known.instances
