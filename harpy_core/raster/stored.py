"""Arrays of stores that we wrote: all of a chunk's content is there and whole, or it is named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import zarr
from zarr.core.sync import sync

from harpy_core.errors import InputError
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.storage.folders import address_of
from harpy_core.storage.publishing import MARK

ALL_CHUNKS: Any = {"write_empty_chunks": True}
"""Configuration of `zarr.create_array` for arrays that are read here: a chunk that is missing is
lost, whatever its content was."""


def open_stored(
    path: str | os.PathLike[str], options: Mapping[str, Any] | None = None
) -> zarr.Group:
    """Open the root group of a store, which is there once the store is whole.

    Parameters
    ----------
    path
        Folder or address.
    options
        Options of fsspec for an address, which is read with the credentials of the environment.

    Raises
    ------
    FileNotFoundError
        There is no store.
    InputError
        It is not whole yet, or there is no access.
    """
    address = address_of(path)
    if address is None:
        return zarr.open_group(path, mode="r")
    # Its clients take a sixth of a second to import.
    from harpy_core.raster.remote_store import open_remote

    store = open_remote(address, options, anonymous=False)
    try:
        return zarr.open_group(store, mode="r")
    except FileNotFoundError as error:
        if sync(store.exists(MARK)):
            raise InputError(
                f"{address}: it is not whole; wait for the run that writes it, or run it again"
            ) from error
        raise


def read_whole(array: zarr.Array) -> np.ndarray:
    """Read an array.

    Raises
    ------
    InputError
        A chunk is missing or damaged; the line names it.
    """
    return read_rows(array, np.arange(array.shape[0]))


def read_rows(array: zarr.Array, rows: np.ndarray) -> np.ndarray:
    """Read items along the first axis, in any order.

    Parameters
    ----------
    rows : (n,) int64
        Numbers of the items.

    Raises
    ------
    InputError
        A chunk is missing or damaged; the line names it.
    """
    files = ChunkFiles(array, strict=True)
    dtype = np.dtype(array.dtype).newbyteorder("=")
    found = np.empty((len(rows), *array.shape[1:]), dtype)
    chunk = np.empty(array.chunks, dtype)
    block, row = np.divmod(rows, array.chunks[0])
    others = [range(-(-n // c)) for n, c in zip(array.shape[1:], array.chunks[1:], strict=True)]
    for number in np.unique(block).tolist():
        mine = np.flatnonzero(block == number)
        for index in product(*others):
            files.read((number, *index), chunk)
            to = tuple(
                slice(i * c, min((i + 1) * c, n))
                for i, c, n in zip(index, array.chunks[1:], array.shape[1:], strict=True)
            )
            target: Any = (mine, *to)
            source: Any = (row[mine], *(slice(part.stop - part.start) for part in to))
            found[target] = chunk[source]
    return found
