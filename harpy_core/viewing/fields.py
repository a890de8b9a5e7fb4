"""A field of an image, and what a table says of the instances in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from harpy_core.errors import InputError
from harpy_core.storage.tables import channel_names

SIDE = 640
"""Pixels of the field's longer side, at most."""

WINDOW = 48
"""Side of a window, in pixels, if nobody cut crops."""

AT_ONCE = 3
"""Channels that are shown until others are chosen."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a page needs to know of a table, of which only some rows are read.

    Attributes
    ----------
    ids : (n,) uint64
        Labels of a region, in ascending order.
    rows : (n,) int64
        Their rows in the table.
    centroids : (n, 2) float64
        x and y, in pixels.
    channels
        Names of the channels; of a table of shapes alone, those of the shapes.
    statistics
        Array (rows, channels) of each statistic.
    sets
        Category of each label, by the name of a column of categories; the region comes last.
    """

    ids: np.ndarray
    rows: np.ndarray
    centroids: np.ndarray
    channels: list[str]
    statistics: dict[str, Any]
    sets: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: str | os.PathLike[str], region: str) -> Measured:
        """Open the rows of a region; their ids and centroids are read."""
        group: Any = zarr.open_group(path, mode="r")
        rows = np.flatnonzero(_categories(group["obs/region"]) == region)
        if not len(rows):
            raise InputError(f"{path}: holds no instance of {region}: there is nothing to show")
        ids = np.asarray(group["obs/instance_id"][...])[rows]
        centroids = np.asarray(group["obsm/spatial"][...])[rows, :2]
        columns = sorted(
            (name for name, column in group["obs"].groups() if "codes" in column),
            key=lambda name: (name == "region", name),
        )
        sets = {name: _categories(group[f"obs/{name}"])[rows] for name in columns}
        found = {name: group[f"layers/{name}"] for name in _mean_first(group["layers"])}
        if found:
            return cls(ids, rows, centroids, channel_names(group), found, sets)
        shapes = [name for name, column in group["obs"].arrays() if column.dtype.kind == "f"]
        values = np.stack([group[f"obs/{name}"][...] for name in sorted(shapes)], axis=1)
        return cls(ids, rows, centroids, sorted(shapes), {"shape": values}, sets)

    def places_of(self, labels: np.ndarray) -> np.ndarray:
        """Places of some labels among the ids."""
        places = np.searchsorted(self.ids, labels)
        places[places == len(self.ids)] = 0
        if not np.array_equal(self.ids[places], labels):
            raise InputError("the table is not one of these labels: measure them again")
        return places

    def values(self, places: np.ndarray) -> np.ndarray:
        """Statistics of some instances, (statistics, instances, channels)."""
        rows = self.rows[places]
        taken = (
            values[rows] if isinstance(values, np.ndarray) else values.oindex[rows, :]
            for values in self.statistics.values()
        )
        return np.stack([np.asarray(part) for part in taken])


def _categories(column: Any) -> np.ndarray:
    """Category of each row as anndata writes it, as text; "none" where there is none."""
    index = column["categories"]
    index = index["values"] if "values" in getattr(index, "array_keys", list)() else index
    names = np.array([*map(str, np.asarray(index[...]).tolist()), "none"], dtype=object)
    return names[np.asarray(column["codes"][...])]


def _mean_first(layers: Any) -> list[str]:
    return sorted(layers.array_keys(), key=lambda name: (name != "mean", name))


def fullest(centroids: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rectangle with the most centroids, on a grid of half its size."""
    sides = [min(SIDE, n) for n in shape]
    pitch = [max(side // 2, 1) for side in sides]
    counts = [max(-(-n // step), 2) for n, step in zip(shape, pitch, strict=True)]
    edges = [np.arange(n + 1) * step for n, step in zip(counts, pitch, strict=True)]
    cells, _, _ = np.histogram2d(centroids[:, 1], centroids[:, 0], bins=edges)
    four = cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]
    place = np.unravel_index(np.argmax(four), four.shape)
    starts = [
        min(int(p) * step, n - side)
        for p, step, n, side in zip(place, pitch, shape, sides, strict=True)
    ]
    first, second = (slice(a, a + side) for a, side in zip(starts, sides, strict=True))
    return first, second


def plane_of(array: Any, field: tuple[slice, slice], channel: int | None = None) -> np.ndarray:
    """Read a field of a channel's, or the labels', only or middle plane."""
    index: tuple[int | slice, ...] = field
    if array.ndim - (channel is not None) == 3:
        index = (array.shape[-3] // 2, *index)
    return np.asarray(array[index if channel is None else (channel, *index)])


def limits(plane: np.ndarray) -> tuple[float, float]:
    """Values that are shown black and white: the 1st and the 99.5th percentile."""
    finite = plane[np.isfinite(plane)]
    if finite.dtype == bool:
        finite = finite.view(np.uint8)
    bottom, top = np.percentile(finite, [1, 99.5]) if finite.size else (0, 1)
    return float(bottom), float(top)


def as_bytes(plane: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Scale pixels to 8 bits, from black to white."""
    bottom, top = ends
    shares = (plane.astype(np.float64) - bottom) / max(top - bottom, 1e-12)
    return np.round(255 * np.clip(np.nan_to_num(shares), 0, 1)).astype(np.uint8)


def dim(planes: Sequence[np.ndarray]) -> list[int]:
    """Return the numbers of the planes in 8 bits that are not mostly bright: such drown others."""
    return [number for number, plane in enumerate(planes) if np.median(plane) < 128] or [0]
