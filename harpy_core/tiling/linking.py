"""Files of equal content: links, clones or copies, and which of a source's can be used again.

A chunk file of one array can be used in another if both decode it in the same way and it lies on
the other's grid.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numcodecs
import zarr
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, ZstdCodec
from zarr.core.metadata.v2 import ArrayV2Metadata
from zarr.storage import LocalStore

from harpy_core.errors import InputError
from harpy_core.storage.writing import write_flushed

Index = tuple[int, ...]
Method = Literal["link", "copy"]
Way = Literal["linked", "cloned", "copied", "absent"]

_SHUFFLES: dict[int, Literal["noshuffle", "shuffle", "bitshuffle"]] = {
    0: "noshuffle",
    1: "shuffle",
    2: "bitshuffle",
}
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
_CLONE = 0x40049409
"""FICLONE of Linux: makes a file share another's blocks until one of them is written to."""


def repeat_file(existing: Path, new: Path, method: Method, temporary: Path) -> Way:
    """Make a file of the same content as another, whole or not at all.

    Parameters
    ----------
    existing
        Path of the file; if there is none, as for a chunk that is all background, none is made.
    new
        Path of the new one, in a folder that exists.
    method
        ``"link"`` gives the file a second name. If the file system cannot, the new one is a clone,
        which takes no space either, or a copy. ``"copy"`` copies at once.
    temporary
        Path of a clone or a copy until it is whole, on the disk of `new`.

    Raises
    ------
    InputError
        The file is a symbolic link that leads nowhere.
    """
    if method == "link":
        try:
            os.link(_itself(existing), new)
        except FileNotFoundError:
            return "absent"
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
        else:
            return "linked"
    try:
        source = existing.open("rb")
    except FileNotFoundError:
        return "absent"
    with source:
        way: Way = "copied"
        if method == "link" and _cloned(source, temporary):
            way = "cloned"
        else:
            write_flushed(temporary, [_mapped(source)])
    os.replace(temporary, new)
    return way


def _itself(file: Path) -> Path:
    """Return the file behind symbolic links, as git-annex and DVC keep it: a name for the link
    would lead nowhere from another folder."""
    if not file.is_symlink():
        return file
    try:
        return file.resolve(strict=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{file}: a symbolic link that leads nowhere; fetch its content first (git annex get, "
            "dvc pull)"
        ) from error


def _cloned(source: BinaryIO, path: Path) -> bool:
    with path.open("wb") as target:
        try:
            fcntl.ioctl(target.fileno(), _CLONE, source.fileno())
        except OSError:
            return False
        os.fsync(target.fileno())
    return True


def _mapped(file: BinaryIO) -> mmap.mmap | bytes:
    """Map the content of a file; an empty one cannot be mapped."""
    if not os.fstat(file.fileno()).st_size:
        return b""
    content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    content.madvise(mmap.MADV_SEQUENTIAL)
    return content


def chunk_file(array: zarr.Array, index: Index) -> Path:
    """Path of a file of a local array, by its number along each axis."""
    store = cast(LocalStore, array.store_path.store)
    return Path(store.root) / array.path / array.metadata.encode_chunk_key(index)


def link_encoding(source: Any, chunks: Index, shape: Index) -> dict[str, Any] | None:
    """Declare an array whose files are a source's, repeated; None where they cannot be.

    Parameters
    ----------
    source
        Array that is repeated.
    chunks, shape
        Chunks and shape of the new array, along each axis.
    """
    encoding = _file_encoding(source)
    if encoding is None or tuple(source.chunks) != chunks:
        return None
    unit = source.shards or source.chunks
    fits = all(
        target <= own or own % u == 0
        for own, target, u in zip(source.shape, shape, unit, strict=True)
    )
    return encoding if fits else None


def _file_encoding(source: Any) -> dict[str, Any] | None:
    """Encoding of a local array's files, in the terms of Zarr 3."""
    if not isinstance(source, zarr.Array) or not isinstance(source.store_path.store, LocalStore):
        return None
    metadata = source.metadata
    if not isinstance(metadata, ArrayV2Metadata):
        return {
            "filters": source.filters,
            "serializer": source.serializer,
            "compressors": source.compressors,
            "shards": source.shards,
            "fill_value": source.fill_value,
        }
    compressors = _as_v3(metadata.compressor, source.dtype.itemsize)
    if metadata.filters or metadata.order != "C" or compressors is None:
        return None
    return {
        "serializer": BytesCodec(endian="big" if source.dtype.byteorder == ">" else "little"),
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


def first_alike(index: Index, unit: Index, shape: Index) -> Index:
    """Return the first file of a repeated array with the same pixels as file `index`.

    Parameters
    ----------
    index
        Number of the file along each axis.
    unit
        Pixels of a file along each axis.
    shape
        Shape of the source that is repeated.
    """
    # After this many files, multiples of the unit fall on the same place in the source again.
    periods = (n // math.gcd(n, u) for n, u in zip(shape, unit, strict=True))
    return tuple(i % period for i, period in zip(index, periods, strict=True))
