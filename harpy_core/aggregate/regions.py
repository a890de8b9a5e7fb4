"""Tables on disk without their values, and the rows of one layer as a table of their own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from harpy_core.aggregate.slabs import ROWS
from harpy_core.aggregate.store import create_layer, quiet_consolidation, write_table

if TYPE_CHECKING:
    from anndata import AnnData


def without_values(group: zarr.Group) -> Any:
    """Read the table of a store, without X and layers."""
    from anndata import AnnData
    from anndata.io import read_elem

    named = [name for name in ("obs", "var", "obsm", "obsp", "uns") if name in group]
    return AnnData(**{name: read_elem(group[name]) for name in named})


def layer_names(group: zarr.Group) -> list[str]:
    """Names of the layers of a table's store."""
    layers = group["layers"]
    return sorted(layers.array_keys()) if isinstance(layers, zarr.Group) else []


def values_of(group: zarr.Group, name: str) -> zarr.Array:
    """Open X, or a layer, of a table's store."""
    return zarr.open_array(group.store_path / name, mode="r")


def of_region(table: AnnData, region: str, labels: str) -> AnnData:
    """Return the rows of one layer, as its table would be if it were measured alone.

    Parameters
    ----------
    table
        Table of several layers, with values or without.
    region
        Name of the layer.
    labels
        Labels that its instances belong to.
    """
    import pandas as pd

    attributes = table.uns["spatialdata_attrs"]
    first, last = rows_of(table, region)
    part = table[first:last].copy()
    if region == attributes["region"][0]:
        # The others' parents are its instances.
        part.obs = part.obs.drop(columns=["parent", "overlap"])
    part.obs["region"] = pd.Categorical.from_codes(
        np.zeros(len(part), np.int8), categories=pd.Index([labels])
    )
    part.obs_names = pd.Index(part.obs["instance_id"].to_numpy().astype(str), dtype=object)
    part.uns["spatialdata_attrs"] = {**attributes, "region": labels}
    return part


def rows_of(table: AnnData, region: str) -> tuple[int, int]:
    """First row of a layer in a table of several, and the one after its last."""
    there = np.flatnonzero(table.obs["region"] == region)
    return (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 0)


def write_region(table: str | os.PathLike[str], region: str, labels: str, folder: Path) -> None:
    """Write the rows of one layer as a table of their own, a block of a layer at a time.

    Parameters
    ----------
    table
        Store of `harpy_core.aggregate.store.aggregate_to_store` with several layers.
    region, labels
        See `of_region`.
    folder
        Empty folder of the new store.
    """
    group = zarr.open_group(table, mode="r")
    whole = without_values(group)
    first, last = rows_of(whole, region)
    part = of_region(whole, region, labels)
    written, layers = write_table(folder, part), layer_names(group)
    for name in (*(f"layers/{layer}" for layer in layers), *(["X"] if layers else [])):
        source = values_of(group, name)
        target = create_layer(written, name, part.shape, source.chunks[1])
        for row in range(first, last, ROWS):
            end = min(row + ROWS, last)
            target[row - first : end - first] = source[row:end]
    with quiet_consolidation():
        zarr.consolidate_metadata(folder)
