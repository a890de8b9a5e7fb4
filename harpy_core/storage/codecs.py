"""The codecs we write with: one definition for Zarr's metadata and for our own encoding.

Each chunk is followed by its CRC-32C, which readers check: Blosc takes a flipped bit for a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numcodecs.blosc
import numpy as np
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from harpy_core.config.crops import Codec
from harpy_core.phases import phase
from harpy_core.storage.checksums import trailer, verified

numcodecs.blosc.use_threads = False

_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}
Shuffle = Literal["noshuffle", "bitshuffle"]


@dataclass(frozen=True, slots=True)
class _Settings:
    level: int
    shuffle: Shuffle


Encoded = tuple[bytes, bytes]
"""A chunk and its checksum, which follow each other in a file: a copy of 39 MB to join them takes
half as long as LZ4 itself."""

Content = Literal["crops", "full crops", "image", "labels"]

_SETTINGS: dict[Content, dict[str, _Settings]] = {
    # Stretches of zeros between pixels whose lower bits are noise: unshuffled they are written and
    # read at twice the speed of shuffled ones, and are no larger (IHC, CODEX, synthetic).
    "crops": {"lz4": _Settings(1, "noshuffle"), "zstd": _Settings(3, "noshuffle")},
    # Blocks are larger at higher levels, and a last one of odd size is not shuffled by bits.
    "full crops": {"lz4": _Settings(1, "bitshuffle"), "zstd": _Settings(3, "bitshuffle")},
    # Counts of neighbouring pixels are alike in their upper bits, and noise in their lower ones.
    "image": {"lz4": _Settings(5, "bitshuffle"), "zstd": _Settings(3, "bitshuffle")},
    # A label fills a row of pixels, and much the same row below: what repeats is whole pixels.
    # A plane of 2048 x 2048 takes 65 kB and 2 ms to decode; bit by bit, with LZ4, 630 kB and 8 ms.
    "labels": {"lz4": _Settings(5, "noshuffle"), "zstd": _Settings(5, "noshuffle")},
}


PLAIN = (ZstdCodec(), Crc32cCodec())
"""Compressors of `zarr.create_array` for small arrays: Zarr's own choice, and a checksum."""


def compressors(
    codec: Codec, dtype: np.dtype, content: Content = "crops"
) -> tuple[BloscCodec | Crc32cCodec, ...]:
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
    settings = _SETTINGS[content][codec]
    return (
        BloscCodec(
            cname=codec,
            clevel=settings.level,
            shuffle=settings.shuffle,
            typesize=dtype.itemsize,
        ),
        Crc32cCodec(),
    )


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
    settings = _SETTINGS[content][codec]
    with phase("encode"):
        encoded: bytes = Blosc(codec, settings.level, _SHUFFLES[settings.shuffle]).encode(flat)
        return encoded, trailer(encoded)


def decode(codec: Codec, encoded: Any, out: np.ndarray) -> None:
    """Decode what `encode` made, into an array of the same shape and type.

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
        numcodecs.blosc.decompress(encoded, flat)
