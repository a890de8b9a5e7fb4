"""The codecs we write with: one definition for Zarr's metadata and for our own encoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numcodecs.blosc
import numpy as np
from numcodecs import Blosc
from zarr.codecs import BloscCodec

from harpy_core.config import Codec

numcodecs.blosc.use_threads = False

_SHUFFLES = {
    "noshuffle": Blosc.NOSHUFFLE,
    "shuffle": Blosc.SHUFFLE,
    "bitshuffle": Blosc.BITSHUFFLE,
}
Shuffle = Literal["noshuffle", "shuffle", "bitshuffle"]


@dataclass(frozen=True, slots=True)
class _Settings:
    level: int
    shuffle: Shuffle


# Crops are half background: their bytes compress and decode better whole than bit by bit.
_SETTINGS = {"lz4": _Settings(1, "shuffle"), "zstd": _Settings(3, "shuffle")}


def _shuffle(settings: _Settings, dtype: np.dtype) -> Shuffle:
    return settings.shuffle if dtype.itemsize > 1 else "noshuffle"


def compressors(codec: Codec, dtype: np.dtype) -> tuple[BloscCodec, ...]:
    """What `zarr.create_array` is told of a codec.

    Parameters
    ----------
    codec
        ``lz4``, ``zstd`` or ``none``.
    dtype
        Type of the items.
    """
    if codec == "none":
        return ()
    settings = _SETTINGS[codec]
    return (
        BloscCodec(
            cname=codec,
            clevel=settings.level,
            shuffle=_shuffle(settings, dtype),
            typesize=dtype.itemsize,
        ),
    )


def encode(codec: Codec, values: np.ndarray) -> bytes:
    """A chunk as a file holds it, independent of the array.

    Parameters
    ----------
    values
        C-contiguous, little-endian.
    """
    flat = values.reshape(-1)
    if codec == "none":
        return flat.tobytes()
    settings = _SETTINGS[codec]
    shuffle = _SHUFFLES[_shuffle(settings, values.dtype)]
    encoded: bytes = Blosc(codec, settings.level, shuffle).encode(flat)
    return encoded


def decode(codec: Codec, encoded: Any, out: np.ndarray) -> None:
    """Decode what `encode` made, into an array of the same shape and type."""
    flat = out.reshape(-1).view(np.uint8)
    if codec == "none":
        flat[...] = np.frombuffer(encoded, np.uint8)
    else:
        numcodecs.blosc.decompress(encoded, flat)
