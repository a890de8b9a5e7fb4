"""Small sources for the tests of tiling, and what tiling makes of them in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harpy_core.raster import Raster, open_raster
from harpy_core.storage import spatialdata_store
from harpy_core.tiling.tile import repeated_names

CHANNELS = ["nucleus", "membrane"]


def store(
    path: Path,
    shape: tuple[int, ...] = (2, 32, 48),
    chunks: tuple[int, ...] = (2, 16, 16),
    dtype: Any = np.uint16,
    labels_dtype: Any = np.uint32,
    **encoding: Any,
) -> Raster:
    """A small source with random pixels and labels with gaps."""
    rng = np.random.default_rng(1)
    root = spatialdata_store.create(path)
    names = [*CHANNELS, *(f"other {i}" for i in range(shape[0] - 2))]
    image = spatialdata_store.create_image(root, "image", shape, chunks, dtype, names, **encoding)
    image[...] = rng.integers(1, 200, shape)
    labels = spatialdata_store.create_labels(root, "labels", shape[1:], chunks[1:], labels_dtype)
    labels[...] = blobs(shape[1:])
    return open_raster(path, "image", "labels")


def blobs(shape: tuple[int, ...]) -> np.ndarray:
    """Squares of 6 pixels labelled 3, 6, 9, ... with background between them."""
    y, x = np.indices(shape)[-2:]
    cell = (y // 8) * -(-shape[-1] // 8) + x // 8 + 1
    return np.where((y % 8 < 6) & (x % 8 < 6), 3 * cell, 0)


def oracle(raster: Raster, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The whole in memory."""
    image, labels = np.asarray(raster.image[...]), np.asarray(raster.labels[...])
    times = [-(-n // s) for n, s in zip(shape, (image.shape[0], *image.shape[-2:]), strict=True)]
    depth = [1] * (image.ndim - 3)
    crop = (..., slice(shape[1]), slice(shape[2]))
    tiled = np.tile(image, (times[0], *depth, *times[1:]))[: shape[0]][crop]
    rows = []
    for row in range(times[1]):
        parts = [
            labels + (labels > 0) * (row * times[2] + k) * int(labels.max())
            for k in range(times[2])
        ]
        rows.append(np.concatenate(parts, axis=-1))
    return tiled, np.concatenate(rows, axis=-2)[crop]


def opened(path: Path) -> Raster:
    return open_raster(path, "image", "labels")


def check(path: Path, raster: Raster, shape: tuple[int, int, int]) -> None:
    image, labels = oracle(raster, shape)
    result = opened(path)
    np.testing.assert_array_equal(result.image[...], image)
    np.testing.assert_array_equal(result.labels[...], labels)
    assert result.channels == repeated_names(raster.channels, shape[0])


def inodes(path: Path) -> list[int]:
    files = [f for f in path.rglob("*") if f.is_file() and f.name != "zarr.json"]
    return [f.stat().st_ino for f in files if "c" in f.relative_to(path).parts]
