"""Whole slides that OpenSlide reads, in red, green and blue."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from harpy_core.raster.formats.format import Stamp, stamp
from harpy_core.raster.readers.scene import SAMPLES, Region, Scene, tiled

_OPEN = 16
"""Number of slides that a process keeps open."""

_AXES = ("c", "y", "x")

_WHITE = "FFFFFF"


@lru_cache(maxsize=_OPEN)
def _opened(path: str, file: Stamp) -> Any:
    """Open a slide, once in each process until it changes."""
    import openslide

    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise OSError(str(error) or "OpenSlide does not know it") from error


def names(path: str) -> list[str]:
    """Return one number: a slide is one image."""
    _opened(path, stamp(path))
    return ["0"]


def scene(path: str, number: int) -> Scene:
    """Open the slide, with the levels whose pixels are whole blocks of those of the finest."""
    slide = _opened(path, stamp(path))
    levels: list[tuple[int, ...]] = []
    for (width, height), factor in zip(
        slide.level_dimensions, slide.level_downsamples, strict=True
    ):
        # OpenSlide is asked for pixels of the finest level; it would interpolate between others.
        if factor != round(factor):
            break
        levels.append((len(SAMPLES), height, width))

    def read(level: int, region: Region) -> np.ndarray:
        return _read(_opened(path, stamp(path)), level, region)

    return Scene(
        _AXES,
        levels,
        np.dtype("u1"),
        tiled(_AXES, levels[0], ("c",)),
        read,
        list(SAMPLES),
        _sides(slide.properties),
    )


def _read(slide: Any, level: int, region: Region) -> np.ndarray:
    """Return a region of a level, on the colour of the slide's background."""
    from openslide import OpenSlideError

    channels, y, x = region
    factor = round(slide.level_downsamples[level])
    size = (x.stop - x.start, y.stop - y.start)
    corner = (x.start * factor, y.start * factor)
    try:
        found = np.asarray(slide.read_region(corner, level, size))
    except OpenSlideError as error:
        raise OSError(str(error)) from error
    planes, seen = np.moveaxis(found[..., :3], -1, 0), found[..., 3]
    if seen.min() < 255:
        colour = slide.properties.get("openslide.background-color", _WHITE)
        behind = np.frombuffer(bytes.fromhex(colour), np.uint8)[:, None, None]
        mixed = planes * seen.astype("u4") + behind * (255 - seen.astype("u4"))
        planes = ((mixed + 127) // 255).astype("u1")
    return np.ascontiguousarray(planes[channels])


def _sides(properties: Mapping[str, str]) -> dict[str, float]:
    """Sides of a pixel of the finest level, in micrometres."""
    found = {axis: properties.get(f"openslide.mpp-{axis}") for axis in "yx"}
    return {axis: float(side) for axis, side in found.items() if side is not None}
