"""Several fields of view as one: their tables joined, their crops listed.

The pixels of the crops stay in one store per field, as they were committed: joining them would
write them a second time, and a loader reads several stores as easily as one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from harpy_core.aggregate.regions import layer_names, values_of, without_values
from harpy_core.aggregate.store import create_layer, quiet_consolidation, write_table
from harpy_core.errors import InputError
from harpy_core.statistics.channels import HISTOGRAMS, added, columns, in_order
from harpy_core.storage.folders import staging
from harpy_core.storage.manifest import digest_of, read_manifest, write_manifest


def join_tables(tables: Mapping[str, str | os.PathLike[str]], path: str | os.PathLike[str]) -> int:
    """Write the tables of several fields of view as one table.

    Its `obs` has a column ``field``, and rows in the order of the fields and, within one, of the
    field's own table; an id is unique within its field, and the name of a row is ``field-id``. Of
    fields with several layers, ``field_region`` names the field and layer within which an id is
    unique, and the name of a row is ``field-region-id``.
    Memory holds the columns of `obs` and one block of a layer.

    Parameters
    ----------
    tables
        Stores that `harpy_core.aggregate.store.aggregate_to_store` wrote, by the field's name.
    path
        Folder of the store; an existing one is replaced.

    Returns
    -------
    Number of instances.

    Raises
    ------
    InputError
        A field's channels, statistics or axes are not those of the first.
    """
    groups = {field: zarr.open_group(place, mode="r") for field, place in tables.items()}
    parts = {field: without_values(group) for field, group in groups.items()}
    first, *others = parts
    names = list(parts[first].var_names)
    for field in others:
        _refuse_unlike("channels", first, names, field, list(parts[field].var_names))
        of_both = [layer_names(groups[name]) for name in (first, field)]
        _refuse_unlike("layers", first, of_both[0], field, of_both[1])
        _refuse_unlike("obsm", first, _columns(parts[first]), field, _columns(parts[field]))
        axes = [parts[f].obsm["spatial"].shape[1] for f in (first, field)]
        if axes[0] != axes[1]:
            raise InputError(
                f"field {field!r} has {axes[1]} axes and field {first!r} {axes[0]}: put flat "
                "images and volumes into cases of their own"
            )
    table = _joined(parts)
    with staging(path) as folder:
        group = write_table(folder, table)
        layers = layer_names(groups[first])
        for name in (*(f"layers/{layer}" for layer in layers), *(["X"] if layers else [])):
            sources = [values_of(groups[field], name) for field in tables]
            orders = [_order(names, list(parts[field].var_names)) for field in tables]
            target = create_layer(group, name, table.shape, sources[0].chunks[1])
            _copy(sources, orders, target)
        with quiet_consolidation():
            zarr.consolidate_metadata(folder)
    return len(table)


def list_crops(
    manifests: Mapping[str, str | os.PathLike[str]], path: str | os.PathLike[str]
) -> int:
    """Write the manifest of the crops of several fields of view, with the place of each store.

    Parameters
    ----------
    manifests
        Manifests of each field's crops, by the field's name.
    path
        Manifest to write; the stores' places are relative to its folder.

    Returns
    -------
    Number of crops.

    Raises
    ------
    InputError
        A field's channels are not those of the first.
    """
    found = {field: read_manifest(place) for field, place in manifests.items()}
    first, *others = found
    for field in others:
        channels = [found[name]["channels"] for name in (first, field)]
        if channels[0] != channels[1]:
            _refuse_unlike("channels", first, channels[0], field, channels[1], in_order=True)
    stores = {
        field: {
            "store": os.path.relpath(_store_beside(place), Path(path).parent),
            "digest": found[field]["digest"],
            "instances": found[field]["instances"],
        }
        for field, place in manifests.items()
    }
    crops = sum(manifest["instances"] for manifest in found.values())
    own = ("kind", "digest", "instances")
    settings = {name: value for name, value in found[first].items() if name not in own}
    digest = digest_of([[field, store["digest"]] for field, store in stores.items()])
    write_manifest(path, kind="crops", digest=digest, instances=crops, fields=stores, **settings)
    return crops


def _store_beside(manifest: str | os.PathLike[str]) -> Path:
    place = Path(manifest)
    return place.with_name(place.name.replace(".manifest.json", ".zarr"))


def _columns(table: Any) -> list[str]:
    """Names of the columns of all data frames of obsm."""
    frames = {name: values for name, values in table.obsm.items() if name != "spatial"}
    return [f"{name}:{column}" for name, frame in frames.items() for column in frame.columns]


def _refuse_unlike(
    what: str,
    first: str,
    expected: Sequence[str],
    field: str,
    found: Sequence[str],
    in_order: bool = False,
) -> None:
    if set(expected) != set(found) or (in_order and list(expected) != list(found)):
        raise InputError(
            f"field {field!r} has the {what} {', '.join(found)} and field {first!r} "
            f"{', '.join(expected)}: choose what all fields have, in source.channels of each"
        )


def _order(names: Sequence[str], own: Sequence[str]) -> np.ndarray | None:
    """Index of each name among a field's own; None where they are the same."""
    if list(names) == list(own):
        return None
    places = {name: place for place, name in enumerate(own)}
    return np.array([places[name] for name in names])


def _joined(parts: Mapping[str, Any]) -> Any:
    """Make the joined table, all but its values."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import block_diag

    obs = pd.concat([part.obs for part in parts.values()])
    fields = list(parts)
    named = np.repeat(fields, [len(part) for part in parts.values()])
    obs["field"] = pd.Categorical(named, categories=fields)
    region, key = fields, "field"
    if any(np.ndim(part.uns["spatialdata_attrs"]["region"]) for part in parts.values()):
        # An id is unique within a layer of a field.
        regions = [f"{f}-{one}" for f, one in zip(named, obs["region"], strict=True)]
        region, key = list(dict.fromkeys(regions)), "field_region"
        obs[key] = pd.Categorical(regions, categories=region)
    obs["region"] = obs["region"].astype(str).astype("category")
    obs.index = pd.Index([f"{f}-{i}" for f, i in zip(named, obs.index, strict=True)], dtype=object)
    provenance = {field: dict(part.uns["harpy_core"]) for field, part in parts.items()}
    first = next(iter(parts.values()))
    var, counted = first.var, {}
    if all(HISTOGRAMS in part.uns for part in parts.values()):
        names = list(first.var_names)
        found = added([in_order(part.uns[HISTOGRAMS], names) for part in parts.values()])
        var, counted = columns(found), {HISTOGRAMS: found}
    return AnnData(
        obs=obs,
        var=var,
        obsm={
            name: _stacked([part.obsm[name] for part in parts.values()], obs.index)
            for name in first.obsm
        },
        obsp={
            name: block_diag([part.obsp[name] for part in parts.values()], format="csr")
            for name in next(iter(parts.values())).obsp
        },
        uns={
            "harpy_core": {"fields": provenance},
            "spatialdata_attrs": {
                "region": region,
                "region_key": key,
                "instance_key": "instance_id",
            },
            **counted,
        },
    )


def _stacked(parts: Sequence[Any], rows: Any) -> Any:
    """Stack matrices, or data frames whose rows get new names."""
    import pandas as pd

    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts).set_axis(rows, axis=0)
    return np.concatenate(parts)


def _copy(
    sources: Sequence[zarr.Array], orders: Sequence[np.ndarray | None], target: zarr.Array
) -> None:
    """Fill an array with others stacked one below the other, a row of its chunks at a time."""
    starts = np.cumsum([0, *(source.shape[0] for source in sources)])
    rows = target.chunks[0]
    for first in range(0, target.shape[0], rows):
        last = min(first + rows, target.shape[0])
        block = np.empty((last - first, target.shape[1]), target.dtype)
        for source, order, start in zip(sources, orders, starts, strict=False):
            begin, end = max(first, start), min(last, start + source.shape[0])
            if begin < end:
                part = np.asarray(source[begin - start : end - start])
                block[begin - first : end - first] = part if order is None else part[:, order]
        target[first:last] = block
