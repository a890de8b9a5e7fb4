"""Chunks in shards, read straight from their files, and the shards we write ourselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ShardingCodec, ZstdCodec

from harpy_core.errors import InputError
from harpy_core.raster.chunks import ChunkFiles, covering
from harpy_core.storage import shards

SHAPE, CHUNKS, SHARDS = (5, 21, 34), (2, 4, 8), (4, 8, 24)
CODECS: dict[str, Any] = {
    "none": None,
    "blosc": BloscCodec(cname="lz4"),
    "zstd": ZstdCodec(level=1, checksum=True),
    "gzip": GzipCodec(),
}


def pixels(dtype: str = "u2") -> np.ndarray:
    return np.random.default_rng(5).integers(0, 250, SHAPE).astype(dtype)


def sharded(folder: Path, **options: Any) -> zarr.Array:
    """An array in shards."""
    return zarr.create_array(folder / "a", shape=SHAPE, chunks=CHUNKS, shards=SHARDS, **options)


def assert_read(array: zarr.Array, expected: np.ndarray) -> None:
    files = ChunkFiles(array)
    assert files.direct
    found = np.zeros([-(-n // c) * c for n, c in zip(SHAPE, CHUNKS, strict=True)], array.dtype)
    for index in covering(tuple((0, n) for n in SHAPE), CHUNKS):
        out = np.full(CHUNKS, 77, array.dtype)
        files.read(index, out)
        found[tuple(slice(i * n, i * n + n) for i, n in zip(index, CHUNKS, strict=True))] = out
    np.testing.assert_array_equal(found[tuple(map(slice, SHAPE))], expected)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f8"])
def test_chunks_in_shards_are_read_from_their_files(codec: str, dtype: str, tmp_path: Path) -> None:
    array = sharded(tmp_path, dtype=dtype, compressors=CODECS[codec])
    array[...] = pixels(dtype)
    assert_read(array, pixels(dtype))


@pytest.mark.parametrize("where", ["start", "end"])
@pytest.mark.parametrize("endian", ["big", "little"])
def test_the_index_may_stand_at_either_end(where: str, endian: str, tmp_path: Path) -> None:
    codec = ShardingCodec(
        chunk_shape=CHUNKS, codecs=[BytesCodec(endian=endian)], index_location=where
    )
    array = zarr.create(
        store=tmp_path / "a", shape=SHAPE, chunks=SHARDS, dtype="u2", codecs=[codec], zarr_format=3
    )
    array[...] = pixels()
    assert array.chunks == CHUNKS
    assert_read(array, pixels())


def test_a_chunk_that_a_shard_leaves_out_is_the_fill_value(tmp_path: Path) -> None:
    array = sharded(tmp_path, dtype="u2", fill_value=9)
    array[:2, :4, :8] = 1
    expected = np.full(SHAPE, 9, "u2")
    expected[:2, :4, :8] = 1
    assert_read(array, expected)
    out = np.zeros(CHUNKS, "u2")
    for index in ((0, 0, 1), (2, 0, 0)):
        with pytest.raises(InputError, match="is missing"):
            ChunkFiles(array, strict=True).read(index, out)


@pytest.mark.parametrize("left", [0, 3, 40, -1])
def test_a_shard_that_is_cut_off_is_refused(left: int, tmp_path: Path) -> None:
    array = sharded(tmp_path, dtype="u2")
    array[...] = pixels()
    file = tmp_path / "a" / "c" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(InputError, match=r"chunk \(0, 0, 0\) cannot be read"):
        ChunkFiles(array).read((0, 0, 0), np.zeros(CHUNKS, "u2"))


@given(pieces=st.lists(st.none() | st.binary(max_size=30), min_size=1, max_size=9))
def test_pieces_come_back_from_a_file(pieces: list[bytes | None]) -> None:
    file = b"".join(
        part or b"" for part in shards.packed([None if p is None else (p,) for p in pieces])
    )
    assert len(file) == sum(len(p or b"") for p in pieces) + shards.index_bytes(len(pieces))
    for number, piece in enumerate(pieces):
        found = shards.piece_of(file, number, len(pieces))
        assert found == piece if piece is not None else found is None
