"""A Zarr store that exists only while it is shown: its chunks are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

Make = Callable[[tuple[int, ...]], np.ndarray | None]


class MadeStore:
    """Groups and arrays in memory, and arrays whose chunks are computed.

    Attributes
    ----------
    root
        The root group, in Zarr format 3; what is written into it is kept.
    """

    def __init__(self) -> None:
        self._files: dict[str, Any] = {}
        self._made: dict[str, tuple[zarr.Array, Make]] = {}
        self.root = zarr.open_group(MemoryStore(store_dict=self._files), mode="w", zarr_format=3)

    def add(
        self,
        path: str,
        shape: Sequence[int],
        chunks: Sequence[int],
        dtype: np.dtype,
        make: Make,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an array.

        Parameters
        ----------
        path
            Its place in the store.
        make
            Function that returns the pixels of a chunk by its place in the grid, fewer at the edge
            of the array; or None, for a chunk of zeros.
        attributes
            Attributes of the array.
        """
        array = self.root.create_array(
            path,
            shape=tuple(shape),
            chunks=tuple(chunks),
            dtype=np.dtype(dtype).newbyteorder("<"),
            compressors=None,
            fill_value=0,
            attributes=dict(attributes or {}),
        )
        self._made[path] = (array, make)

    def get(self, key: str) -> bytes | None:
        """Return the content of a file of the store; None if there is no such file."""
        if key in self._files:
            found: bytes = self._files[key].to_bytes()
            return found
        path, _, place = key.rpartition("/c/")
        if path not in self._made or not place.replace("/", "").isdecimal():
            return None
        array, make = self._made[path]
        index = tuple(map(int, place.split("/")))
        grid = [-(-n // chunk) for n, chunk in zip(array.shape, array.chunks, strict=True)]
        if len(index) != len(grid) or any(i >= n for i, n in zip(index, grid, strict=True)):
            return None
        return _filled(make(index), array)


def _filled(values: np.ndarray | None, array: zarr.Array) -> bytes | None:
    """Bytes of a whole chunk: what lies outside the array is 0."""
    if values is None:
        return None
    chunk = np.zeros(array.chunks, array.dtype)
    chunk[tuple(slice(0, n) for n in values.shape)] = values
    return chunk.tobytes()
