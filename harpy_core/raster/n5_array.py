"""A dataset of N5 as an array that tensorstore reads block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from harpy_core.raster import axes
from harpy_core.raster.formats.format import Choice, Element, chosen_level

_OPEN = 64
"""Number of datasets that a process keeps open."""


@lru_cache(maxsize=_OPEN)
def _opened(path: str) -> Any:
    """Open a dataset, once in each process."""
    import tensorstore

    place = {"driver": "file", "path": path}
    return tensorstore.open({"driver": "n5", "kvstore": place}, read=True).result()


class N5Array:
    """A dataset of N5, whose first axis is the fastest: x.

    Parameters
    ----------
    path
        Folder of the dataset.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        found = _opened(path)
        self.shape: tuple[int, ...] = tuple(found.shape)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(found.dtype.numpy_dtype)
        self.chunks: tuple[int, ...] = tuple(found.chunk_layout.read_chunk.shape)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.path,)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(_opened(self.path)[key].read().result())


def open_dataset(
    path: str, name: str, kind: str, choice: Choice, listed: Sequence[str] | None
) -> Element:
    """Open a dataset as an image or labels.

    Parameters
    ----------
    path
        Folder of the dataset.
    name
        Name of the element.
    kind
        ``images`` or ``labels``.
    choice
        Axes, as N5 stores them, and time point; a dataset has one level.
    listed
        Names of the axes by the metadata, if they have any.
    """
    array = N5Array(path)
    found = tuple(listed or ())
    if len(found) != array.ndim:
        found = axes.of(kind, array.ndim)[::-1]
    names = axes.named(kind, found, array.shape, choice.axes, path)
    chosen_level(kind, choice, ["0"], [axes.spatial(array.shape, names)], path)
    view = axes.arranged(array, names, kind, choice.t, path)
    return Element(name, view, None, None, [array.shape])
