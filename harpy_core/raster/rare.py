"""Decoders for rare codecs, filters and orders of axes, which never unpack more than they may.

`harpy_core.raster.chunks` decodes the usual ones straight into place.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numcodecs
import numpy as np
from numcodecs.compat import ensure_contiguous_ndarray
from zarr.codecs import BytesCodec, TransposeCodec

from harpy_core.raster.untrusted import CODECS

_GROWTH = 8
"""Bytes that a filter makes of one, at most: ``packbits`` keeps eight pixels in a byte."""
_OVERHEAD = 2**16
_LZMA_MEMORY = 2**28
"""Bytes that LZMA's dictionary may take; the strongest preset needs 65 MB."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Decoder of chunks in several steps.

    Attributes
    ----------
    compressors, filters
        Codecs of numcodecs, in the order in which a chunk was encoded.
    order
        Axes of the chunk in the order in which its pixels are stored.
    shape
        Pixels of a chunk along its own axes.
    item
        Bytes of a pixel.
    """

    compressors: tuple[Any, ...]
    filters: tuple[Any, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]
    item: int

    def __call__(self, encoded: Any, out: np.ndarray) -> None:
        """Fill `out`, flat bytes.

        Raises
        ------
        ValueError
            The chunk is damaged, or unpacks to another size.
        """
        content = encoded
        for codec in reversed(self.compressors):
            content = unpacked(codec, content, _GROWTH * out.size + _OVERHEAD)
        for codec in reversed(self.filters):
            content = codec.decode(content)
        found = ensure_contiguous_ndarray(content).reshape(-1).view(np.uint8)
        if found.size != out.size:
            raise ValueError(f"{found.size:,} bytes instead of {out.size:,}")
        pixel = f"V{self.item}"
        stored = found.view(pixel).reshape([self.shape[axis] for axis in self.order])
        out.view(pixel).reshape(self.shape)[...] = stored.transpose(np.argsort(self.order))


def steps_of_format_2(
    compressor: Any, filters: Sequence[Any], order: str, shape: Sequence[int], item: int
) -> Steps:
    """Return the decoder of an array of Zarr format 2; `order` is ``C`` or ``F``."""
    axes = range(len(shape))
    return Steps(
        () if compressor is None else (compressor,),
        tuple(filters),
        tuple(axes if order == "C" else reversed(axes)),
        tuple(shape),
        item,
    )


def steps_of_format_3(chain: Sequence[Any], shape: Sequence[int], item: int) -> Steps | None:
    """Return the decoder of an array of Zarr format 3; None where zarr must decode it.

    Parameters
    ----------
    chain
        Codecs of a chunk, in the order in which it is encoded.
    """
    order = tuple(range(len(shape)))
    before: list[Any] = []
    codecs = list(chain)
    while codecs and not isinstance(codecs[0], BytesCodec):
        codec = codecs.pop(0)
        if isinstance(codec, TransposeCodec) and not before:
            order = tuple(order[axis] for axis in codec.order)
        else:
            before.append(_of_numcodecs(codec))
    after = [_of_numcodecs(codec) for codec in codecs[1:]]
    if not codecs or None in before or None in after:
        return None
    return Steps(tuple(after), tuple(before), order, tuple(shape), item)


def _of_numcodecs(codec: Any) -> Any:
    """Return a codec of zarr as one of numcodecs; None if there is none."""
    described = codec.to_dict()
    name = str(described["name"]).removeprefix("numcodecs.")
    if name not in CODECS or name in ("transpose", "sharding_indexed"):
        return None
    own = described["name"] != name
    configuration = described.get("configuration", {}) if own else {}
    return numcodecs.get_codec({"id": name, **configuration})


def unpacked(codec: Any, encoded: Any, most: int) -> Any:
    """Decode a compressor of numcodecs.

    Parameters
    ----------
    most
        Bytes that it may unpack to.

    Raises
    ------
    ValueError
        It unpacks to more, or is cut off.
    """
    name = codec.codec_id
    if name in _STREAMS:
        stream = _STREAMS[name](codec)
        found = stream.decompress(encoded, most + 1)
        _refuse_more(len(found), most)
        if not stream.eof:
            raise ValueError("it is cut off")
        return found
    if name in _SIZES:
        _refuse_more(_SIZES[name](memoryview(encoded)), most)
    return codec.decode(encoded)


def _refuse_more(size: int, most: int) -> None:
    if size > most:
        raise ValueError(f"it unpacks to more than {most:,} bytes")


def _lzma(codec: Any) -> Any:
    if codec.format == lzma.FORMAT_RAW:
        return lzma.LZMADecompressor(codec.format, filters=codec.filters)
    return lzma.LZMADecompressor(codec.format, memlimit=_LZMA_MEMORY)


_STREAMS: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda codec: zlib.decompressobj(wbits=47),
    "zlib": lambda codec: zlib.decompressobj(wbits=47),
    "bz2": lambda codec: bz2.BZ2Decompressor(),
    "lzma": _lzma,
}


def _of_blosc(encoded: memoryview) -> int:
    decoded, stored = struct.unpack_from("<4xI4xI", encoded)
    # Blosc trusts its header and would read past the end of a shorter file.
    if stored != len(encoded):
        raise ValueError("it is cut off")
    return int(decoded)


def _of_lz4(encoded: memoryview) -> int:
    return int(struct.unpack_from("<i", encoded)[0])


def _of_zstd(encoded: memoryview) -> int:
    declared = zstd_content(encoded)
    if declared is None:
        raise ValueError("it does not tell what it unpacks to")
    return declared


_SIZES: dict[str, Callable[[memoryview], int]] = {
    "blosc": _of_blosc,
    "lz4": _of_lz4,
    "zstd": _of_zstd,
}


def zstd_content(encoded: Any) -> int | None:
    """Bytes that a Zstandard frame declares (RFC 8878, 3.1.1.1); None if it declares none."""
    descriptor = encoded[4] if len(encoded) > 4 else 0
    single, width = descriptor >> 5 & 1, descriptor >> 6
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    first = 5 + (not single) + dictionary
    size = 1 << width if width or single else 0
    field = bytes(encoded[first : first + size])
    return int.from_bytes(field, "little") + 256 * (size == 2) if field else None
