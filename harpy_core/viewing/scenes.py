"""An image, its labels, its table and its crops, as a page with Vitessce asks for them."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from math import log2
from typing import TYPE_CHECKING

import numpy as np

from harpy_core.extract.crops import Crops
from harpy_core.viewing.elements import MOST_VALUES, add_image, add_labels, add_table, is_held
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
from harpy_core.viewing.levels import WHOLE, Levels
from harpy_core.viewing.pictures import Pictures
from harpy_core.viewing.stores import MadeStore
from harpy_core.viewing.thumbnails import crops_of, with_pixels
from harpy_core.viewing.vitessce import COLOURS, LARGEST_LABEL, Shown, view_config

if TYPE_CHECKING:
    from harpy_core.raster import Raster

_FIRST = 48
"""Crops that are shown until cells are selected."""

_DRAWN = ("u1", "u2", "u4", "i1", "i2", "i4", "f4")
"""Types of pixels that Vitessce draws; others become the last one."""


class Scene:
    """Files of a page by path: the page, its view config, a Zarr store, and pictures of cells.

    The store is made as it is read, from whatever the image and its labels are kept in. It holds
    the middle plane of both as OME-Zarr with levels, ``image`` and ``labels``, and the rows of the
    first layer as an AnnData table, ``table``.

    Parameters
    ----------
    raster
        The image and its labels.
    table
        Folder of the image's table.
    title
        Heading of the page.
    window
        Side of the windows around instances, in pixels, where there are no crops.
    crops
        Place of the image's crops; None shows windows of the image.

    Attributes
    ----------
    config
        View config of Vitessce.
    instances
        Number of instances in the table.
    left_out
        What is not shown and why, a line each.

    Raises
    ------
    InputError
        The table or the crops are not of these labels, or the table holds no instance.
    """

    def __init__(
        self,
        raster: Raster,
        table: str | os.PathLike[str],
        title: str,
        window: int = WINDOW,
        crops: str | os.PathLike[str] | None = None,
    ) -> None:
        measured = Measured.read(table, next(iter(raster.layers)))
        cut = None if crops is None else crops_of(crops, raster.channels, measured)
        field = fullest(measured.centroids, raster.labels.shape[-2:])
        there = np.unique(plane_of(raster.labels, field))
        there = there[there != 0].astype(np.uint64)
        measured.places_of(there)
        windows = _windows(raster, field, cut)
        info = raster.info()
        image = Levels(raster.image, info.image_chunks, len(raster.channels), _drawn(raster))
        labels = Levels(raster.labels, info.labels_chunks, None, np.dtype("u4"))
        *_, height, width = raster.spacing or (1.0, 1.0)
        pixel = (height, width)
        pair = _pair(raster, measured, windows)
        self._title, self._store = title, MadeStore()
        add_image(self._store, "image", image, raster.channels, windows, pixel)
        add_labels(self._store, "labels", labels, pixel)
        add_table(self._store, "table", measured, pair)
        self._pictures = Pictures(measured, image, raster.channels, windows, COLOURS, cut, window)
        self.instances, self.left_out = len(measured.ids), _left_out(raster, measured, image)
        middle = [(at.start + at.stop) / 2 * side for at, side in zip(field, pixel, strict=True)]
        self.config = view_config(
            Shown(
                title=title,
                statistic=next(iter(measured.statistics)),
                features=measured.channels,
                sets=list(measured.sets),
                windows=windows,
                segmentation=measured.ids[-1] <= LARGEST_LABEL,
                heatmap=is_held(measured),
                scatter=" and ".join(measured.channels[i] for i in pair) or "centroids",
                begin=None if _is_small(image) else (middle[1], middle[0], -log2(pixel[1])),
                crops={
                    "side": list(self._pictures.side),
                    "first": [str(label) for label in there[:_FIRST].tolist()],
                },
            )
        )

    def get(self, key: str) -> bytes | None:
        """Return a file; None if there is none of that path."""
        first, _, rest = key.partition("/")
        if first == "store":
            return self._store.get(rest)
        if first == "crops":
            return self._pictures.of(int(rest)) if rest.isdecimal() else None
        if key == "vitessce.json":
            return json.dumps(self.config, indent=1, allow_nan=False).encode()
        return self._page().encode() if key == "" else None

    def _page(self) -> str:
        page = files("harpy_core.viewing").joinpath("vitessce.html").read_text(encoding="utf-8")
        told = " ".join(html.escape(line) for line in self.left_out)
        return page.replace("/*told*/", told).replace("/*title*/", html.escape(self._title))


def _drawn(raster: Raster) -> np.dtype:
    kind = np.dtype(raster.image.dtype).str[1:]
    return np.dtype(kind if kind in _DRAWN else _DRAWN[-1])


def _windows(
    raster: Raster, field: tuple[slice, slice], crops: Crops | None
) -> dict[int, tuple[float, float]]:
    """Values shown black and white of the channels that are drawn."""
    numbers = with_pixels(raster.channels, crops)
    planes = [plane_of(raster.image, field, number) for number in numbers]
    ends = [limits(plane) for plane in planes]
    chosen = dim([as_bytes(plane, end) for plane, end in zip(planes, ends, strict=True)])
    return {numbers[place]: ends[place] for place in chosen[:AT_ONCE]}


def _pair(
    raster: Raster, measured: Measured, windows: Mapping[int, tuple[float, float]]
) -> list[int]:
    """Numbers in the table of two channels, drawn ones first; none if there is only one."""
    drawn = [raster.channels[number] for number in windows]
    places = sorted(
        range(len(measured.channels)), key=lambda place: measured.channels[place] not in drawn
    )
    return places[:2] if len(places) > 1 else []


def _is_small(levels: Levels) -> bool:
    height, width = levels.shapes[0]
    return height * width <= WHOLE


def _left_out(raster: Raster, measured: Measured, image: Levels) -> list[str]:
    found = []
    largest = int(measured.ids[-1])
    if largest > LARGEST_LABEL:
        found.append(
            f"The cells are not drawn: their largest label is {largest:,}, and Vitessce colours "
            f"labels up to {LARGEST_LABEL:,}."
        )
    if not is_held(measured):
        found.append(
            f"There is no heat map: {len(measured.ids):,} cells × {len(measured.channels):,} "
            f"channels are more than {MOST_VALUES:,} values."
        )
    if not _is_small(image):
        found.append(
            "Zoomed out far, the image is black: it is shown where one tile stands for a small "
            "part of it."
        )
    if raster.spacing is None:
        found.append("The scale bar is of pixels: how large they are is not known.")
    return found
