"""Refusal of stores whose metadata, and of arrays whose claims, are of absurd size."""

from __future__ import annotations

import functools
import math
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.metadata.v2 import ArrayV2Metadata
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.storage import LocalStore, ZipStore

from harpy_core.errors import InputError
from harpy_core.raster.formats.names import METADATA, refuse_long
from harpy_core.raster.views import stored_in

MOST_CHUNKS = 10**8
"""Chunks of an array, at most; a terapixel has a hundred thousand, ten million if tiny."""

MOST_CHANNELS = 10**5

CODECS = frozenset(
    (
        *("blosc", "zstd", "gzip", "zlib", "bz2", "lzma", "lz4"),
        *("crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"),
        *("delta", "shuffle", "fixedscaleoffset", "bitround", "quantize", "packbits", "astype"),
        *("bytes", "endian", "transpose", "sharding_indexed"),
    )
)
"""Codecs that do nothing but make pixels of bytes; ``pickle`` would run what a file says."""

_PADDING_BYTES = 2**30
"""Bytes of a chunk that may be outside its array, at most."""


class Folder(LocalStore):
    """Store in a folder that reads no metadata of absurd length."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Get a value as `zarr.abc.store.Store.get` does."""
        if key.rpartition("/")[2] in METADATA:
            path = os.path.join(self.root, key)
            if os.path.isfile(path):
                refuse_long(path, os.path.getsize(path))
        return await super().get(key, prototype, byte_range)


class Archive(ZipStore):
    """Zipped store that knows the sizes of its members without unpacking them."""

    async def getsize(self, key: str) -> int:
        """Bytes that a member takes in the archive."""
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(key).compress_size


def refuse_long_members(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> None:
    """Refuse an archive whose metadata would unpack to an absurd length."""
    for entry in archive.infolist():
        if entry.filename.rpartition("/")[2] in METADATA:
            refuse_long(f"{path}: {entry.filename}", entry.file_size)


def unpacked_size(path: str | os.PathLike[str], key: str) -> int:
    """Bytes to which a member of an archive unpacks, none if there is no such member."""
    return _unpacked_sizes(os.fspath(path), os.stat(path).st_mtime_ns).get(key, 0)


@functools.lru_cache(maxsize=2)
def _unpacked_sizes(path: str, _changed: int) -> dict[str, int]:
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: entry.file_size for entry in archive.infolist()}


def refuse_absurd(array: Any, kind: str) -> None:
    """Refuse an array on disk that claims what no image is, before anything is sized by it.

    Parameters
    ----------
    array
        Array with a shape and, if it is stored in chunks of one size, chunks.
    kind
        ``image`` or ``labels``.

    Raises
    ------
    InputError
        Chunks have no pixels, are too many, or are far larger than the array; or there are too
        many channels.
    """
    shape = tuple(array.shape)
    if kind == "image" and len(shape) in (3, 4) and shape[0] > MOST_CHANNELS:
        raise InputError(f"image: {shape[0]:,} channels; at most {MOST_CHANNELS:,} are read")
    chunks = getattr(array, "chunks", None)
    if chunks is None or len(chunks) != len(shape) or not all(isinstance(c, int) for c in chunks):
        return
    if min(chunks, default=1) < 1:
        raise InputError(f"{kind}: chunks are {chunks}; each is at least 1 pixel long: rewrite it")
    number = math.prod(-(-n // c) for n, c in zip(shape, chunks, strict=True))
    if number > MOST_CHUNKS:
        raise InputError(
            f"{kind}: shape {shape} in chunks {chunks} are {number:,} of them; at most "
            f"{MOST_CHUNKS:,} are read: rewrite it with larger chunks, if that is its shape"
        )
    size = math.prod(chunks) * np.dtype(array.dtype).itemsize
    inside = math.prod(min(n, c) for n, c in zip(shape, chunks, strict=True))
    if size > _PADDING_BYTES and math.prod(chunks) > 4 * max(inside, 1):
        raise InputError(
            f"{kind}: chunks {chunks} are far larger than shape {shape}: rewrite it with smaller"
        )


def refuse_codecs(array: Any, kind: str) -> None:
    """Refuse an array whose codecs are not known to do no harm.

    Parameters
    ----------
    array
        Array, stored by Zarr or not.
    kind
        ``image`` or ``labels``.

    Raises
    ------
    InputError
        It has a codec that is not one of `CODECS`.
    """
    metadata = getattr(stored_in(array), "metadata", None)
    if not isinstance(metadata, (ArrayV2Metadata, ArrayV3Metadata)):
        return
    for name in _names(metadata.to_dict()):
        if name.removeprefix("numcodecs.") not in CODECS:
            raise InputError(
                f"{kind}: codec {name!r} is not read; rewrite it with one of blosc, zstd, gzip or "
                "none"
            )


def _names(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs of an array or, in turn, of a shard."""
    # Zarr names them by `name` in format 3, and by `id` in format 2.
    steps = [
        *(metadata.get("codecs") or ()),
        *(metadata.get("index_codecs") or ()),
        *(metadata.get("filters") or ()),
        metadata.get("compressor"),
    ]
    for step in filter(None, steps):
        yield str(step.get("name", step.get("id")))
        yield from _names(step.get("configuration") or {})
