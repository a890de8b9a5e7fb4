"""The codecs we write with: one definition for Zarr's metadata and for our own encoding.

Each chunk is followed by its CRC-32C, which readers check: Blosc takes a flipped bit for a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from harpy_core.config.crops import Codec
from harpy_core.phases import phase
from harpy_core.storage.checksums import trailer, verified

numcodecs.blosc.use_threads = False

_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
Shuffle = Literal["noshuffle", "bitshuffle"]


class _Way(Protocol):
    """A way to encode chunks: for Zarr's metadata, and for our own encoding."""

    def compressor(self, itemsize: int) -> BloscCodec | ZstdCodec:
        """Compressor of `zarr.create_array`."""

    def encode(self, flat: np.ndarray) -> bytes:
        """Encode items."""

    def decode(self, encoded: Any, flat: np.ndarray) -> None:
        """Decode into bytes."""


@dataclass(frozen=True, slots=True)
class _InBlosc:
    name: Literal["lz4", "zstd"]
    level: int
    shuffle: Shuffle

    def compressor(self, itemsize: int) -> BloscCodec:
        return BloscCodec(
            cname=self.name, clevel=self.level, shuffle=self.shuffle, typesize=itemsize
        )

    def encode(self, flat: np.ndarray) -> bytes:
        encoded: bytes = Blosc(self.name, self.level, _SHUFFLES[self.shuffle]).encode(flat)
        return encoded

    def decode(self, encoded: Any, flat: np.ndarray) -> None:
        numcodecs.blosc.decompress(encoded, flat)


@dataclass(frozen=True, slots=True)
class _Zstd:
    level: int

    def compressor(self, itemsize: int) -> ZstdCodec:
        return ZstdCodec(level=self.level, checksum=False)

    def encode(self, flat: np.ndarray) -> bytes:
        encoded: bytes = Zstd(self.level).encode(flat)
        return encoded

    def decode(self, encoded: Any, flat: np.ndarray) -> None:
        numcodecs.zstd.decompress(encoded, flat)


Encoded = tuple[bytes, bytes]
"""A chunk and its checksum, which follow each other in a file: a copy of 39 MB to join them takes
half as long as LZ4 itself."""

Content = Literal["crops", "image", "labels"]

_WAYS: dict[Content, dict[str, _Way]] = {
    # Measured on IHC, CODEX, IMC and synthetic tissue by benchmarks/codecs.py. Unshuffled crops are
    # read three to eight times as fast as shuffled ones. Windows of neighbours hold the same
    # pixels: Zstandard finds them again where Blosc, which cuts chunks into blocks, cannot.
    "crops": {"lz4": _InBlosc("lz4", 1, "noshuffle"), "zstd": _Zstd(-3)},
    # Counts of neighbouring pixels are alike in their upper bits, and noise in their lower ones.
    "image": {"lz4": _InBlosc("lz4", 5, "bitshuffle"), "zstd": _InBlosc("zstd", 3, "bitshuffle")},
    # A label fills a row of pixels, and much the same row below: what repeats is whole pixels.
    # A plane of 2048 x 2048 takes 65 kB and 2 ms to decode; bit by bit, with LZ4, 630 kB and 8 ms.
    "labels": {"lz4": _InBlosc("lz4", 5, "noshuffle"), "zstd": _InBlosc("zstd", 5, "noshuffle")},
}


PLAIN = (ZstdCodec(), Crc32cCodec())
"""Compressors of `zarr.create_array` for small arrays: Zarr's own choice, and a checksum."""


def compressors(
    codec: Codec, dtype: np.dtype, content: Content = "crops"
) -> tuple[BloscCodec | ZstdCodec | Crc32cCodec, ...]:
    """Compressors by which `zarr.create_array` writes a codec.

    Parameters
    ----------
    codec
        ``lz4``, ``zstd`` or ``none``.
    dtype
        Type of the items.
    content
        Kind of content.
    """
    if codec == "none":
        return (Crc32cCodec(),)
    return (_WAYS[content][codec].compressor(dtype.itemsize), Crc32cCodec())


def encode(codec: Codec, values: np.ndarray, content: Content = "crops") -> Encoded:
    """Encode a chunk as a file holds it, independent of the array.

    Parameters
    ----------
    values
        C-contiguous, little-endian.
    content
        Kind of content.
    """
    flat = values.reshape(-1)
    if codec == "none":
        return flat.tobytes(), trailer(flat)
    with phase("encode"):
        encoded = _WAYS[content][codec].encode(flat)
        return encoded, trailer(encoded)


def decode(codec: Codec, encoded: Any, out: np.ndarray) -> None:
    """Decode what `encode` made of crops, into an array of the same shape and type.

    Raises
    ------
    ValueError
        The checksum does not match.
    """
    encoded = verified(encoded)
    flat = out.reshape(-1).view(np.uint8)
    if codec == "none":
        flat[...] = np.frombuffer(encoded, np.uint8)
    else:
        _WAYS["crops"][codec].decode(encoded, flat)
