"""Missing chunks: the fill value, or an error that names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import harpy_core as hc


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


@pytest.mark.parametrize("job", [aggregate, extract])
def test_a_missing_chunk_is_the_fill_value_unless_strict(
    job: Callable[..., float], tmp_path: Path
) -> None:
    image, labels = stores(tmp_path)
    assert job(image, labels, tmp_path) == 27 + 9 * 7
    with pytest.raises(hc.InputError, match=r"image: chunk \(0, 1, 1\) is missing"):
        job(image, labels, tmp_path, strict=True, **({"overwrite": True} if job is extract else {}))


def test_missing_labels_are_an_error_where_strict(tmp_path: Path) -> None:
    _, labels = stores(tmp_path)
    (tmp_path / "labels" / "c" / "0" / "0").unlink()
    assert hc.find_instances(labels).count[0] == 18
    with pytest.raises(hc.InputError, match=r"labels: chunk \(0, 0\) is missing"):
        hc.find_instances(labels, strict=True)
