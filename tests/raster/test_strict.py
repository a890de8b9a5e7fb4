"""Missing chunks: an error where an instance has pixels, everywhere, or the fill value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zarr.storage

import harpy_core as hc
from harpy_core.config.crops import CropSettings
from harpy_core.extract.extraction import _work_folder
from harpy_core.raster import Raster
from harpy_core.raster.views import ChannelView
from harpy_core.storage.destinations import Destination


def stores(folder: Path) -> tuple[zarr.Array, zarr.Array]:
    """An image and labels, the image's chunk (0, 1, 1) missing."""
    labels = np.zeros((8, 8), "u4")
    labels[1:7, 1:7] = 5
    image = zarr.create_array(
        folder / "image", data=np.ones((1, 8, 8), "u2"), chunks=(1, 4, 4), fill_value=7
    )
    (folder / "image" / "c" / "0" / "1" / "1").unlink()
    return image, zarr.create_array(folder / "labels", data=labels, chunks=(4, 8))


def aggregate(image: Any, labels: Any, folder: Path, **options: Any) -> float:
    return float(hc.aggregate_stats(image, labels, ["sum"], **options).X[0, 0])


def extract(image: Any, labels: Any, folder: Path, **options: Any) -> float:
    crops = hc.extract_instances(image, labels, folder / "crops.zarr", diameter=8, **options)
    return float(np.asarray(crops.image[0]).sum())


JOBS = pytest.mark.parametrize("job", [aggregate, extract])


@JOBS
def test_a_chunk_that_is_missing_where_an_instance_has_pixels_is_refused(
    job: Callable[..., float], tmp_path: Path
) -> None:
    image, labels = stores(tmp_path)
    told = r"image: chunk \(0, 1, 1\) is missing, where instance 5 has pixels.*missing_chunks: fill"
    with pytest.raises(hc.InputError, match=told) as error:
        job(image, labels, tmp_path)
    assert "\n" not in str(error.value)
    assert job(image, labels, tmp_path, strict=False) == 27 + 9 * 7
    with pytest.raises(hc.InputError, match=r"image: chunk \(0, 1, 1\) is missing"):
        job(image, labels, tmp_path, strict=True, **({"overwrite": True} if job is extract else {}))


@JOBS
@pytest.mark.parametrize("kind", ["plain", "sharded", "archive", "small chunks"])
def test_a_chunk_of_background_need_not_be_there(
    kind: str, job: Callable[..., float], tmp_path: Path
) -> None:
    """Zarr does not store what is all fill value; tiles join small chunks, some of them missing."""
    labels = np.zeros((8, 8), "u4")
    labels[0:3, 1:3] = 5
    values = np.zeros((1, 8, 8), "u2")
    values[:, :4, :4] = 1
    size = 1 if kind == "small chunks" else 4
    options: dict[str, Any] = {"shards": (1, 8, 8)} if kind == "sharded" else {}
    store: Any = tmp_path / "image"
    if kind == "archive":
        store = zarr.storage.ZipStore(tmp_path / "image.zip", mode="w")
    image = zarr.create_array(store, data=values, chunks=(1, size, size), **options)
    if kind == "archive":
        store.close()
        image = zarr.open_array(zarr.storage.ZipStore(tmp_path / "image.zip", mode="r"), mode="r")
    cells = zarr.create_array(tmp_path / "labels", data=labels, chunks=(8, 8))
    assert job(image, cells, tmp_path) == 6
    labels[5, 5] = 5
    cells[...] = labels
    again = {"overwrite": True} if job is extract else {}
    with pytest.raises(hc.InputError, match="is missing, where instance 5 has pixels"):
        job(image, cells, tmp_path, **again)


def test_chosen_channels_are_looked_at_alone(tmp_path: Path) -> None:
    _, labels = stores(tmp_path)
    both = zarr.create_array(tmp_path / "both", data=np.ones((2, 8, 8), "u2"), chunks=(1, 4, 4))
    (tmp_path / "both" / "c" / "0" / "1" / "1").unlink()
    assert aggregate(ChannelView(both, (1,)), labels, tmp_path) == 36
    with pytest.raises(hc.InputError, match=r"both: chunk \(0, 1, 1\) is missing"):
        aggregate(ChannelView(both, (0,)), labels, tmp_path)


def test_crops_of_a_lax_run_are_not_taken_by_a_strict_one(tmp_path: Path) -> None:
    image, labels = (Raster.of(*stores(tmp_path)).image, zarr.open_array(tmp_path / "labels"))
    raster, found = Raster.of(image, labels), hc.find_instances(labels)
    settings = CropSettings.of(diameter=8)
    kinds = (None, True, False)
    target = Destination.of(tmp_path / "c")
    keys = {_work_folder(raster, found, settings, target, kind).path for kind in kinds}
    assert len(keys) == 3


def test_missing_labels_are_an_error_where_strict(tmp_path: Path) -> None:
    _, labels = stores(tmp_path)
    (tmp_path / "labels" / "c" / "0" / "0").unlink()
    assert hc.find_instances(labels).count[0] == 18
    with pytest.raises(hc.InputError, match=r"labels: chunk \(0, 0\) is missing"):
        hc.find_instances(labels, strict=True)
