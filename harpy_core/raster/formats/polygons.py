"""Files of polygons that take the place of labels: GeoJSON and (Geo)Parquet."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import Choice, Element, Peek, Stamp, Storage, stamp
from harpy_core.raster.formats.names import METADATA

if TYPE_CHECKING:
    from harpy_core.raster.placement import Placement

LOCAL = True

ENDINGS: tuple[str, ...] = (".geojson", ".json", ".parquet")
"""Endings of files of polygons."""

_AXES = ("x", "y")
"""Axes of the corners of polygons, as SpatialData has them."""


def claims(uri: str) -> bool:
    """Whether a path names a file of polygons, by its ending."""
    return uri.lower().endswith(ENDINGS) and not os.path.isdir(uri)


def peek(uri: str) -> Peek:
    """Refuse a file that does not begin like one of polygons."""
    with open(uri, "rb") as file:
        start = file.read(64)
    if uri.lower().endswith(".parquet"):
        if start[:4] != b"PAR1":
            raise InputError("is no Parquet file: export the polygons again")
    elif start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"["):
        raise InputError("is no GeoJSON file: export the polygons again")
    return Peek()


def watched(uri: str) -> list[str]:
    """Return the file."""
    return [uri]


def stamps(uri: str) -> list[Stamp]:
    """Stamp of the file."""
    return [stamp(uri)]


def open_image(uri: str, name: str | None, choice: Choice) -> NoReturn:
    """Refuse: polygons are no image."""
    raise InputError(f"{uri}: holds polygons and no image; name it in labels")


def open_labels(
    uri: str, name: str | None, image: str | None, choice: Choice, elsewhere: bool
) -> NoReturn:
    """Refuse: polygons are no image."""
    open_image(uri, name, choice)


def open_alone(uri: str, choice: Choice) -> Element:
    """Read polygons as labels of an image."""
    from harpy_core.raster.polygons import read_polygons

    if choice.fits is None:
        raise InputError(f"{uri}: polygons have no levels; leave labels_level out")
    depth, *shape = choice.fits
    if depth > 1:
        raise InputError(f"{uri}: polygons are flat, the image is a volume; give a label image")
    array = read_polygons(uri, shape)
    return Element(uri, array, None, _placed(uri), [tuple(shape)])


def _placed(uri: str) -> Placement | None:
    """Placement of SpatialData's shapes, whose group holds the file; None if it is in none."""
    for name in METADATA:
        path = Path(uri).with_name(name)
        if name in ("zarr.json", ".zattrs") and path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            attributes = found.get("attributes", {}) if name == "zarr.json" else found
            if attributes.get("coordinateTransformations"):
                from harpy_core.raster.placement import placement

                return placement(attributes, {}, _AXES)
    return None


def contents(uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
    """Refuse: polygons are no image."""
    open_image(uri, image, choice)


def owns(array: Any) -> bool:
    """Whether an array is made of polygons."""
    from harpy_core.raster.polygons import PolygonLabels

    return isinstance(array, PolygonLabels)


def chunks(array: Any, strict: bool | None) -> NoReturn:
    """Refuse: polygons have no chunks, and a reader of their own."""
    raise TypeError("polygons have no chunks")


def facts(array: Any, times: bool) -> list[Any]:
    """Return what identifies the polygons: their corners."""
    found: list[Any] = array.facts()
    return found


def storage(array: Any, count: int) -> Storage:
    """Corners, without a chunk."""
    corners = math.ceil(len(array.x) / max(len(array), 1))
    return Storage(tuple(array.chunks), f"polygons of {corners} corners on average", [])


def files(array: Any) -> list[str]:
    """Return no file: polygons are held in memory."""
    return []


def reusable(array: Any) -> None:
    """Return None: no other array can have polygons as its chunks."""
