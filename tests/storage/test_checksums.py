"""Every chunk that we write carries a checksum, which plain Zarr and our readers check."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from crop_cases import OPTIONS, tissue
from zarr.codecs import Crc32cCodec, ShardingCodec

import harpy_core as hc
from harpy_core.aggregate.fields import join_tables
from harpy_core.aggregate.store import aggregate_to_store
from harpy_core.errors import InputError
from harpy_core.raster import open_raster
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.storage import spatialdata_store
from harpy_core.storage.checksums import crc32c, trailer, verified
from harpy_core.tiling.tile import tile_raster


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made_source(folder: Path) -> Path:
    case = tissue()
    root = spatialdata_store.create(folder)
    names = [str(c) for c in range(len(case.image))]
    image = spatialdata_store.create_image(
        root, "image", case.image.shape, (2, 16, 16), case.image.dtype, names
    )
    image[...] = case.image
    labels = spatialdata_store.create_labels(root, "labels", case.labels.shape, (16, 16), "u4")
    labels[...] = case.labels
    return folder


def tiled(codec: Any, shard: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        raster = open_raster(made_source(folder / "source"), image="image", labels="labels")
        options = {"codec": codec, "shard": shard}
        tile_raster(raster, folder / "tiled", (3, 40, 40), (1, 20, 20), "copy", **options)
        return folder / "tiled"

    return make


def cropped(**options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        case = tissue()
        hc.extract_instances(case.image, case.labels, folder / "crops", **{**OPTIONS, **options})
        return folder / "crops"

    return make


def instances(folder: Path) -> Path:
    hc.find_instances(tissue().labels).write(folder / "instances")
    return folder / "instances"


def table(folder: Path) -> Path:
    case = tissue()
    found = hc.find_instances(case.labels)
    aggregate_to_store(case.image, case.labels, folder / "table", found, region="cells")
    return folder / "table"


def joined(folder: Path) -> Path:
    join_tables({"a": table(folder), "b": folder / "table"}, folder / "joined")
    return folder / "joined"


STORES: dict[str, Callable[[Path], Path]] = {
    "tiled": tiled(None, None),
    "tiled, sharded": tiled("zstd", (2, 40, 40)),
    "tiled, plain bytes": tiled("none", None),
    "crops": cropped(),
    "crops, sharded": cropped(shard_size=8),
    "crops, plain bytes": cropped(codec="none"),
    "made data": lambda folder: made_source(folder / "made"),
    "instances": instances,
    "table": table,
    "joined fields": joined,
}


def arrays(store: Path) -> Iterator[tuple[Path, zarr.Array]]:
    for metadata in sorted(store.rglob("zarr.json")):
        node = zarr.open(metadata.parent, mode="r")
        if isinstance(node, zarr.Array):
            yield metadata.parent, node


@pytest.mark.parametrize("kind", STORES)
def test_a_flipped_bit_is_found_wherever_it_is(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flipped = 0
    for folder, array in arrays(STORES[kind](tmp_path)):
        files = [f for f in folder.rglob("*") if f.is_file() and f.name != "zarr.json"]
        for file in rng.permutation(np.array(files, object))[:3].tolist():
            whole = file.read_bytes()
            at = int(rng.integers(len(whole)))
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
            with pytest.raises(ValueError, match=r"(?i)checksum"):
                np.asarray(array[...])
            file.write_bytes(whole)
            flipped += 1
        np.asarray(array[...])
    assert flipped


def test_our_reader_names_the_chunk_that_was_damaged(tmp_path: Path) -> None:
    image = zarr.open_array(made_source(tmp_path / "made") / "images/image/s0", mode="r")
    file = tmp_path / "made/images/image/s0/c/1/0/1"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    reader = ChunkFiles(image)
    assert reader.direct
    out = np.empty(image.chunks, image.dtype)
    with pytest.raises(InputError, match=r"chunk \(1, 0, 1\) cannot be read \(its checksum does"):
        reader.read((1, 0, 1), out)
    reader.read((1, 0, 0), out)


def test_links_to_a_source_add_no_checksum(tmp_path: Path) -> None:
    case = tissue()
    root = spatialdata_store.create(tmp_path / "source")
    image = spatialdata_store.create_image(
        root, "image", (2, 32, 32), (1, 16, 16), "u2", ["a", "b"], compressors=None
    )
    image[...] = case.image[:2, :32, :32]
    labels = spatialdata_store.create_labels(root, "labels", (32, 32), (16, 16), "u4")
    labels[...] = case.labels[:32, :32]
    raster = open_raster(tmp_path / "source", image="image", labels="labels")
    tile_raster(raster, tmp_path / "tiled", (2, 32, 64), (1, 16, 16), "link")
    linked = zarr.open_array(tmp_path / "tiled/images/image/s0", mode="r")
    assert linked.compressors == ()
    np.testing.assert_array_equal(linked[:, :, 32:], image[...])


def test_every_array_that_we_write_declares_it(tmp_path: Path) -> None:
    for kind, make in STORES.items():
        (tmp_path / kind).mkdir()
        for _, array in arrays(make(tmp_path / kind)):
            codecs = list(array.metadata.codecs)
            if isinstance(codecs[0], ShardingCodec):
                codecs = list(codecs[0].codecs)
            # What anndata has for nothing at all is no data of ours.
            nothing = array.attrs.get("encoding-type") == "null"
            assert nothing or isinstance(codecs[-1], Crc32cCodec), (kind, array.path)


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_the_checksum_of_any_buffer_is_that_of_its_bytes(size: int) -> None:
    content = np.random.default_rng(0).bytes(size)
    for buffer in (content, bytearray(content), memoryview(content), np.frombuffer(content, "u1")):
        assert crc32c(buffer) == google_crc32c.value(content)
    assert crc32c(content[size // 2 :], crc32c(content[: size // 2])) == crc32c(content)
    assert bytes(verified(content + trailer(content))) == content


@pytest.mark.parametrize("content", [b"", b"abc", b"abcd1234"])
def test_what_does_not_match_its_checksum_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|does not match"):
        verified(content)
