"""A table and shapes in a user's SpatialData store, as SpatialData itself reads them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import spatialdata
import zarr
from anndata import AnnData
from spatialdata.models import Image2DModel, Labels2DModel
from spatialdata.transformations import Scale, get_transformation
from stores import NAMES, cells, ngff, pixels

import harpy_core as hc
from harpy_core.aggregate.into_store import TablePart, put_shapes, put_table, put_tables
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.errors import InputError
from harpy_core.storage.manifest import tree_digest


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of SpatialData's own making, its pixels half a micrometre wide."""
    scale = {"um": Scale([0.5, 0.5], axes=("x", "y"))}
    image = Image2DModel.parse(
        pixels(), dims=("c", "y", "x"), c_coords=NAMES, transformations=scale
    )
    labels = Labels2DModel.parse(cells(), dims=("y", "x"), transformations=scale)
    whole = spatialdata.SpatialData(images={"image": image}, labels={"cells": labels})
    whole.write(tmp_path / "user.zarr")
    return tmp_path / "user.zarr"


NUCLEI = np.where(cells() == 7, 0, np.roll(cells(), -2, 0))


@pytest.fixture
def layered(store: Path, tmp_path: Path) -> Path:
    """The table of that store with a layer of its own labels, and a ring around each of them."""
    read = spatialdata.read_zarr(store)
    read["nuclei"] = Labels2DModel.parse(NUCLEI, dims=("y", "x"))
    read.write_element("nuclei")
    layers = {"nucleus": NUCLEI, "ring": hc.label_rings(NUCLEI, 0, 2)}
    place, instances = tmp_path / "layered.zarr", hc.find_instances(cells())
    stats, options = ("mean", "max"), {"region": "cells", "neighbors": "touching"}
    aggregate_to_store(pixels(), cells(), place, instances, stats, NAMES, layers=layers, **options)
    return place


PARTS = [
    TablePart("cells", "cells", "table"),
    TablePart("nucleus", "nuclei", "table_nucleus"),
    TablePart("ring", "nuclei", "table_ring"),
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The table of that store."""
    place = tmp_path / "table.zarr"
    instances = hc.find_instances(cells())
    aggregate_to_store(pixels(), cells(), place, instances, "mean", NAMES, region="cells")
    return place


def files_of(store: Path, *left_out: str) -> dict[str, bytes]:
    """Content of a store's files but the copy of all metadata in its root, and some folders."""
    found = {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    left_out = ("zarr.json", *left_out)
    return {name: found[name] for name in found if not name.startswith(left_out)}


def test_spatialdata_joins_the_table_to_the_labels(store: Path, table: Path) -> None:
    before = files_of(store)
    put_table(table, store, "cells")
    read = spatialdata.read_zarr(store)
    element, joined = spatialdata.join_spatialelement_table(
        sdata=read, spatial_element_names="cells", table_name="table", how="left"
    )
    assert list(element) == ["cells"]
    expected = [[plane[cells() == i].mean() for plane in pixels()] for i in (7, 9)]
    np.testing.assert_array_equal(joined.X, expected)
    assert read["table"].uns["spatialdata_attrs"]["region"] == "cells"
    assert files_of(store, "tables") == before


@pytest.mark.parametrize("form", [2, 3])
def test_the_table_of_each_layer_annotates_the_labels_of_its_instances(
    form: int, store: Path, layered: Path, tmp_path: Path
) -> None:
    before = files_of(store)
    if form == 2:
        store = tmp_path / "old.zarr"
        root = zarr.open_group(store, mode="w", zarr_format=2)
        root.attrs["spatialdata_attrs"] = {"version": "0.1"}
        for name, values in (("cells", cells()), ("nuclei", NUCLEI)):
            ngff(root, f"labels/{name}", values, "yx", "0.4")
            root[f"labels/{name}"].attrs["spatialdata_attrs"] = {"version": "0.2"}
    put_tables(layered, store, PARTS)
    layers = {"cells": cells(), "nucleus": NUCLEI, "ring": hc.label_rings(NUCLEI, 0, 2)}
    alone = hc.aggregate_layers(pixels(), layers, ("mean", "max"), NAMES, neighbors="touching")
    selection = ("tables",) if form == 2 else ("tables", "labels")
    read = spatialdata.read_zarr(store, selection=selection)
    for part in PARTS:
        found, expected = read[part.element], alone[part.layer]
        assert found.obs["region"].tolist() == [part.labels] * len(expected)
        kept = [name for name in expected.obs if name != "region"]
        assert [*found.obs] == [*expected.obs]
        assert found.obs[kept].equals(expected.obs[kept])
        for name in ("mean", "max"):
            np.testing.assert_array_equal(found.layers[name], expected.layers[name])
        np.testing.assert_array_equal(found.X, expected.X)
        np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])
        borders = (t.obsp["spatial_borders"].toarray().tolist() for t in (found, expected))
        assert next(borders) == next(borders)
        assert found.uns["spatialdata_attrs"] == {
            "region": part.labels,
            "region_key": "region",
            "instance_key": "instance_id",
        }
        if form == 3:
            element, joined = spatialdata.join_spatialelement_table(
                sdata=read, spatial_element_names=part.labels, table_name=part.element, how="left"
            )
            assert list(element) == [part.labels]
            assert joined.obs["instance_id"].tolist() == expected.obs["instance_id"].tolist()
    if form == 3:
        assert files_of(store, "tables") == before


def test_no_table_is_touched_if_that_of_one_layer_may_not_be(store: Path, layered: Path) -> None:
    read = spatialdata.read_zarr(store)
    put_tables(layered, store, PARTS)
    shutil.rmtree(store / "tables/table_ring")
    read["table_ring"] = AnnData(obs=pd.DataFrame({"cell": ["a"]}))
    read.write_element("table_ring")
    zarr.open_array(store / "tables/table_nucleus/X", mode="r+")[0, 0] = 1
    before = tree_digest(store)
    with pytest.raises(InputError, match="tables/table_nucleus: was changed since"):
        put_tables(layered, store, PARTS)
    with pytest.raises(InputError, match="tables/table_ring: is there already, and is not ours"):
        put_tables(layered, store, [*PARTS[:1], TablePart("nucleus", "nuclei", "n"), PARTS[2]])
    with pytest.raises(InputError, match="it is of cells, nucleus, ring, not of cells; make"):
        put_tables(layered, store, PARTS[:1])
    assert tree_digest(store) == before
    put_tables(layered, store, PARTS, overwrite=True)
    assert spatialdata.read_zarr(store)["table_ring"].obs["region"].unique().tolist() == ["nuclei"]


def test_the_copy_of_all_metadata_names_the_table_too(store: Path, table: Path) -> None:
    put_table(table, store, "cells", "measured")
    known = json.loads((store / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    assert "tables/measured" in known
    assert "images/image/s0" in known


def test_spatialdata_can_go_on_writing_into_the_store(store: Path, table: Path) -> None:
    put_table(table, store, "cells")
    read = spatialdata.read_zarr(store)
    read["more"] = read["table"].copy()
    read.write_element("more")
    assert set(spatialdata.read_zarr(store).tables) == {"table", "more"}


def test_a_table_of_ours_is_replaced_and_one_of_the_users_refused(store: Path, table: Path) -> None:
    put_table(table, store, "cells")
    put_table(table, store, "cells")
    read = spatialdata.read_zarr(store)
    read["theirs"] = read["table"].copy()
    read.write_element("theirs")
    before = tree_digest(store)
    with pytest.raises(InputError, match="tables/theirs: is there already, and is not ours"):
        put_table(table, store, "cells", "theirs")
    assert tree_digest(store) == before
    put_table(table, store, "cells", "theirs", overwrite=True)


def test_a_table_that_was_changed_or_is_another_results_is_refused(
    store: Path, table: Path, tmp_path: Path
) -> None:
    put_table(table, store, "cells")
    other = shutil.copytree(table, tmp_path / "other.zarr")
    with pytest.raises(InputError, match=r"put there from .*table\.zarr"):
        put_table(other, store, "cells")
    zarr.open_array(store / "tables/table/X", mode="r+")[0, 0] = 1
    with pytest.raises(InputError, match="was changed since it was put there"):
        put_table(table, store, "cells")


def test_labels_that_are_not_there_or_not_the_tables_are_refused(store: Path, table: Path) -> None:
    before = tree_digest(store)
    with pytest.raises(InputError, match="holds no labels/nuclei"):
        put_table(table, store, "nuclei")
    shutil.copytree(store / "labels/cells", store / "labels/nuclei")
    with pytest.raises(InputError, match="it is of cells, not of nuclei"):
        put_table(table, store, "nuclei")
    shutil.rmtree(store / "labels/nuclei")
    assert tree_digest(store) == before


def test_a_failed_rename_leaves_the_store_as_it_was(
    store: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_table(table, store, "cells")
    before = files_of(store)

    def fails(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fails)
        with pytest.raises(InputError):
            put_table(table, store, "cells")
    assert files_of(store) == before


def test_a_store_of_zarr_2_takes_a_table_of_zarr_2(table: Path, tmp_path: Path) -> None:
    store = tmp_path / "old.zarr"
    root = zarr.open_group(store, mode="w", zarr_format=2)
    root.attrs["spatialdata_attrs"] = {"version": "0.1"}
    ngff(root, "labels/cells", cells(), "yx", "0.4")
    root["labels/cells"].attrs["spatialdata_attrs"] = {"version": "0.2"}
    put_table(table, store, "cells")
    put_table(table, store, "cells")
    assert not list(store.rglob("zarr.json"))
    found = spatialdata.read_zarr(store, selection=("tables",))["table"]
    expected = [[plane[cells() == i].mean() for plane in pixels()] for i in (7, 9)]
    np.testing.assert_array_equal(found.X, expected)


@pytest.mark.parametrize("kind", ["centroids", "boxes"])
def test_shapes_lie_where_the_labels_lie(store: Path, table: Path, kind: Any) -> None:
    name = put_shapes(hc.find_instances(cells()), table, store, "cells", kind)
    read = spatialdata.read_zarr(store)
    shapes = read[name]
    assert list(shapes.index) == [7, 9]
    found, expected = (
        get_transformation(element, "um").to_affine_matrix(("x", "y"), ("x", "y"))
        for element in (shapes, read["cells"])
    )
    np.testing.assert_array_equal(found, expected)
    y, x = np.nonzero(cells() == 7)
    if kind == "boxes":
        assert shapes.loc[7].geometry.bounds == (x.min(), y.min(), x.max() + 1, y.max() + 1)
    else:
        assert shapes.loc[7].geometry.coords[0] == (x.mean() + 0.5, y.mean() + 0.5)
        np.testing.assert_allclose(np.pi * shapes.loc[7].radius ** 2, len(x))
