"""Whole channels measured in the same read, against NumPy on all pixels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pytest
from cases import FORMS, NARROW, Case, as_form, cases, counted_reads, tiles_of
from hypothesis import given
from hypothesis import strategies as st
from oracle import spatial
from tables import tissue

import harpy_core as hc
from harpy_core.aggregate.fields import join_tables
from harpy_core.aggregate.store import aggregate_to_store

if TYPE_CHECKING:
    from anndata import AnnData
    from distributed import Client


def found(case: Case, form: str = "numpy", **options: Any) -> AnnData:
    with tempfile.TemporaryDirectory() as folder, tiles_of(case.tile):
        image = as_form(form, case.image, case.image_chunks, folder)
        labels = as_form(form, case.labels, case.label_chunks, folder, "labels")
        return hc.aggregate_stats(image, labels, "mean", whole_channels=True, **options)


def assert_is_numpys(table: AnnData, case: Case) -> None:
    image, labels = spatial(case.image, case.labels)
    histograms = table.uns["channel_histograms"]
    for c, plane in enumerate(image):
        for where, pixels in (("whole", plane.ravel()), ("inside", plane[labels != 0])):
            row = table.var.iloc[c]
            counts = histograms[where][c]
            expected = np.unique(pixels, return_counts=True)
            there = np.flatnonzero(counts)
            np.testing.assert_array_equal(there + histograms["least"], expected[0].astype(int))
            np.testing.assert_array_equal(counts[there], expected[1])
            x = pixels.astype(np.float64)
            if not x.size:
                assert np.isnan(row[f"{where}_mean"])
                continue
            np.testing.assert_allclose(row[f"{where}_mean"], x.mean(), 1e-12, 1e-9)
            np.testing.assert_allclose(row[f"{where}_std"], x.std(), 1e-12, 1e-9)
            assert [row[f"{where}_min"], row[f"{where}_max"]] == [x.min(), x.max()]
            for name, q in (("q01", 1), ("median", 50), ("q99", 99)):
                assert row[f"{where}_{name}"] == np.percentile(x, q)


@given(cases(dtypes=NARROW), st.sampled_from(FORMS), st.sampled_from(["numpy", "numba"]))
def test_histograms_of_all_pixels_and_of_those_inside_are_exact(
    case: Case, form: str, engine: str
) -> None:
    assert_is_numpys(found(case, form, engine=engine), case)


def test_each_chunk_is_read_once_and_those_without_labels_too(tmp_path: Path) -> None:
    case = tissue("u2")
    labels = np.where(case.labels > 30, 0, case.labels)
    image = as_form("zarr", case.image, (2, 7, 9), tmp_path)
    for whole in (True, False):
        with tiles_of(1), counted_reads(image) as reads:
            hc.aggregate_stats(image, labels, "mean", whole_channels=whole)
        assert set(reads.values()) == {1}
        assert (len(reads) == 2 * 5 * 4) == whole


def test_workers_and_statistics_beside_it_change_nothing(client: Client) -> None:
    case = tissue("u2")
    table = found(case, "zarr", client=client)
    assert_is_numpys(table, case)
    other = hc.aggregate_stats(case.image, case.labels, "mean")
    np.testing.assert_array_equal(table.X, other.X)
    assert other.var.shape[1] == 0


def test_the_store_has_them_and_fields_of_view_add_up(tmp_path: Path) -> None:
    case = tissue("u2")
    image = as_form("zarr", case.image, (1, 7, 9), tmp_path)
    instances = hc.find_instances(case.labels)
    places = {}
    for name, pixels in (("a", image), ("b", case.image // 2)):
        places[name] = tmp_path / f"{name}.zarr"
        with tiles_of(1):
            aggregate_to_store(
                pixels, case.labels, places[name], instances, whole_channels=True, slab_bytes=1
            )
    assert_is_numpys(anndata.read_zarr(places["a"]), case)
    join_tables(places, tmp_path / "joined.zarr")
    both = np.concatenate([case.image, case.image // 2], axis=1)
    labels = np.concatenate([case.labels, case.labels])
    assert_is_numpys(anndata.read_zarr(tmp_path / "joined.zarr"), Case(both, labels, (1,), (1,), 1))


def test_percentiles_normalise_crops(tmp_path: Path) -> None:
    case = tissue("u2")
    table = found(case)
    limits = hc.channel_percentiles(table, (2, 98), channels=["2", "0"])
    inside = case.image[[2, 0]][:, case.labels != 0]
    np.testing.assert_array_equal(limits[0], np.percentile(inside, 2, axis=1))
    np.testing.assert_array_equal(limits[1], np.percentile(inside, 98, axis=1))
    crops = hc.extract_instances(case.image, case.labels, tmp_path / "crops.zarr", diameter=8)
    batches = hc.CropBatches(crops, channels=["2", "0"], normalise=limits, shuffle=False)
    batch = next(batches.batches())
    assert batch.image.min() == 0
    assert batch.image.max() == 1


def test_percentiles_of_a_part_of_a_table_are_those_of_its_channels(tmp_path: Path) -> None:
    case = tissue("u2")
    whole = found(case)
    whole.write_zarr(tmp_path / "table.zarr")
    for table in (whole, anndata.read_zarr(tmp_path / "table.zarr")):
        some = table[:5, [2, 0]]
        inside = case.image[[2, 0]][:, case.labels != 0]
        expected = np.percentile(inside, (1, 99), axis=1)
        np.testing.assert_array_equal(hc.channel_percentiles(some), expected)


def test_a_pixel_inside_several_instances_counts_once() -> None:
    case = tissue("u2")
    boxes = [(3, 4, 12, 9), (5, 6, 20, 12), (5, 6, 7, 8), (9, 2, 11, 20), (12, 4, 15, 9)]
    corners = [np.array([(a, b), (c, b), (c, d), (a, d)], float) for a, b, c, d in boxes]
    cells = hc.polygon_labels(corners, case.labels.shape)
    union = np.zeros(case.labels.shape, "u1")
    for left, top, right, bottom in boxes:
        union[top:bottom, left:right] = 1
    for tile in (1, 10**6):
        with tiles_of(tile):
            table = hc.aggregate_stats(case.image, cells, "mean", whole_channels=True)
        assert_is_numpys(table, Case(case.image, union, (1,), (1,), 1))


def test_pixels_without_a_bounded_histogram_and_bad_percentiles_are_refused() -> None:
    with pytest.raises(hc.InputError, match="histogram of float32 pixels is not bounded"):
        found(tissue("f4"))
    table = found(tissue("u1"))
    with pytest.raises(hc.InputError, match="two that rise"):
        hc.channel_percentiles(table, (99, 1))
    with pytest.raises(hc.InputError, match="two that rise"):
        hc.channel_percentiles(table, (99,))
    with pytest.raises(hc.InputError, match="a list of names"):
        hc.channel_percentiles(table, channels="0")
    with pytest.raises(hc.InputError, match="has no channel 'DAPI'"):
        hc.channel_percentiles(table, channels=["DAPI"])
    with pytest.raises(hc.InputError, match="whole_channels=True"):
        hc.channel_percentiles(hc.aggregate_stats(tissue("u1").image, tissue("u1").labels))
