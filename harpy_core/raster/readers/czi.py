"""Zeiss ``.czi``, read by Zeiss' own library, which places the tiles of a mosaic."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import Stamp, stamp
from harpy_core.raster.readers.scene import Region, Scene, coloured, tiled

_OPEN = 16
"""Number of files that a process keeps open."""

_AXES = ("t", "c", "z", "y", "x")

_PIXELS = {
    "Gray8": ("u1", 1),
    "Gray16": ("u2", 1),
    "Gray32Float": ("f4", 1),
    "Bgr24": ("u1", 3),
    "Bgr48": ("u2", 3),
    "Bgr96Float": ("f4", 3),
}
"""Type and number of the samples of each kind of pixel."""


@lru_cache(maxsize=_OPEN)
def _opened(path: str, file: Stamp) -> Any:
    """Open a file, once in each process until it changes."""
    from pylibCZIrw.czi import CziReader

    return CziReader(path)


def _file(path: str) -> Any:
    return _opened(path, stamp(path))


def names(path: str) -> list[str]:
    """Names of the scenes, or their numbers; one number if there are none."""
    file = _file(path)
    numbers = sorted(file.scenes_bounding_rectangle) or [0]
    listed = _listed(_under(file.metadata, "Image", "Dimensions", "S", "Scenes", "Scene"))
    named = {str(each.get("@Index", "")): str(each.get("@Name") or "") for each in listed}
    return [named.get(str(number)) or str(number) for number in numbers]


def scene(path: str, number: int) -> Scene:
    """Open a scene.

    Raises
    ------
    InputError
        Its channels differ in the type of their pixels, or it has axes that are not read.
    """
    file = _file(path)
    scenes = sorted(file.scenes_bounding_rectangle)
    chosen = scenes[number] if scenes else None
    place = file.total_bounding_rectangle
    if chosen is not None:
        place = file.scenes_bounding_rectangle_no_pyramid[chosen]
    spans: Mapping[str, tuple[int, int]] = file.total_bounding_box
    others = sorted(a for a, (low, high) in spans.items() if a not in "TCZYX" and high - low > 1)
    if others:
        raise InputError(
            f"{path}: it has axes {', '.join(others)}, which are not read: export it as OME-TIFF"
        )
    first = {axis: spans.get(axis, (0, 1)) for axis in "TCZ"}
    counts = {axis: high - low for axis, (low, high) in first.items()}
    kinds = {file.get_channel_pixel_type(c) for c in range(*first["C"])}
    if len(kinds) > 1 or not kinds <= set(_PIXELS):
        raise InputError(
            f"{path}: its pixels are {', '.join(sorted(kinds))}; one kind of "
            f"{', '.join(_PIXELS)} is read: export it as OME-TIFF"
        )
    dtype, samples = _PIXELS[kinds.pop()]
    shape = (counts["T"], counts["C"] * samples, counts["Z"], place.h, place.w)
    listed = _channels(file.metadata, counts["C"])
    found = _Planes(path, chosen, (place.x, place.y), {a: s[0] for a, s in first.items()}, samples)
    return Scene(
        _AXES,
        [shape],
        np.dtype(dtype),
        tiled(_AXES, shape, ("c",) if samples > 1 and counts["C"] == 1 else ()),
        found.read,
        coloured(listed, samples) if listed else None,
        _sides(file.metadata),
    )


class _Planes:
    """Planes of a scene.

    Parameters
    ----------
    path
        Path of the file.
    number
        Number of the scene; None if the file has none.
    corner
        Place of the first pixel along x and y.
    first
        First index along T, C and Z.
    samples
        Number of samples of a pixel, stored as blue, green, red.
    """

    def __init__(
        self,
        path: str,
        number: int | None,
        corner: tuple[int, int],
        first: Mapping[str, int],
        samples: int,
    ) -> None:
        self._path, self._number, self._corner = path, number, corner
        self._first, self._samples = first, samples
        self._dtype = np.uint8

    def read(self, level: int, region: Region) -> np.ndarray:
        """Return a region along t, c, z, y and x; pixels between tiles are 0."""
        times, channels, depths, y, x = region
        roi = (
            self._corner[0] + x.start,
            self._corner[1] + y.start,
            x.stop - x.start,
            y.stop - y.start,
        )
        wanted: dict[int, list[int]] = {}
        for channel in range(channels.start, channels.stop):
            wanted.setdefault(channel // self._samples, []).append(channel % self._samples)
        planes = []
        for t, c, z in itertools.product(
            range(times.start, times.stop), wanted, range(depths.start, depths.stop)
        ):
            at = {"T": t, "C": c, "Z": z}
            plane = _file(self._path).read(
                roi=roi, plane={a: self._first[a] + i for a, i in at.items()}, scene=self._number
            )
            planes.append(np.moveaxis(plane[..., ::-1], -1, 0)[wanted[c]])
        counts = (times.stop - times.start, len(wanted), depths.stop - depths.start)
        stacked = np.stack(planes).reshape(*counts, -1, roi[3], roi[2])
        return stacked.swapaxes(2, 3).reshape(counts[0], -1, counts[2], roi[3], roi[2])


def _under(metadata: Any, *keys: str) -> Any:
    """Return a part of the metadata of the image; None if it is not there."""
    found = metadata.get("ImageDocument", {}).get("Metadata", {}).get("Information", {})
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _listed(found: Any) -> Sequence[Any]:
    """Return what XML has once or several times, as a list."""
    return found if isinstance(found, list) else [found] if isinstance(found, dict) else []


def _channels(metadata: Any, count: int) -> list[str] | None:
    """Names of the channels; None if they are not one for each."""
    listed = _listed(_under(metadata, "Image", "Dimensions", "Channels", "Channel"))
    found = [str(each["@Name"]) for each in listed if each.get("@Name")]
    return found if len(found) == count else None


def _sides(metadata: Any) -> dict[str, float]:
    """Sides of a pixel in micrometres; the file has metres."""
    scaling = metadata.get("ImageDocument", {}).get("Metadata", {}).get("Scaling") or {}
    listed = _listed((scaling.get("Items") or {}).get("Distance"))
    found = {str(e.get("@Id", "")).lower(): float(e.get("Value") or 0) * 1e6 for e in listed}
    return {axis: side for axis, side in found.items() if axis in ("z", "y", "x") and side > 0}
