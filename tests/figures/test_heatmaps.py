"""Heat maps of tables."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anndata
import numpy as np
import pytest
import zarr
from pictures import assert_picture

from harpy_core import figures
from harpy_core.aggregate.store import write_table
from harpy_core.errors import InputError
from harpy_core.figures import heatmaps
from harpy_core.figures.heatmaps import order, z_scores

# Heat map


def test_z_scores_have_mean_zero_and_spread_one() -> None:
    values = np.random.default_rng(0).lognormal(size=(100, 4))
    values[:, 3] = 0.1
    scores = z_scores(values)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scores.std(axis=0), [1, 1, 1, 0], atol=1e-12)


def test_like_instances_stand_side_by_side() -> None:
    kinds = np.random.default_rng(0).integers(0, 3, 60)
    rows = np.eye(3)[kinds] * 10 + np.random.default_rng(1).random((60, 3))
    changes = np.count_nonzero(np.diff(kinds[order(rows)]))
    assert changes == 2


def test_many_instances_are_sampled_by_the_seed() -> None:
    first, again, other = (heatmaps._sample(5000, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(first) == 1000
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("instances", "channels"), [(1, 1), (1, 5), (2, 2), (60, 1), (3, 100)])
def test_small_and_wide_tables_are_drawn(tmp_path: Path, instances: int, channels: int) -> None:
    values = np.random.default_rng(0).random((instances, channels))
    figures.heatmap(anndata.AnnData(values), tmp_path / "heatmap.png")
    assert_picture(tmp_path / "heatmap.png") if instances > 2 else None


def test_instances_without_values_are_left_out(tmp_path: Path, table: anndata.AnnData) -> None:
    table.layers["mean"][3] = np.nan
    figures.heatmap(table, tmp_path / "heatmap.png")
    assert_picture(tmp_path / "heatmap.png")
    table.layers["mean"][:] = np.nan
    with pytest.raises(InputError, match="60 instances"):
        figures.heatmap(table, tmp_path / "none.png")


def test_a_table_on_disk_is_drawn_slab_by_slab_as_the_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(2).lognormal(size=(3000, 6))
    values[::7, 2] = np.nan
    table = anndata.AnnData(values, layers={"mean": values})
    figures.heatmap(table, tmp_path / "whole.png")
    write_table(tmp_path / "table.zarr", table)
    monkeypatch.setattr(heatmaps, "_SLAB", 6 * 250)
    figures.heatmap(tmp_path / "table.zarr", tmp_path / "slabs.png")
    assert (tmp_path / "slabs.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_memory_of_a_heat_map_does_not_grow_with_the_table(tmp_path: Path) -> None:
    values = zarr.create_array(
        tmp_path / "t.zarr" / "layers" / "mean", shape=(2**20, 40), chunks=(2**16, 40), dtype="f8"
    )
    values[:] = 1.0
    values[::5] = 2.0
    tracemalloc.start()
    heatmaps._Scale.of(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 2
