"""A page that shows a field of an image with its segmentation, statistics and crops, linked.

It is one file that holds its data and its script: it opens from any folder, without a network.
"""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harpy_core.extract.crops import Crops
from harpy_core.storage.manifest import write_text
from harpy_core.viewing.fields import (
    AT_ONCE,
    WINDOW,
    Measured,
    as_bytes,
    dim,
    fullest,
    limits,
    plane_of,
)
from harpy_core.viewing.thumbnails import crops_of, thumbnails, with_pixels

if TYPE_CHECKING:
    from harpy_core.raster import Raster

MOST_VALUES = 2**20
"""Statistics that the page holds, at most: instances × channels × statistics."""

_MOST_IDS = 2**16 - 1
"""Instances that 16 bits can number, from 1."""


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
    cut = None if crops is None else crops_of(crops, raster.channels, measured)
    around = measured.centroids if cut is None else cut.centroid[:, :0:-1]
    field = fullest(around, raster.labels.shape[-2:])
    found = plane_of(raster.labels, field)
    ids = np.unique(found)
    ids = ids[ids != 0].astype(np.uint64)
    places = measured.places_of(ids)
    height, width = found.shape
    shown = with_pixels(raster.channels, cut)
    planes = [plane_of(raster.image, field, channel) for channel in shown]
    ranges = [limits(plane) for plane in planes]
    pixels = np.stack([as_bytes(plane, ends) for plane, ends in zip(planes, ranges, strict=True)])
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
        "shown": dim(list(pixels))[:AT_ONCE],
        "planes": [raster.channels[channel] for channel in shown],
        "labels": _packed(_numbers(found, ids).astype("<u2")),
        "pixels": _packed(pixels),
        "values": _packed(measured.values(places).astype("<f4")),
        "crops": None if cut is None else _crops_content(cut, ids, raster.channels, shown, ranges),
    }
    write_text(Path(out_html), _filled(content))
    return len(ids)


def _numbers(labels: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Replace labels by their numbers from 1, and by 0 those that are not among the ids."""
    if not len(ids):
        return np.zeros(labels.shape, np.int64)
    places = np.searchsorted(ids, labels.astype(np.uint64))
    places[places == len(ids)] = 0
    return np.where(ids[places] == labels, places + 1, 0)


def _window_of(crops: Crops) -> int:
    """Longer side of the windows that were cut, in pixels of the image."""
    settings = crops.attributes["parameters"]
    side = max(crops.image.shape[-2:])
    if "resolution" not in settings:
        return side
    return round(side * settings["resolution"] / settings["spacing"][-1])


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
    scaled = [as_bytes(small.pixels[:, i], ranges[place]) for i, place in enumerate(places)]
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
