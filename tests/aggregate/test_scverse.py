"""Tables of ours as spatialdata-plot and squidpy read them (`make test-scverse`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import spatialdata
from spatialdata.models import Image2DModel, Labels2DModel
from stores import NAMES, cells, pixels

import harpy_core as hc
from harpy_core.aggregate.into_store import put_shapes, put_table
from harpy_core.aggregate.store import aggregate_to_store

pytest.importorskip("spatialdata_plot")
squidpy = pytest.importorskip("squidpy")


@pytest.fixture
def measured(tmp_path: Path) -> spatialdata.SpatialData:
    """A store of SpatialData's own making, into which the table and centroids were put."""
    image = Image2DModel.parse(pixels(), dims=("c", "y", "x"), c_coords=NAMES)
    labels = Labels2DModel.parse(cells(), dims=("y", "x"))
    store, table = tmp_path / "user.zarr", tmp_path / "table.zarr"
    spatialdata.SpatialData(images={"image": image}, labels={"cells": labels}).write(store)
    instances, options = hc.find_instances(cells()), {"region": "cells", "neighbors": "touching"}
    aggregate_to_store(pixels(), cells(), table, instances, ("mean", "area"), NAMES, **options)
    put_table(table, store, "cells", "measured")
    put_shapes(instances, table, store, "cells", "centroids")
    return spatialdata.read_zarr(store)


def test_labels_are_drawn_in_the_colours_of_their_statistic(
    measured: spatialdata.SpatialData,
) -> None:
    drawn = measured.pl.render_labels(
        "cells", color=NAMES[0], table_name="measured", cmap="gray", fill_alpha=1.0, outline_alpha=0
    )
    (axes,) = np.atleast_1d(drawn.pl.show(return_ax=True))
    shown = np.asarray(axes.images[-1].get_array(), float)[..., :3]
    assert shown.shape[:2] == cells().shape
    ids = np.unique(cells())[1:]
    means = np.array([pixels()[0][cells() == i].mean() for i in ids])
    spread = (means - means.min()) / np.ptp(means)
    for label, expected in zip(ids, spread, strict=True):
        inside = shown[cells() == label]
        np.testing.assert_allclose(inside, expected * shown.max(), atol=0.01 * shown.max())


def test_shapes_are_drawn_where_their_instances_are(measured: spatialdata.SpatialData) -> None:
    drawn = measured.pl.render_shapes("cells_centroids")
    (axes,) = np.atleast_1d(drawn.pl.show(return_ax=True))
    boxes = [path.get_extents() for path in axes.collections[-1].get_paths()]
    found = [[(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] for box in boxes]
    # The first pixel reaches from 0 to 1.
    expected = [np.argwhere(cells() == i).mean(0)[::-1] + 0.5 for i in np.unique(cells())[1:]]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_squidpy_counts_contacts_in_our_graph(measured: spatialdata.SpatialData) -> None:
    table = measured["measured"]
    large = table.obs["area"] > table.obs["area"].median()
    table.obs["size"] = large.map({True: "large", False: "small"}).astype("category")
    squidpy.gr.interaction_matrix(table, "size", weights=False)
    touching = set()
    for axis in (0, 1):
        pairs = np.stack([np.delete(cells(), -1, axis), np.delete(cells(), 0, axis)], -1)
        touching |= {tuple(sorted(pair)) for pair in pairs.reshape(-1, 2).tolist()}
    kinds = dict(zip(table.obs["instance_id"], table.obs["size"] == "small", strict=True))
    expected = np.zeros((2, 2))
    for first, second in touching:
        if first and first != second:
            expected[int(kinds[first]), int(kinds[second])] += 1
            expected[int(kinds[second]), int(kinds[first])] += 1
    np.testing.assert_array_equal(table.uns["size_interactions"], expected)
