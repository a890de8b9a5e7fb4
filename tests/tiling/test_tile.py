"""Tiling against `numpy.tile`, on real stores."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spatialdata
import zarr
from tilings import CHANNELS, blobs, check, inodes, opened, oracle, store
from zarr.codecs import Crc32cCodec

import harpy_core as hc
from harpy_core import aggregate_stats
from harpy_core.config.models import Tile
from harpy_core.datasets import REGISTRY
from harpy_core.datasets.tissue import Tissue, tissue_tile
from harpy_core.errors import InputError
from harpy_core.planning import tile_plan as tile_plans
from harpy_core.planning.tile_plan import at_work, tile_plan
from harpy_core.raster import describe, open_raster
from harpy_core.storage import spatialdata_store
from harpy_core.tiling import repeating, tile
from harpy_core.tiling.tile import repeated_names, tile_raster


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


@pytest.mark.parametrize("held", [0, 3000, 10**6])
def test_copy_from_a_source_too_large_for_memory_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    raster = store(tmp_path / "source.zarr")
    monkeypatch.setattr(repeating, "IN_MEMORY", 3000)
    monkeypatch.setattr(tile, "HELD", held)
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
        tile_raster(raster, path, (3, 40, 20), (1, 8, 8), method=method)
        check(path, raster, (3, 40, 20))


@pytest.mark.parametrize(
    ("chunks", "settings"),
    [
        ([2, 16, 16], {"method": "link"}),
        ([2, 16, 16], {"method": "copy"}),
        ([2, 16, 16], {"method": "link", "codec": "none"}),
        ([4, 32, 48], {"method": "link", "codec": "none"}),
        ([3, 20, 16], {"method": "copy", "codec": "none"}),
    ],
)
def test_the_plan_tells_what_an_image_takes(
    tmp_path: Path, chunks: Any, settings: dict[str, Any]
) -> None:
    raster = store(tmp_path / "source.zarr", compressors=None)
    path, own = tmp_path / "tiled.zarr", set(inodes(tmp_path / "source.zarr"))
    tile_raster(raster, path, (12, 64, 96), tuple(chunks), **settings)
    section = Tile(c=12, y=64, x=96, chunks=chunks, **settings)
    tiled = describe(path)
    plan = tile_plan(describe(tmp_path / "source.zarr"), section)
    files = [f for f in (path / "images/image/s0/c").rglob("*") if f.is_file()]
    taken = {f.stat().st_ino: f.stat().st_size for f in files if f.stat().st_ino not in own}
    labels = np.prod(tiled.labels_shape) * 4
    checksums = 4 * len(taken) if "codec" in settings else 0
    assert plan.bytes_written - labels == sum(taken.values()) - checksums


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("chunks", "shard"), [([2, 512, 512], None), ([2, 512, 512], [2, 2048, 2048])]
)
def test_tiling_holds_what_its_plan_says(
    chunks: Any, shard: Any, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster = store(tmp_path / "source.zarr", (2, 900, 1000), (2, 300, 500))
    for module in (repeating, tile_plans):
        monkeypatch.setattr(module, "IN_MEMORY", 2**30 if in_memory else 0)
    section = Tile(c=2, y=2048, x=2048, chunks=chunks, shard=shard, codec="lz4")
    plan = tile_plan(describe(tmp_path / "source.zarr"), section)
    tracemalloc.start()
    tile_raster(
        raster,
        tmp_path / "tiled.zarr",
        (2, 2048, 2048),
        tuple(chunks),
        "copy",
        codec="lz4",
        shard=shard and tuple(shard),
        threads=1,
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= plan.memory(at_work(1)) <= 5 * peak


def test_every_layer_is_repeated_with_labels_of_its_own(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    nuclei = np.where(np.arange(48) % 2, np.asarray(raster.labels[...]) // 3, 0).astype("u1")
    stored = zarr.create_array(tmp_path / "nuclei", data=nuclei, chunks=(10, 48))
    placed = hc.place_labels(nuclei[:16, :24], (32, 48), 2)
    layers = {**raster.layers, "nucleus": stored, "coarse": placed}
    several = replace(raster, layers=layers)
    tile_raster(several, tmp_path / "tiled.zarr", (2, 65, 97), (2, 16, 16), "copy")
    for element, array in zip(("labels", "nucleus", "coarse"), layers.values(), strict=True):
        alone = replace(raster, layers={element: array})
        _, expected = oracle(alone, (2, 65, 97))
        found = open_raster(tmp_path / "tiled.zarr", "image", element).labels
        np.testing.assert_array_equal(found[...], expected)
    whole = spatialdata.read_zarr(tmp_path / "tiled.zarr")
    assert set(whole.labels) == {"labels", "nucleus", "coarse"}


def test_layers_that_cannot_be_told_apart_or_repeated_are_refused(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    named = {"cells": raster.labels, "labels": raster.labels}
    outlines = hc.read_polygons(square(tmp_path / "cells.geojson"), (32, 48))
    for layers, told in (
        (named, "the store calls 'cells' 'labels'; rename the other layer"),
        ({**raster.layers, "outline": outlines}, "'outline' are polygons; give a label image"),
    ):
        with pytest.raises(InputError, match=told):
            tile_raster(replace(raster, layers=layers), tmp_path / "t.zarr", (2, 64, 96))
    assert not (tmp_path / "t.zarr").exists()


def square(path: Path) -> Path:
    """A file with one polygon."""
    corners = [[2, 2], [8, 2], [8, 5], [2, 5], [2, 2]]
    path.write_text(json.dumps([{"geometry": {"type": "Polygon", "coordinates": [corners]}}]))
    return path


def test_copy_makes_a_file_for_each_chunk(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    found = tile_raster(raster, tmp_path / "tiled.zarr", (6, 70, 100), method="copy")
    files = inodes(tmp_path / "tiled.zarr/images")
    assert len(set(files)) == len(files) == 3 * 5 * 7
    assert not set(files) & set(inodes(tmp_path / "source.zarr"))
    assert (found.linked, found.cloned, found.copied) == (0, 0, 105)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("method", ["link", "copy"])
def test_any_codec_and_shard_can_be_asked_for(tmp_path: Path, codec: Any, method: Any) -> None:
    raster = store(tmp_path / "source.zarr")
    path = tmp_path / "tiled.zarr"
    tile_raster(
        raster, path, (5, 70, 100), (2, 8, 16), method=method, codec=codec, shard=(4, 32, 48)
    )
    check(path, raster, (5, 70, 100))
    image = zarr.open_array(path / "images/image/s0", mode="r")
    labels = zarr.open_array(path / "labels/labels/s0", mode="r")
    assert (image.shards, image.chunks) == ((4, 32, 48), (2, 8, 16))
    assert (labels.shards, labels.chunks) == ((32, 48), (8, 16))
    names = [getattr(c, "cname", None) and c.cname.value for c in (*image.compressors,)]
    assert names == ([None] if codec == "none" else [codec, None])
    assert isinstance(image.compressors[-1], Crc32cCodec)
    assert len(labels.compressors) == len(image.compressors)


def test_a_shard_is_no_larger_than_the_image(tmp_path: Path) -> None:
    raster = store(tmp_path / "source.zarr")
    path = tmp_path / "tiled.zarr"
    tile_raster(raster, path, (3, 40, 20), (2, 16, 16), method="copy", shard=(20, 320, 320))
    check(path, raster, (3, 40, 20))
    assert zarr.open_array(path / "images/image/s0", mode="r").shards == (4, 48, 32)


def test_labels_of_2401_sparse_chunks_fit_200_megabytes(tmp_path: Path) -> None:
    known = REGISTRY["tissue-terapixel"]
    assert known.cells_per_megapixel is not None
    sparse = Tissue(known.shape, known.seed, known.cells_per_megapixel)
    root = spatialdata_store.create(tmp_path / "source.zarr")
    spatialdata_store.create_image(root, "image", (1, 2048, 2048), (1, 2048, 2048), "u1", ["a"])
    labels = spatialdata_store.create_labels(root, "labels", (2048, 2048), (2048, 2048), "u4")
    labels[...] = tissue_tile(sparse, (2048, 4096), (0, 2048))[1]
    path = tmp_path / "tiled.zarr"
    tile_raster(opened(tmp_path / "source.zarr"), path, (1, 4096, 2048), method="link")
    files = [f for f in (path / "labels/labels/s0/c").rglob("*") if f.is_file()]
    assert len(files) == 2
    assert all(2401 * f.stat().st_size < 200e6 for f in files)


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
    [
        ((0, 8, 8), None, "copy"),
        ((2, 8, 8), (1, 0, 8), "copy"),
        ((2, 8, 8), None, "symlink"),
        ((9000, 1000, 1000), (9000, 1000, 1000), "copy"),
    ],
)
def test_impossible_sizes_are_refused(tmp_path: Path, shape: Any, chunks: Any, method: Any) -> None:
    raster = store(tmp_path / "source.zarr")
    with pytest.raises(InputError):
        tile_raster(raster, tmp_path / "tiled.zarr", shape, chunks, method=method)


@pytest.mark.parametrize("shard", [(3, 16, 16), (2, 24, 16)])
def test_shards_that_are_no_multiples_of_the_chunks_are_refused(tmp_path: Path, shard: Any) -> None:
    raster = store(tmp_path / "source.zarr")
    with pytest.raises(InputError, match="multiples of the chunks"):
        tile_raster(raster, tmp_path / "t.zarr", (4, 64, 96), (2, 16, 16), "copy", shard=shard)


def test_the_mean_over_the_tiled_store_is_that_of_the_source_repeat_by_repeat(
    tmp_path: Path,
) -> None:
    raster = store(tmp_path / "source.zarr")
    tile_raster(raster, tmp_path / "tiled.zarr", (4, 96, 96), (3, 20, 31), "copy")
    tiled = opened(tmp_path / "tiled.zarr")
    found = aggregate_stats(tiled.image, tiled.labels, ["mean"], channels=tiled.channels)
    wanted = means(np.asarray(raster.image[...]), np.asarray(raster.labels[...]))
    cells = wanted.shape[1]
    assert found.shape == (3 * 2 * cells, 4)
    for repeat in range(3 * 2):
        values = found.X[repeat * cells : (repeat + 1) * cells].T
        np.testing.assert_array_equal(values, np.tile(wanted, (2, 1)))


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
