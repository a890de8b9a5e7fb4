"""Tiling against `numpy.tile`, on real stores."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spatialdata
import zarr
from numcodecs import Blosc

from harpy_core.errors import InputError
from harpy_core.raster import Raster, open_raster, spatialdata_store, tile
from harpy_core.raster.tile import repeated_names, tile_raster

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


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((2, 32, 48), None),
        ((5, 70, 100), None),
        ((7, 65, 97), (3, 20, 31)),
        ((1, 10, 11), (4, 64, 64)),
        ((4, 64, 96), (2, 16, 16)),
        ((3, 33, 200), (1, 40, 7)),
    ],
)
def test_copy_is_numpy_tile_for_any_size_and_chunks(
    tmp_path: Path, shape: tuple[int, int, int], chunks: tuple[int, int, int] | None
) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", shape, chunks, method="copy")
    check(tmp_path / "tiled.zarr", raster, shape)
    wanted = chunks or raster.image.chunks
    found = opened(tmp_path / "tiled.zarr")
    assert all(c <= w for c, w in zip(found.image.chunks, wanted, strict=True))


def test_copy_from_a_source_too_large_for_memory_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = store(tmp_path / "source.zarr")
    monkeypatch.setattr(tile, "IN_MEMORY", 3000)
    for number, chunks in enumerate([(1, 5, 7), (3, 20, 31)]):
        path = tmp_path / f"tiled_{number}.zarr"
        tile_raster(raster, path, (5, 70, 100), chunks, method="copy")
        check(path, raster, (5, 70, 100))


def test_z_is_kept_as_it_is(tmp_path: Path) -> None:
    root = spatialdata_store.create(tmp_path / "source.zarr")
    image = spatialdata_store.create_image(
        root, "image", (2, 3, 16, 16), (1, 2, 8, 8), np.float32, CHANNELS
    )
    labels = spatialdata_store.create_labels(root, "labels", (3, 16, 16), (2, 8, 8), np.uint16)
    image[...] = np.random.default_rng(0).random(image.shape)
    labels[...] = np.broadcast_to(blobs((16, 16)), labels.shape)
    raster = opened(tmp_path / "source.zarr")
    for method in ("copy", "link"):
        path = tmp_path / f"{method}.zarr"
        tile_raster(raster, path, (3, 40, 20), (1, 8, 8), method=method)  # type: ignore[arg-type]
        check(path, raster, (3, 40, 20))


def test_link_shares_the_files_of_the_source(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (6, 70, 100), method="link")
    check(tmp_path / "tiled.zarr", raster, (6, 70, 100))
    source = set(inodes(tmp_path / "source.zarr/images"))
    tiled = inodes(tmp_path / "tiled.zarr/images")
    assert set(tiled) == source
    assert len(tiled) == 3 * 5 * 7
    assert not set(inodes(tmp_path / "tiled.zarr/labels")) & set(
        inodes(tmp_path / "source.zarr/labels")
    )


def test_link_along_c_shares_the_labels_too(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (6, 32, 40), method="link")
    check(tmp_path / "tiled.zarr", raster, (6, 32, 40))
    labels = inodes(tmp_path / "tiled.zarr/labels")
    assert labels
    assert set(labels) <= set(inodes(tmp_path / "source.zarr/labels"))


def test_link_writes_each_distinct_chunk_once_where_the_chunks_are_new(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (12, 64, 96), (4, 32, 48), method="link")
    check(tmp_path / "tiled.zarr", raster, (12, 64, 96))
    files = inodes(tmp_path / "tiled.zarr/images")
    assert len(files) == 3 * 2 * 2
    assert len(set(files)) == 1


def test_link_keeps_shards(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr", chunks=(1, 8, 8), shards=(2, 16, 16))
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="link")
    check(tmp_path / "tiled.zarr", raster, (4, 64, 96))
    assert set(inodes(tmp_path / "tiled.zarr/images")) == set(
        inodes(tmp_path / "source.zarr/images")
    )


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_link_shares_the_files_of_a_zarr_2_array(tmp_path: Path, dtype: str) -> None:
    root = zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    compressor = Blosc("zstd", 3, Blosc.SHUFFLE)
    for name, shape in (("image", (2, 16, 16)), ("labels", (16, 16))):
        array = root.create_array(
            name, shape=shape, chunks=shape, dtype=dtype, compressors=compressor
        )
        array[...] = np.arange(np.prod(shape)).reshape(shape)
    raster = opened(tmp_path / "old.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 32, 40), method="link")
    result = opened(tmp_path / "tiled.zarr")
    expected = np.tile(np.asarray(raster.image[...]), (2, 2, 3))[:, :, :40]
    np.testing.assert_array_equal(result.image[...], expected)
    original = (tmp_path / "old.zarr/image/0.0.0").stat().st_ino
    assert set(inodes(tmp_path / "tiled.zarr/images")) == {original}


def test_link_refuses_where_no_chunk_can_be_shared(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    with pytest.raises(InputError, match="use method: copy") as caught:
        tile_raster(raster, tmp_path / "tiled.zarr", (3, 33, 49), (3, 10, 11), method="link")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["source.zarr"]


def test_link_copies_where_the_file_system_does_not_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raster = store(tmp_path / "source.zarr")
    link = os.link

    def refuse(existing: Path, new: Path) -> None:
        if existing.suffix == ".partial":  # how zarr itself puts a file in place
            link(existing, new)
        else:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="link")
    check(tmp_path / "tiled.zarr", raster, (4, 64, 96))
    assert "48 of 48 chunk files were copied" in caplog.text


def test_link_leaves_chunks_of_background_unstored(tmp_path: Path) -> None:
    root = spatialdata_store.create(tmp_path / "source.zarr")
    image = spatialdata_store.create_image(
        root, "image", (2, 16, 32), (2, 16, 16), np.uint8, CHANNELS
    )
    image[:, :, :16] = 7
    spatialdata_store.create_labels(root, "labels", (16, 32), (16, 16), np.uint8)
    raster = opened(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 16, 64), method="link")
    check(tmp_path / "tiled.zarr", raster, (4, 16, 64))


def test_every_repeat_has_labels_of_its_own_and_the_means_of_the_source(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 96, 96), method="copy")
    result = opened(tmp_path / "tiled.zarr")
    labels, image = np.asarray(result.labels[...]), np.asarray(result.image[...])
    source = np.asarray(raster.labels[...])
    cells = len(np.unique(source)) - 1
    assert len(np.unique(labels)) - 1 == 3 * 2 * cells
    wanted = means(np.asarray(raster.image[...]), source)
    for row in range(3):
        for column in range(2):
            part = np.s_[32 * row : 32 * (row + 1), 48 * column : 48 * (column + 1)]
            found = means(image[:, part[0], part[1]], labels[part])
            np.testing.assert_array_equal(found, np.tile(wanted, (2, 1)))


def means(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ids = np.unique(labels)[1:]
    return np.array([[plane[labels == i].mean() for i in ids] for plane in image])


@pytest.mark.parametrize(
    ("dtype", "largest", "expected"),
    [
        ("u1", 60, "u1"),
        ("u1", 70, "u4"),
        ("i4", 2**30 - 1, "u4"),
        ("u4", 2**31, "u8"),
        ("i8", 9, "i8"),
    ],
)
def test_the_type_of_labels_grows_where_it_must(
    tmp_path: Path, dtype: str, largest: int, expected: str
) -> None:
    raster = store(tmp_path / "source.zarr", labels_dtype=dtype)
    values = np.zeros(raster.labels.shape, dtype)
    values[:4, :4] = largest
    zarr.open_array(tmp_path / "source.zarr/labels/labels/s0", mode="r+")[...] = values
    tile_raster(raster, tmp_path / "tiled.zarr", (2, 64, 96), method="copy")
    found = opened(tmp_path / "tiled.zarr").labels
    assert found.dtype == np.dtype(expected)
    assert np.unique(found[...]).tolist() == [0, *(k * largest for k in range(1, 5))]


def test_labels_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr", labels_dtype=np.uint64)
    zarr.open_array(tmp_path / "source.zarr/labels/labels/s0", mode="r+")[0, 0] = 2**63
    with pytest.raises(InputError, match="do not fit 64 bits"):
        tile_raster(raster, tmp_path / "tiled.zarr", (2, 64, 96), method="copy")
    assert not (tmp_path / "tiled.zarr").exists()


def test_negative_labels_are_refused(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr", labels_dtype=np.int32)
    zarr.open_array(tmp_path / "source.zarr/labels/labels/s0", mode="r+")[0, 0] = -5
    with pytest.raises(InputError, match="-5"):
        tile_raster(raster, tmp_path / "tiled.zarr", (2, 64, 96), method="copy")


@pytest.mark.parametrize(
    ("shape", "chunks", "method"),
    [((0, 8, 8), None, "copy"), ((2, 8, 8), (1, 0, 8), "copy"), ((2, 8, 8), None, "symlink")],
)
def test_impossible_sizes_are_refused(tmp_path: Path, shape: Any, chunks: Any, method: Any) -> None:
    raster = store(tmp_path / "source.zarr")
    with pytest.raises(InputError):
        tile_raster(raster, tmp_path / "tiled.zarr", shape, chunks, method=method)


def test_a_failure_leaves_nothing_and_the_old_result_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (2, 32, 48), method="copy")
    fill, calls = tile._fill, []

    def fail_late(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) > 5:
            raise OSError("no space left on device")
        fill(*arguments)

    monkeypatch.setattr(tile, "_fill", fail_late)
    for name in ("tiled.zarr", "new.zarr"):
        calls.clear()
        with pytest.raises(OSError, match="no space"):
            tile_raster(raster, tmp_path / name, (4, 64, 96), method="copy")
    assert sorted(os.listdir(tmp_path)) == ["source.zarr", "tiled.zarr"]
    check(tmp_path / "tiled.zarr", raster, (2, 32, 48))


def test_a_killed_job_leaves_nothing_that_passes_for_a_result(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    script = """
import sys, time
from harpy_core.raster import open_raster, tile
def stuck(*arguments):
    time.sleep(60)
tile._fill = stuck
raster = open_raster(sys.argv[1], "image", "labels")
tile.tile_raster(raster, sys.argv[2], (4, 64, 96), method="copy")
"""
    job = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "source.zarr", tmp_path / "tiled.zarr"]
    )
    limit = time.monotonic() + 30
    while not list(tmp_path.glob(".tiled.zarr.partial-*/zarr.json")):
        assert job.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    job.kill()
    job.wait()
    assert not (tmp_path / "tiled.zarr").exists()
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 64, 96), method="copy")
    check(tmp_path / "tiled.zarr", raster, (4, 64, 96))


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_opens_the_result(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (5, 40, 60), method="link")
    sdata = spatialdata.read_zarr(tmp_path / "tiled.zarr")
    image, labels = oracle(raster, (5, 40, 60))
    np.testing.assert_array_equal(sdata["image"].data.compute(), image)
    np.testing.assert_array_equal(sdata["labels"].data.compute(), labels)
    names = ["nucleus", "membrane", "nucleus_1", "membrane_1", "nucleus_2"]
    assert sdata["image"].coords["c"].values.tolist() == names


def test_repeated_names_are_unique_where_a_name_is_taken() -> None:
    assert repeated_names(["a", "a_1"], 4) == ["a", "a_1", "a__1", "a_1__1"]
    assert repeated_names(["a", "b"], 1) == ["a"]
