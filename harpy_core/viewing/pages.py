"""A page that shows a field of an image with its segmentation, statistics and crops, linked.

It is one file that holds its data and its script: it opens from any folder, without a network.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from harpy_core.errors import InputError
from harpy_core.extract.crops import Crops, open_crops
from harpy_core.storage.manifest import write_text
from harpy_core.storage.tables import channel_names
from harpy_core.viewing.thumbnails import refuse_others, thumbnails

if TYPE_CHECKING:
    from harpy_core.raster import Raster

SIDE = 640
"""Pixels of the field's longer side, at most."""

MOST_PLANES = 12
"""Channels whose pixels the page holds; the statistics of all are there."""

MOST_VALUES = 2**20
"""Statistics that the page holds, at most: instances × channels × statistics."""

_AT_ONCE = 3
"""Channels that are shown until others are chosen."""

_MOST_IDS = 2**16 - 1
"""Instances that 16 bits can number, from 1."""

WINDOW = 48
"""Side of a window, in pixels, if nobody cut crops."""


def write_page(
    raster: Raster,
    table: str | os.PathLike[str],
    out_html: str | os.PathLike[str],
    title: str,
    window: int = WINDOW,
    crops: str | os.PathLike[str] | None = None,
) -> int:
    """Write the page of an image's fullest field.

    Parameters
    ----------
    raster
        Image (c, y, x) or (c, z, y, x), of which the middle plane is shown, and its labels.
    table
        Folder of the image's table, from `harpy_core.aggregate.store.aggregate_to_store`.
    out_html
        Path of the page.
    title
        Heading of the page.
    window
        Side of the windows around instances, in pixels, where there are no crops.
    crops
        Folder of the image's crops, from `harpy_core.extract_instances`: the field is the one with
        the most of them, and the page holds as many as `harpy_core.viewing.thumbnails` allows; of
        the other instances it shows windows of the image.

    Returns
    -------
    Number of instances on the page.

    Raises
    ------
    InputError
        The table or the crops are not of these labels, or the table holds no instance.
    """
    measured = Measured.read(table, next(iter(raster.layers)))
    cut = None if crops is None else _crops_of(crops, raster, measured)
    around = measured.centroids if cut is None else cut.centroid[:, :0:-1]
    field = _fullest(around, raster.labels.shape[-2:])
    found = _plane(raster.labels, field)
    ids = np.unique(found)
    ids = ids[ids != 0].astype(np.uint64)
    places = measured.places_of(ids)
    height, width = found.shape
    shown = _shown_channels(raster.channels, cut)
    planes = [_plane(raster.image, field, channel) for channel in shown]
    ranges = [_range(plane) for plane in planes]
    pixels = np.stack([_bytes(plane, ends) for plane, ends in zip(planes, ranges, strict=True)])
    # A channel that is mostly bright would drown the others.
    dim = [number for number, plane in enumerate(pixels) if np.median(plane) < 128] or [0]
    most = min(MOST_VALUES // max(len(measured.channels) * len(measured.statistics), 1), _MOST_IDS)
    if len(ids) > most:
        ids, places = ids[:most], places[:most]
    size = " × ".join(f"{n:,}" for n in reversed(raster.labels.shape))
    content = {
        "title": title,
        "what": f"{width} × {height} of {size} pixels, from x = {field[1].start:,}, "
        f"y = {field[0].start:,}",
        "width": width,
        "height": height,
        "window": window if cut is None else _window_of(cut),
        "ids": [str(label) for label in ids.tolist()],
        "centroids": (measured.centroids[places] - [field[1].start, field[0].start]).tolist(),
        "channels": measured.channels,
        "statistics": list(measured.statistics),
        "shown": dim[:_AT_ONCE],
        "planes": [raster.channels[channel] for channel in shown],
        "labels": _packed(_numbers(found, ids).astype("<u2")),
        "pixels": _packed(pixels),
        "values": _packed(measured.values(places).astype("<f4")),
        "crops": None if cut is None else _crops_content(cut, ids, raster.channels, shown, ranges),
    }
    write_text(Path(out_html), _filled(content))
    return len(ids)


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
    """

    ids: np.ndarray
    rows: np.ndarray
    centroids: np.ndarray
    channels: list[str]
    statistics: dict[str, Any]

    @classmethod
    def read(cls, path: str | os.PathLike[str], region: str) -> Measured:
        """Open the rows of a region; their ids and centroids are read."""
        group: Any = zarr.open_group(path, mode="r")
        rows = np.flatnonzero(_regions(group["obs/region"]) == region)
        if not len(rows):
            raise InputError(f"{path}: holds no instance of {region}: there is nothing to show")
        ids = np.asarray(group["obs/instance_id"][...])[rows]
        centroids = np.asarray(group["obsm/spatial"][...])[rows, :2]
        found = {name: group[f"layers/{name}"] for name in _mean_first(group["layers"])}
        if found:
            return cls(ids, rows, centroids, channel_names(group), found)
        shapes = [name for name, column in group["obs"].arrays() if column.dtype.kind == "f"]
        values = np.stack([group[f"obs/{name}"][...] for name in sorted(shapes)], axis=1)
        return cls(ids, rows, centroids, sorted(shapes), {"shape": values})

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


def _regions(column: Any) -> np.ndarray:
    """Region of each row, of the categories that anndata writes."""
    return np.asarray(column["categories"][...])[np.asarray(column["codes"][...])]


def _mean_first(layers: Any) -> list[str]:
    return sorted(layers.array_keys(), key=lambda name: (name != "mean", name))


def _fullest(centroids: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
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


def _plane(array: Any, field: tuple[slice, slice], channel: int | None = None) -> np.ndarray:
    """Read a field of a channel's, or the labels', only or middle plane."""
    index: tuple[int | slice, ...] = field
    if array.ndim - (channel is not None) == 3:
        index = (array.shape[-3] // 2, *index)
    return np.asarray(array[index if channel is None else (channel, *index)])


def _range(plane: np.ndarray) -> tuple[float, float]:
    """Values that are shown black and white: the 1st and the 99.5th percentile."""
    finite = plane[np.isfinite(plane)]
    bottom, top = np.percentile(finite, [1, 99.5]) if finite.size else (0, 1)
    return float(bottom), float(top)


def _bytes(plane: np.ndarray, ends: tuple[float, float]) -> np.ndarray:
    """Scale pixels to 8 bits, from black to white."""
    bottom, top = ends
    shares = (plane.astype(np.float64) - bottom) / max(top - bottom, 1e-12)
    return np.round(255 * np.clip(np.nan_to_num(shares), 0, 1)).astype(np.uint8)


def _numbers(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Replace labels by their numbers from 1, and by 0 those that are not among the ids."""
    if not len(ids):
        return np.zeros(labels.shape, np.int64)
    places = np.searchsorted(ids, labels.astype(np.uint64))
    places[places == len(ids)] = 0
    return np.where(ids[places] == labels, places + 1, 0)


def _crops_of(path: str | os.PathLike[str], raster: Raster, measured: Measured) -> Crops | None:
    """Open the crops of an image; None if there are none in them."""
    crops = open_crops(path)
    refuse_others(crops, measured.ids, measured.centroids)
    unknown = [name for name in crops.channels if name not in raster.channels]
    if unknown:
        raise InputError(
            f"{path}: channel {unknown[0]!r} is not one of the image: extract by its names"
        )
    return crops if len(crops) else None


def _window_of(crops: Crops) -> int:
    """Longer side of the windows that were cut, in pixels of the image."""
    settings = crops.attributes["parameters"]
    side = max(crops.image.shape[-2:])
    if "resolution" not in settings:
        return side
    return round(side * settings["resolution"] / settings["spacing"][-1])


def _shown_channels(names: Sequence[str], crops: Crops | None) -> list[int]:
    """Numbers of the channels whose pixels the page holds: those of the crops come first."""
    cut = range(0) if crops is None else map(list(names).index, crops.channels)
    return sorted(list(dict.fromkeys([*cut, *range(len(names))]))[:MOST_PLANES])


def _crops_content(
    crops: Crops,
    ids: np.ndarray,
    names: Sequence[str],
    shown: Sequence[int],
    ranges: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """What the page holds of crops: as bright as the image's channels, so that they compare."""
    places = [place for place, channel in enumerate(shown) if names[channel] in crops.channels]
    channels = [crops.channels.index(names[shown[place]]) for place in places]
    small = thumbnails(crops, ids, channels)
    scaled = [_bytes(small.pixels[:, i], ranges[place]) for i, place in enumerate(places)]
    height, width = small.pixels.shape[2:]
    return {
        "instances": np.searchsorted(ids, small.ids).tolist(),
        "planes": places,
        "height": height,
        "width": width,
        "pixels": _packed(np.stack(scaled, axis=1)),
    }


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 6)).decode()


def _filled(content: dict[str, Any]) -> str:
    """Put the content into the page; no name in it can end the script."""
    page, script = (
        files("harpy_core.viewing").joinpath(f"pages.{ending}").read_text(encoding="utf-8")
        for ending in ("html", "js")
    )
    told = json.dumps(content, allow_nan=False).replace("<", "\\u003c")
    return page.replace("/*script*/", script).replace("/*content*/", told)
