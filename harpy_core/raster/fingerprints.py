"""What tells one input from another, without reading the pixels of a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import FsspecStore, LocalStore, ZipStore

from harpy_core.raster.formats.tiff import TiffArray
from harpy_core.raster.reading import AxesView, ChannelView, is_dask
from harpy_core.storage.manifest import digest_of


def fingerprint(*arrays: Any, times: bool = True) -> str:
    """Digest of what tells one input from another.

    Of a local array: names, sizes and times of its files. Of one at an address: what the server
    says of the array's metadata (entity tag, time of change, size), which a chunk written in place
    leaves as it is.

    Parameters
    ----------
    arrays
        What `open_raster` opened, NumPy or Dask arrays.
    times
        Take the files' times of change in; without, copies of a store have one fingerprint.
    """
    return digest_of([_facts(array, times) for array in arrays])


def _facts(array: Any, times: bool) -> list[Any]:
    if is_dask(array):
        return [array.name, list(array.shape)]
    if isinstance(array, np.ndarray):
        content = hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return [list(array.shape), str(array.dtype), content.hexdigest()]
    if isinstance(array, ChannelView):
        return [list(array.indices), *_facts(array.array, times)]
    if isinstance(array, AxesView):
        return _facts(array.array, times)
    if isinstance(array, TiffArray):
        return [array.path, str(array.series), array.level, *_stat(Path(array.path), times)]
    facts: list[Any] = [list(array.shape), str(array.dtype), list(array.chunks)]
    store = array.store_path.store
    if isinstance(store, LocalStore):
        root = Path(store.root) / array.path
        facts += [[str(f.relative_to(root)), *_stat(f, times)] for f in sorted(_files(root))]
    elif isinstance(store, ZipStore):
        facts += [array.path, *_stat(Path(store.path), times)]
    elif isinstance(store, FsspecStore):
        from harpy_core.raster.formats.remote import RemoteStore

        facts += [str(array.store_path)]
        facts += store.version(array.path) if isinstance(store, RemoteStore) else []
    else:
        facts += [str(array.store_path)]
    return facts


def _files(root: Path) -> list[Path]:
    return [Path(folder) / name for folder, _, names in os.walk(root) for name in names]


def _stat(path: Path, times: bool) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns] if times else [found.st_size]
