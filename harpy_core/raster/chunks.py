"""Decoding of Zarr chunks into our own buffers, from memory-mapped files where possible.

`zarr.Array[...]` allocates and copies on every read, which costs two to three times the decoding.
Arrays in a local folder with one of the common codecs, in shards or not, are decoded straight into
place; anything else (filters, remote stores, archives) goes through the array interface, with
equal results.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numcodecs.blosc
import numcodecs.zstd
import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.core.metadata.v2 import ArrayV2Metadata
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.core.sync import sync
from zarr.storage import LocalStore, ZipStore

from harpy_core.errors import DAMAGE, InputError
from harpy_core.raster.rare import steps_of_format_2, steps_of_format_3, zstd_content
from harpy_core.raster.untrusted import unpacked_size
from harpy_core.storage import shards
from harpy_core.storage.checksums import verified
from harpy_core.storage.mapping import ask_for, mapped

Decoder = Callable[[Any, np.ndarray], None]

numcodecs.blosc.use_threads = False

_BLOSC_HEADER = struct.Struct("<4xI4xI")
"""Sizes of the content and of the chunk, in a Blosc header."""

_OVERHEAD = 2**16
"""Bytes by which a small chunk may grow when it is encoded."""


def _expect(found: int, size: int) -> None:
    """Refuse a chunk of another size: the rest of a reused buffer would be an older chunk's."""
    if found != size:
        raise ValueError(f"{found:,} bytes instead of {size:,}")


def _decode_raw(encoded: Any, out: np.ndarray) -> None:
    _expect(len(encoded), out.size)
    out[...] = np.frombuffer(encoded, np.uint8)


def _decode_blosc(encoded: Any, out: np.ndarray) -> None:
    if len(encoded) < _BLOSC_HEADER.size:
        raise ValueError("it is cut off")
    decoded, stored = _BLOSC_HEADER.unpack_from(encoded)
    # Blosc trusts its header and would read past the end of a shorter file.
    _expect(len(encoded), stored)
    _expect(decoded, out.size)
    numcodecs.blosc.decompress(encoded, out)


def _decode_zstd(encoded: Any, out: np.ndarray) -> None:
    _expect(zstd_content(encoded) or out.size, out.size)
    numcodecs.zstd.decompress(encoded, out)


def _decode_deflate(encoded: Any, out: np.ndarray) -> None:
    """Decode gzip or zlib members."""
    stream = zlib.decompressobj(wbits=47)
    done = 0
    pending = memoryview(encoded)
    step = 1 << 20
    while pending.nbytes and not stream.eof:
        piece = stream.decompress(pending, step)
        out[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
        pending = memoryview(stream.unconsumed_tail)
    _expect(done, out.size)
    if not stream.eof:
        raise ValueError("it is cut off")
    if stream.unused_data:
        raise ValueError("there are bytes after its end")


@dataclass(frozen=True, slots=True)
class _Checked:
    """Decoder that verifies the CRC-32C after a chunk, then decodes the chunk."""

    decode: Decoder

    def __call__(self, encoded: Any, out: np.ndarray) -> None:
        self.decode(verified(encoded), out)


_CHECKED_BLOSC = _Checked(_decode_blosc)

_DECODERS_V3: dict[type, Decoder] = {
    BloscCodec: _decode_blosc,
    ZstdCodec: _decode_zstd,
    GzipCodec: _decode_deflate,
}
_DECODERS_V2: dict[str, Decoder] = {
    "blosc": _decode_blosc,
    "zstd": _decode_zstd,
    "gzip": _decode_deflate,
    "zlib": _decode_deflate,
}


@dataclass(frozen=True, slots=True)
class _Sharding:
    """Number of chunks of a shard along each axis, and the place of its index."""

    counts: tuple[int, ...]
    at_start: bool

    def place(self, index: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """Index of the shard that holds a chunk, and the chunk's number in it."""
        shard = tuple(i // n for i, n in zip(index, self.counts, strict=True))
        inner = [i % n for i, n in zip(index, self.counts, strict=True)]
        number = 0
        for i, n in zip(inner, self.counts, strict=True):
            number = number * n + i
        return shard, number


def _sharding_of(
    array: zarr.Array, metadata: ArrayV3Metadata
) -> tuple[_Sharding | None, Sequence[Any]] | None:
    """The shards of an array, if any, and the codecs of a chunk; None if zarr must decode it."""
    codecs = metadata.codecs
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec):
        return None, codecs
    sharding = codecs[0]
    first, *rest = sharding.index_codecs
    plain = isinstance(first, BytesCodec) and _order_of(first) == "<"
    if not plain or [type(codec) for codec in rest] != [Crc32cCodec] or array.shards is None:
        return None
    counts = tuple(s // c for s, c in zip(array.shards, array.chunks, strict=True))
    # As with byte orders, zarr names it by an enumeration or, from 3.4 on, a text.
    location = getattr(sharding.index_location, "value", sharding.index_location)
    return _Sharding(counts, location == "start"), sharding.codecs


def _order_of(codec: BytesCodec) -> Literal["<", ">"]:
    """NumPy's sign of a byte order, which zarr names by an enumeration or, from 3.4 on, by text."""
    name = getattr(codec.endian, "value", codec.endian)
    return ">" if name == "big" else "<"


@dataclass(frozen=True, slots=True)
class _Files:
    """Names, shards and decoder of an array's files."""

    array: zarr.Array
    decode: Decoder
    sharding: _Sharding | None

    def content(self, index: tuple[int, ...], file: mmap.mmap | bytes) -> Any:
        """Return the encoded chunk in its file; None where the shard has no such chunk.

        The system is asked for all of it at once: a page fault fetches no more than 128 KiB.
        """
        if self.sharding is None:
            ask_for(file, 0, len(file))
            return file
        _, number = self.sharding.place(index)
        count = math.prod(self.sharding.counts)
        span = shards.span_of(file, number, count, self.sharding.at_start)
        if span is None:
            return None
        ask_for(file, *span)
        return memoryview(file)[span[0] : sum(span)]

    def key(self, index: tuple[int, ...]) -> str:
        """Name of the file that holds a chunk."""
        outer = index if self.sharding is None else self.sharding.place(index)[0]
        return str(self.array.metadata.encode_chunk_key(outer))


def _files_of(array: zarr.Array) -> _Files | None:
    """Files of an array, decoded into native or swapped bytes; None if zarr must decode them."""
    metadata = array.metadata
    if isinstance(metadata, ArrayV2Metadata):
        codec, filters = metadata.compressor, metadata.filters or ()
        decode = _decode_raw if codec is None else _DECODERS_V2.get(codec.codec_id)
        if decode is None or filters or metadata.order != "C":
            item = np.dtype(array.dtype).itemsize
            decode = steps_of_format_2(codec, filters, metadata.order, array.chunks, item)
        return _Files(array, decode, None)
    found = _sharding_of(array, metadata)
    if found is None:
        return None
    decode = _decoder_of(found[1]) or steps_of_format_3(
        found[1], array.chunks, np.dtype(array.dtype).itemsize
    )
    return None if decode is None else _Files(array, decode, found[0])


def _decoder_of(chain: Sequence[Any]) -> Decoder | None:
    """The decoder of a chunk's codecs; None if they are rare."""
    codecs = [c for c in chain if not _changes_nothing(c)]
    if not codecs or not isinstance(codecs[0], BytesCodec):
        return None
    rest = codecs[1:]
    check = bool(rest) and isinstance(rest[-1], Crc32cCodec)
    if check:
        rest = rest[:-1]
    if len(rest) > 1:
        return None
    decode = _DECODERS_V3.get(type(rest[0])) if rest else _decode_raw
    return _Checked(decode) if decode and check else decode


def _changes_nothing(codec: object) -> bool:
    return isinstance(codec, TransposeCodec) and codec.order == tuple(range(len(codec.order)))


def _stored_dtype(array: zarr.Array) -> np.dtype:
    """Type of the items in a chunk file, with its byte order."""
    dtype = np.dtype(array.dtype)
    if isinstance(array.metadata, ArrayV3Metadata):
        found = _sharding_of(array, array.metadata)
        for codec in found[1] if found else ():
            if isinstance(codec, BytesCodec) and codec.endian is not None:
                return dtype.newbyteorder(_order_of(codec))
    return dtype


class Slices:
    """The chunks of anything that slices like an array, such as a TIFF.

    Parameters
    ----------
    array
        Array with a shape and chunks; it is sent to workers.
    name
        Name of the array in an error.
    """

    def __init__(self, array: Any, name: str) -> None:
        self._array, self.name = array, name

    def read(self, index: tuple[int, ...], out: np.ndarray) -> bool:
        """Decode the chunk at `index` into `out`, like `ChunkFiles.read`; none is missing."""
        with _told(self.name, index):
            _read_slice(self._array, index, out)
        return True


@contextmanager
def _told(name: str, index: tuple[int, ...]) -> Iterator[None]:
    """Report in one line why a chunk cannot be read."""
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        if "imagecodecs" in str(error):
            raise InputError(
                f"{name}: its compression needs a package: pip install imagecodecs ({error})"
            ) from error
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name}: chunk {index} cannot be read ({said}); restore or rewrite this array"
        ) from error


def _read_slice(array: Any, index: tuple[int, ...], out: np.ndarray) -> np.ndarray:
    region = tuple(
        slice(i * n, min((i + 1) * n, size))
        for i, n, size in zip(index, array.chunks, array.shape, strict=True)
    )
    values = np.asarray(array[region])
    out[tuple(slice(0, n) for n in values.shape)] = values
    return values


class ChunkFiles:
    """The chunks of a Zarr array, each decoded once into a buffer of the caller's.

    Parameters
    ----------
    array
        Zarr array, of any regular chunks.
    strict
        Make a missing chunk an error instead of the array's fill value; None reports it, and False
        takes it for one that is there.
    """

    def __init__(self, array: zarr.Array, strict: bool | None = False) -> None:
        self._array = array
        self._strict = strict
        self._stored = _stored_dtype(array)
        self.name = str(array.store_path)
        self._files: _Files | None = None
        self._elsewhere: _Files | None = None
        if isinstance(array.store_path.store, LocalStore):
            self._folder = Path(array.store_path.store.root) / array.path
            self._files = _files_of(array)
        else:
            found = _files_of(array)
            self._elsewhere = found if found and found.sharding is None else None

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self._array, self._strict)

    @property
    def direct(self) -> bool:
        """Whether chunks are decoded from their files, bypassing the array interface."""
        return self._files is not None

    def read(self, index: tuple[int, ...], out: np.ndarray) -> bool:
        """Decode the chunk at `index` into `out`.

        Parameters
        ----------
        index
            Number of the chunk along each axis.
        out
            Array, C-contiguous, of the chunk's full shape (chunks at the edge are padded) and the
            array's dtype in native byte order.

        Returns
        -------
        Whether the chunk is there; if not, `out` holds the fill value.

        Raises
        ------
        InputError
            The chunk is missing (`strict`), or cannot be decoded.
        """
        with _told(self.name, index):
            if self._files is not None:
                there = self._read_file(index, out, self._files)
            elif self._elsewhere is not None:
                there = self._read_value(index, out, self._elsewhere)
            else:
                there = self._read_through_zarr(index, out)
        return there or self._strict is False

    def stored(self, index: tuple[int, ...]) -> np.ndarray | None:
        """Return the chunk at `index` as it is stored, uint8, where that is one in Blosc's format.

        None for other formats and byte orders, and for a chunk that is not there or cannot be read:
        `read` knows what to do.
        """
        files = self._files
        native = self._stored == self._stored.newbyteorder("=")
        if files is None or not native or files.decode not in (_decode_blosc, _CHECKED_BLOSC):
            return None
        try:
            encoded = self._encoded(index, files)
            if encoded is not None and files.decode == _CHECKED_BLOSC:
                encoded = verified(encoded)
        except (OSError, ValueError):
            return None
        return None if encoded is None else np.frombuffer(encoded, np.uint8)

    def ahead(self, index: tuple[int, ...]) -> None:
        """Ask the system for the chunk at `index`, so that `read` need not wait for the disk."""
        if self._files is not None:
            # A chunk that cannot be found is reported by `read`.
            with suppress(OSError, ValueError):
                self._encoded(index, self._files)

    def _encoded(self, index: tuple[int, ...], files: _Files) -> Any:
        """Map the encoded chunk in its file into memory; None if there is none."""
        try:
            file = os.open(self._folder / files.key(index), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            content = mapped(file)
            if not content:
                raise ValueError("its file is empty")
            return files.content(index, content)
        finally:
            os.close(file)

    def _read_file(self, index: tuple[int, ...], out: np.ndarray, files: _Files) -> bool:
        return self._decode(self._encoded(index, files), index, out, files)

    def _read_value(self, index: tuple[int, ...], out: np.ndarray, files: _Files) -> bool:
        """Read no more of an archive's member than an encoded chunk can take."""
        most = 2 * out.nbytes + _OVERHEAD
        place = self._array.store_path / files.key(index)
        archived = isinstance(place.store, ZipStore)
        found = sync(place.get(byte_range=RangeByteRequest(0, most + 1) if archived else None))
        if found is not None and len(found) > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes")
        return self._decode(None if found is None else found.to_bytes(), index, out, files)

    def _decode(self, encoded: Any, index: tuple[int, ...], out: np.ndarray, files: _Files) -> bool:
        if encoded is None:
            self._fill(index, out, files.array)
            return False
        files.decode(encoded, out.reshape(-1).view(np.uint8))
        if self._stored != out.dtype:
            out.reshape(-1).view(out.dtype).byteswap(inplace=True)
        return True

    def _fill(self, index: tuple[int, ...], out: np.ndarray, array: zarr.Array) -> None:
        if self._strict:
            raise InputError(
                f"{self.name}: chunk {index} is missing; restore it, or read with "
                "strict=False to take it as the fill value"
            )
        fill = array.fill_value
        out[...] = 0 if fill is None else fill

    def _read_through_zarr(self, index: tuple[int, ...], out: np.ndarray) -> bool:
        self._refuse_bomb(index, out)
        if self._strict and not _present(self._array, index):
            self._fill(index, out, self._array)
        values = _read_slice(self._array, index, out)
        # This takes another request, so it is only asked of a chunk that may be missing.
        told = self._strict is None and _is_fill(values, self._array.fill_value)
        return not told or _present(self._array, index)

    def _refuse_bomb(self, index: tuple[int, ...], out: np.ndarray) -> None:
        """Refuse a member of an archive that unpacks to more than its chunks can take."""
        store = self._array.store_path.store
        if not isinstance(store, ZipStore):
            return
        stored = self._array.shards or self._array.chunks
        outer = (i * n // w for i, n, w in zip(index, self._array.chunks, stored, strict=True))
        place = self._array.store_path / self._array.metadata.encode_chunk_key(tuple(outer))
        number = math.prod(stored) // math.prod(self._array.chunks)
        most = number * (2 * out.nbytes + _OVERHEAD)
        if unpacked_size(store.path, place.path) > most:
            raise ValueError(f"it unpacks to more than {most:,} bytes")


def _is_fill(values: np.ndarray, fill: Any) -> bool:
    """Whether all pixels of a chunk have the fill value of a missing one."""
    fill = values.dtype.type(0 if fill is None else fill)
    if fill != fill:
        return bool(np.isnan(values).all())
    return bool(values.flat[0] == fill and (values == fill).all())


def _present(array: zarr.Array, index: tuple[int, ...]) -> bool:
    """Whether a chunk, or the shard it is part of, is stored."""
    stored = array.shards or array.chunks
    outer = [i * n // w for i, n, w in zip(index, array.chunks, stored, strict=True)]
    key = array.store_path / array.metadata.encode_chunk_key(tuple(outer))
    return bool(sync(key.exists()))


def covering(region: tuple[tuple[int, int], ...], chunks: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Indices of the chunks that a region touches.

    Parameters
    ----------
    region
        First index and end along each axis.
    chunks
        Number of a chunk's items along each axis.
    """
    return list(
        product(*(range(a // n, -(-b // n)) for (a, b), n in zip(region, chunks, strict=True)))
    )
