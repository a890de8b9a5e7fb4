"""Real images: published values to the last digit, and SciPy on thousands of cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracle import crops as cropped
from scipy import ndimage

import harpy_core as hc

ROIS = ("mockData1_002", "mockData2_001")
STATS = ("mean", "sum", "std", "min", "max", "count")


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, index_col=0, float_precision="round_trip")


@pytest.mark.parametrize("roi", ROIS)
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_means_are_those_that_steinbock_published(roi: str, engine: str, real_data: Path) -> None:
    folder = real_data / "imc_steinbock" / roi
    raster = hc.open_raster(folder / "image.ome.tif", labels="labels.tif")
    published = table(folder / "reference.csv")
    found = hc.aggregate_stats(
        raster.image, raster.labels, ["mean"], channels=raster.channels, engine=engine
    )
    np.testing.assert_array_equal(found.obs["instance_id"], published.index)
    assert set(raster.channels) == set(published.columns)
    np.testing.assert_array_equal(found.X, published[raster.channels].to_numpy())


@pytest.mark.parametrize("roi", ROIS)
def test_areas_and_centroids_are_those_that_steinbock_published(roi: str, real_data: Path) -> None:
    folder = real_data / "imc_steinbock" / roi
    raster = hc.open_raster(folder / "image.ome.tif", labels="labels.tif")
    published = table(folder / "reference_regionprops.csv")
    found = hc.find_instances(raster.labels)
    np.testing.assert_array_equal(found.id, published.index)
    np.testing.assert_array_equal(found.count, published["area"])
    np.testing.assert_array_equal(found.centroid[:, 1:], published[["centroid-0", "centroid-1"]])


@pytest.mark.parametrize("segmentation", ["labels.tif", "labels_deepcell.tif"])
def test_statistics_of_tissue_are_those_of_scipy(segmentation: str, real_data: Path) -> None:
    folder = real_data / "codex_hubmap"
    raster = hc.open_raster(folder / "image.ome.tif", labels=segmentation)
    found = hc.aggregate_stats(raster.image, raster.labels, STATS, channels=raster.channels)
    image, labels = np.asarray(raster.image[...]), np.asarray(raster.labels[...])
    ids = np.unique(labels)[1:]
    assert len(ids) == {"labels.tif": 3431, "labels_deepcell.tif": 2745}[segmentation]
    np.testing.assert_array_equal(found.obs["instance_id"], ids)
    np.testing.assert_array_equal(found.obs["count"], np.bincount(labels.ravel())[ids])
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, ids))
    np.testing.assert_allclose(found.obsm["spatial"], centres[:, ::-1], rtol=1e-12)
    for c, plane in enumerate(image):
        exact = plane.astype(np.int64)
        expected = {
            "sum": ndimage.sum_labels(exact, labels, ids),
            "mean": ndimage.mean(exact, labels, ids),
            "std": ndimage.standard_deviation(exact, labels, ids),
            "min": ndimage.minimum(exact, labels, ids),
            "max": ndimage.maximum(exact, labels, ids),
        }
        for name, values in expected.items():
            got = found.layers[name][:, c]
            if name == "std":
                np.testing.assert_allclose(got, values, rtol=1e-9, atol=1e-9)
            else:
                np.testing.assert_array_equal(got, values, err_msg=name)


def test_crops_of_tissue_are_those_of_the_oracle(real_data: Path, tmp_path: Path) -> None:
    raster = hc.open_raster(real_data / "codex_hubmap" / "image.ome.tif", labels="labels.tif")
    found = hc.extract_instances(
        raster.image, raster.labels, tmp_path / "c", diameter=40, channels=raster.channels
    )
    image, labels = np.asarray(raster.image[...]), np.asarray(raster.labels[...])
    near = np.unique(labels[:300, :300])[1:]
    # The cells of one corner; a margin keeps their windows inside what the oracle is given.
    inside = np.where(np.isin(labels, near), labels, 0)[:400, :400]
    whole = [i for i in near if (labels == i).sum() == (inside == i).sum()]
    expected = cropped(image[:, :400, :400], np.where(np.isin(inside, whole), inside, 0), 40, True)
    assert len(found) == 3431
    assert len(whole) > 100
    for label, crop in zip(whole, found[whole], strict=True):
        np.testing.assert_array_equal(crop, expected[label])
