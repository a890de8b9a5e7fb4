"""Files of a Zarr array in a folder, and the encoding by which another array can use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numcodecs
import zarr
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec
from zarr.core.metadata.v2 import ArrayV2Metadata

from harpy_core.raster.formats.format import ReusableFiles

_SHUFFLES: dict[int, Literal["noshuffle", "shuffle", "bitshuffle"]] = {
    0: "noshuffle",
    1: "shuffle",
    2: "bitshuffle",
}


def reusable(array: zarr.Array, folder: str) -> ReusableFiles | None:
    """Return the files of an array in a folder; None if no encoding of Zarr 3 reads them."""
    encoding = _encoding(array)
    if encoding is None:
        return None
    root = Path(folder) / array.path

    def path(index: tuple[int, ...]) -> Path:
        return root / array.metadata.encode_chunk_key(index)

    return ReusableFiles(tuple(array.shards or array.chunks), encoding, path)


def _encoding(array: zarr.Array) -> dict[str, Any] | None:
    metadata = array.metadata
    if not isinstance(metadata, ArrayV2Metadata):
        return {
            "filters": array.filters,
            "serializer": array.serializer,
            "compressors": array.compressors,
            "shards": array.shards,
            "fill_value": array.fill_value,
        }
    compressors = _as_v3(metadata.compressor, array.dtype.itemsize)
    if metadata.filters or metadata.order != "C" or compressors is None:
        return None
    return {
        "serializer": BytesCodec(endian="big" if array.dtype.byteorder == ">" else "little"),
        "compressors": compressors,
        "fill_value": metadata.fill_value or 0,
    }


def _as_v3(compressor: Any, itemsize: int) -> list[Any] | None:
    """Return the Zarr 3 codec that reads what a Zarr 2 compressor wrote; None if there is none."""
    if compressor is None:
        return []
    if isinstance(compressor, numcodecs.Blosc):
        # Decoding follows the header of each file; -1 chose the shuffle by the size of the items.
        return [
            BloscCodec(
                cname=compressor.cname,
                clevel=compressor.clevel,
                shuffle=_SHUFFLES.get(compressor.shuffle, "shuffle"),
                typesize=itemsize,
                blocksize=compressor.blocksize,
            )
        ]
    if isinstance(compressor, numcodecs.Zstd):
        return [ZstdCodec(level=compressor.level)]
    if isinstance(compressor, numcodecs.GZip):
        return [GzipCodec(level=compressor.level)]
    return None
