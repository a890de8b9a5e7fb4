"""What tells one input from another, without reading the pixels of a file."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from harpy_core.raster.formats import owner_of
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
    if isinstance(array, ChannelView):
        return [list(array.indices), *_facts(array.array, times)]
    if isinstance(array, AxesView):
        return _facts(array.array, times)
    owner = owner_of(array)
    if owner is not None:
        return owner.facts(array, times)
    values = np.ascontiguousarray(array)
    content = hashlib.sha256(values.reshape(-1).view(np.uint8).data)
    return [list(values.shape), str(values.dtype), content.hexdigest()]
