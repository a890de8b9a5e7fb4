"""Damaged files: all are found in our own stores, and of others what can be found is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from damages import DAMAGES, appended, damage, flipped
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from harpy_core.errors import InputError
from harpy_core.raster import open_raster
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.storage.codecs import compressors

PIXELS = np.random.default_rng(3).integers(0, 4000, (2, 48, 48)).astype("u2")
INDEX = (1, 1, 2)


def stored(folder: Path, codecs: Any, shards: Any, **options: Any) -> zarr.Array:
    return zarr.create_array(
        folder / "a.zarr", data=PIXELS, chunks=(1, 16, 16), shards=shards, compressors=codecs
    )


def file_of(array: zarr.Array, shards: Any) -> Path:
    index = (
        INDEX
        if shards is None
        else tuple(i * c // s for i, c, s in zip(INDEX, (1, 16, 16), shards, strict=True))
    )
    return Path(array.store_path.store.root) / array.metadata.encode_chunk_key(index)


def read(array: zarr.Array) -> np.ndarray:
    out = np.empty((1, 16, 16), "u2")
    ChunkFiles(array, strict=True).read(INDEX, out)
    return out


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("shards", [None, (1, 48, 48)])
@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_any_damage_of_what_we_write_is_found_and_the_chunk_named(
    codec: Any, shards: Any, how: Callable[[bytes], bytes | None], tmp_path: Path
) -> None:
    array = stored(tmp_path, compressors(codec, PIXELS.dtype, "image"), shards)
    np.testing.assert_array_equal(read(array), PIXELS[1:, 16:32, 32:])
    damage(file_of(array, shards), how)
    if shards is not None and how is flipped:
        # The middle of the file is another chunk's, which alone is lost.
        with pytest.raises(InputError, match=r"chunk .* cannot be read"):
            for y, x in np.ndindex(3, 3):
                ChunkFiles(array).read((1, y, x), np.empty((1, 16, 16), "u2"))
        return
    with pytest.raises(InputError, match=re.escape(f"chunk {INDEX}")):
        read(array)


@pytest.mark.parametrize("how", [d for d in DAMAGES if d is not flipped])
@pytest.mark.parametrize("codec", [BloscCodec(), ZstdCodec(), GzipCodec(), None])
def test_without_a_checksum_a_file_of_another_length_is_found(
    codec: Any, how: Callable[[bytes], bytes | None], tmp_path: Path
) -> None:
    array = stored(tmp_path, codec, None)
    damage(file_of(array, None), how)
    with pytest.raises(InputError, match=re.escape(f"chunk {INDEX}")):
        read(array)


@pytest.mark.parametrize("how", [d for d in DAMAGES if d is not appended])
@pytest.mark.parametrize("name", ["zarr.json", "raw/image/zarr.json", "cells/zarr.json"])
def test_damaged_metadata_is_refused_in_one_line(
    name: str, how: Callable[[bytes], bytes | None], tmp_path: Path
) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    group.create_array("raw/image", data=PIXELS, chunks=(1, 16, 16))
    group.create_array("cells", data=(PIXELS[0] % 9).astype("u4"), chunks=(16, 16))
    file = tmp_path / "s.zarr" / name
    # A bit of a quotation mark: one of a name or a number may leave a document that is valid.
    at = file.read_bytes().index(b'"node_type"') if how is flipped else 0
    if how is flipped:
        content = file.read_bytes()
        file.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
    else:
        damage(file, how)
    with pytest.raises(InputError) as caught:
        open_raster(tmp_path / "s.zarr", "raw/image", "cells")
    assert str(tmp_path / "s.zarr") in str(caught.value)
    assert "\n" not in str(caught.value)
