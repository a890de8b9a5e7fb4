"""The table on disk: what anndata reads is what was measured, whatever the slabs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from cases import as_form, pixels, segmentation

import harpy_core as hc
from harpy_core.aggregate.store import aggregate_to_store

RNG = np.random.default_rng(5)
LABELS = segmentation(RNG, (40, 50), "blobs", "u4", 3)
IMAGE = pixels(RNG, (3, 40, 50), "u2")
STATS = ["mean", "count", "std", "max"]


@pytest.mark.parametrize("slab_bytes", [1, 3000, 2**30])
def test_a_written_table_is_what_was_measured_for_every_slab(
    tmp_path: Path, slab_bytes: int
) -> None:
    image = as_form("zarr", IMAGE, (1, 7, 9), tmp_path)
    expected = hc.aggregate_stats(IMAGE, LABELS, STATS)
    found = hc.find_instances(LABELS)
    path = tmp_path / "table.zarr"
    aggregate_to_store(image, LABELS, path, found, STATS, region="nuclei", slab_bytes=slab_bytes)
    table = anndata.read_zarr(path)
    np.testing.assert_array_equal(table.X, expected.X)
    for name in STATS:
        np.testing.assert_array_equal(table.layers[name], expected.layers[name])
    np.testing.assert_array_equal(table.obs["instance_id"], expected.obs["instance_id"])
    np.testing.assert_array_equal(table.obsm["spatial"], expected.obsm["spatial"])
    assert list(table.var_names) == list(expected.var_names)


def test_a_written_table_names_the_labels_it_belongs_to(tmp_path: Path) -> None:
    from spatialdata.models import TableModel

    path = tmp_path / "table.zarr"
    aggregate_to_store(IMAGE, LABELS, path, hc.find_instances(LABELS), region="nuclei")
    table = anndata.read_zarr(path)
    attributes = table.uns["spatialdata_attrs"]
    assert attributes["instance_key"] == "instance_id"
    assert attributes["region"] == "nuclei"
    assert set(table.obs[attributes["region_key"]]) == {"nuclei"}
    TableModel().validate(table)


@pytest.mark.parametrize(
    ("labels", "region", "name"),
    [
        (LABELS, None, "labels"),
        ({"nuclei": LABELS}, None, "nuclei"),
        ({"nuclei": LABELS}, "cells", "cells"),
    ],
)
def test_a_table_in_memory_is_one_that_spatialdata_joins_to_its_labels(
    labels: Any, region: str | None, name: str
) -> None:
    from spatialdata import SpatialData, match_element_to_table
    from spatialdata.models import Labels2DModel, TableModel

    table = hc.aggregate_stats(IMAGE, labels, "mean", region=region)
    TableModel().validate(table)
    element = Labels2DModel.parse(LABELS, dims=("y", "x"))
    whole = SpatialData(labels={name: element}, tables={"table": table})
    _, joined = match_element_to_table(whole, name, "table")
    np.testing.assert_array_equal(joined.obs["instance_id"], np.unique(LABELS[LABELS > 0]))
    assert table.obsm["spatial"].shape == (len(table), 2)


def test_instances_of_other_labels_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    others = hc.find_instances(np.where(LABELS.max() == LABELS, 0, LABELS))
    with pytest.raises(hc.InputError, match=r"instances: .* find the instances of these labels"):
        aggregate_to_store(IMAGE, LABELS, tmp_path / "table.zarr", others)
    assert list(tmp_path.iterdir()) == []
