"""Tables, and shapes of their instances, put into the SpatialData store that they describe.

An element is made beside its place under a hidden name, which no reader of SpatialData lists, and
renamed; nothing that was there is touched. `harpy_core.storage.marks` decides whether an element of
that name may be replaced.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from harpy_core.aggregate.regions import of_region, write_region
from harpy_core.config.models import Shape
from harpy_core.errors import InputError
from harpy_core.instances.finding import Instances
from harpy_core.raster.formats.zarr_store import folder_of
from harpy_core.storage import spatialdata_store
from harpy_core.storage.folders import staging
from harpy_core.storage.marks import MARK, mark, refuse_foreign

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class TablePart:
    """The rows of a table that are of one layer, as an element of a store.

    Attributes
    ----------
    layer
        Name of the layer in the table.
    labels
        Labels element whose instances they are.
    element
        Name of the table that they become.
    """

    layer: str
    labels: str
    element: str


def put_table(
    table: StrPath, store: StrPath, labels: str, name: str = "table", *, overwrite: bool = False
) -> None:
    """Put a table into a SpatialData store, as an element that annotates its labels.

    Parameters
    ----------
    table
        Store of `harpy_core.aggregate.store.aggregate_to_store`.
    store
        Folder of a SpatialData store, Zarr 2 or 3.
    labels
        Labels element that the instances belong to.
    name
        Name of the element.
    overwrite
        Replace an element of that name, whosever it is.

    Raises
    ------
    InputError
        There is no such store or labels element, or an element of that name that is not ours.
    """
    put_tables(table, store, [TablePart(labels, labels, name)], overwrite=overwrite)


def put_tables(
    table: StrPath, store: StrPath, parts: Sequence[TablePart], *, overwrite: bool = False
) -> None:
    """Put the table of each layer into a SpatialData store, where it annotates its own labels.

    No element is touched unless all may be.

    Parameters
    ----------
    table, store, overwrite
        See `put_table`.
    parts
        The layers, all that the table has.

    Raises
    ------
    InputError
        See `put_table`; or the table is of other layers.
    """
    roots = [_opened(store, part.labels) for part in parts]
    _refuse_others(table, [part.layer for part in parts])
    for part in parts:
        if not overwrite:
            refuse_foreign(Path(store, "tables", part.element), os.fspath(table))
    for root, part in zip(roots, parts, strict=True):
        with _placed(root, f"tables/{part.element}", table, overwrite) as folder:
            if root.metadata.zarr_format == 2:
                _write_as_zarr_2(table, part if len(parts) > 1 else None, folder)
            elif len(parts) > 1:
                write_region(table, part.layer, part.labels, folder)
            else:
                ignored = shutil.ignore_patterns(".snakemake_timestamp")
                shutil.copytree(table, folder, dirs_exist_ok=True, ignore=ignored)
            element = _group(folder)
            keys = spatialdata_store.TABLE_ATTRIBUTES[element.metadata.zarr_format]
            element.attrs.update({**keys, **_annotation(table), "region": part.labels})


def put_shapes(
    instances: Instances,
    table: StrPath,
    store: StrPath,
    labels: str,
    kind: Shape,
    *,
    overwrite: bool = False,
) -> str:
    """Put a shape of every instance into a SpatialData store, where its labels lie.

    Parameters
    ----------
    instances
        Instances of the labels, in pixels of their finest level.
    table, store, labels, overwrite
        See `put_table`.
    kind
        ``centroids``: circles of the instances' areas; ``boxes``: bounding boxes.

    Returns
    -------
    Name of the element: that of the labels and the kind.

    Raises
    ------
    InputError
        See `put_table`; or SpatialData is not installed, or the labels are no plane.
    """
    root = _opened(store, labels)
    if root.metadata.zarr_format != 3:
        raise InputError(f"{store}: Zarr 2 takes no shapes; write it anew with SpatialData")
    try:
        import spatialdata
        from spatialdata.models import ShapesModel
        from spatialdata.transformations import get_transformation
    except ImportError as error:
        raise InputError("table.shapes: pip install 'harpy-core[spatialdata]'") from error
    element = spatialdata.read_zarr(store, selection=("labels",))[labels]
    where = get_transformation(element, get_all=True)
    shapes = ShapesModel.parse(_geometries(instances, kind), transformations=where)
    name = f"{labels}_{kind}"
    with _placed(root, f"shapes/{name}", table, overwrite) as folder:
        whole = folder / "whole"
        spatialdata.SpatialData(shapes={name: shapes}).write(whole)
        for path in (whole / "shapes" / name).iterdir():
            path.rename(folder / path.name)
        shutil.rmtree(whole)
    return name


def _geometries(instances: Instances, kind: Shape) -> GeoDataFrame:
    """Shapes in SpatialData's coordinates, in which a pixel's centre is at its index and a half."""
    import geopandas
    import pandas as pd
    import shapely

    index = pd.Index(instances.id.astype(np.int64), name="instance_id")
    if kind == "boxes":
        (z0, y0, x0), (z1, y1, x1) = instances.bbox[:, :3].T, instances.bbox[:, 3:].T
        flat = bool((z0 == 0).all() and (z1 == 1).all())
        found = {"geometry": shapely.box(x0, y0, x1, y1)}
    else:
        z, y, x = instances.centroid.T
        flat = bool((z == 0).all())
        radius = np.sqrt(instances.count / np.pi)
        found = {"geometry": shapely.points(x + 0.5, y + 0.5), "radius": radius}
    if not flat:
        raise InputError("table.shapes: the labels are a volume; leave shapes out")
    return geopandas.GeoDataFrame(found, index=index)


def _opened(store: StrPath, labels: str) -> zarr.Group:
    """Open a user's store for new elements."""
    root = _group(Path(store))
    if f"labels/{labels}" not in root:
        raise InputError(
            f"{store}: holds no labels/{labels}, which the table would annotate; name labels of "
            "the store, or leave table.into_store out"
        )
    return root


def _group(folder: Path) -> zarr.Group:
    try:
        return zarr.open_group(folder, mode="r+", use_consolidated=False)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(f"{folder}: no SpatialData store there; correct source.uri") from error


@contextmanager
def _placed(root: zarr.Group, path: str, result: StrPath, overwrite: bool) -> Iterator[Path]:
    """Yield a folder that becomes an element of the store, marked, once the block has filled it."""
    store = Path(str(folder_of(root.store)))
    element = store / path
    with _alone(store):
        if not overwrite:
            refuse_foreign(element, os.fspath(result))
        root.require_group(path.partition("/")[0])
        with staging(element) as folder:
            yield folder
            _group(folder).attrs[MARK] = mark(folder, os.fspath(result))
        if _is_consolidated(store):
            spatialdata_store.consolidate(root)


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Wait until no other job of ours changes the store: each copies all of its metadata."""
    handle = os.open(store, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_consolidated(store: Path) -> bool:
    place = store / "zarr.json"
    if not place.is_file():
        return (store / ".zmetadata").is_file()
    return "consolidated_metadata" in json.loads(place.read_text(encoding="utf-8"))


def _annotation(table: StrPath) -> dict[str, str]:
    """Keys by which a table's rows name their layer and instance."""
    place = Path(table) / "uns/spatialdata_attrs"
    keys = ("region_key", "instance_key")
    return {name: str(zarr.open_array(place / name, mode="r")[()]) for name in keys}


def _refuse_others(table: StrPath, layers: Sequence[str]) -> None:
    """Refuse a table that is of other layers."""
    regions = zarr.open_array(Path(table) / "uns/spatialdata_attrs/region", mode="r")
    found = np.atleast_1d(regions[...]).tolist()
    if sorted(found) != sorted(layers):
        raise InputError(
            f"{table}: it is of {', '.join(found)}, not of {', '.join(layers)}; make it again"
        )


def _write_as_zarr_2(table: StrPath, part: TablePart | None, folder: Path) -> None:
    """Write a table, or a part of it."""
    import anndata

    whole = anndata.read_zarr(table)
    if part is not None:
        whole = of_region(whole, part.layer, part.labels)
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    with anndata.settings.override(zarr_write_format=2, auto_shard_zarr_v3=False):
        anndata.io.write_elem(group, "/", whole)
