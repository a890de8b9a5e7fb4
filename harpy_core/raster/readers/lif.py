"""Leica ``.lif``, whose images lie in the file as arrays."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import Stamp, stamp
from harpy_core.raster.readers.scene import Region, Scene, tiled
from harpy_core.raster.spacing import MICROMETERS

_OPEN = 16
"""Number of files that a process keeps open."""

_DIMENSIONS = {"1": "x", "2": "y", "3": "z"}
"""Axes by their numbers in the metadata."""

_DESCRIPTION = "./Data/Image/ImageDescription"

_reading = Lock()
"""Held while frames are read: all threads share the position in a file."""


@lru_cache(maxsize=_OPEN)
def _opened(path: str, file: Stamp) -> Any:
    """Open a file, once in each process until it changes."""
    from liffile import LifFile

    return LifFile(path, squeeze=False)


def _image(path: str, number: int) -> Any:
    return _opened(path, stamp(path)).images[number]


def names(path: str) -> list[str]:
    """Names of the images, after those of their folders."""
    return [str(image.path) for image in _opened(path, stamp(path)).images]


def scene(path: str, number: int) -> Scene:
    """Open an image.

    Raises
    ------
    InputError
        Its pixels are lifetimes, or differ in type between channels.
    """
    image = _image(path, number)
    if image.is_flim:
        raise InputError(f"{path}: {image.path} holds lifetimes (FLIM): export it as an image")
    described = image.xml_element.findall(f"{_DESCRIPTION}/Channels/ChannelDescription")
    kinds = {(-(-int(e.get("Resolution", 8)) // 8), e.get("DataType")) for e in described}
    if len(kinds) > 1:
        raise InputError(
            f"{path}: channels of {image.path} differ in the type of their pixels: export it"
        )
    sizes = {str(axis): int(n) for axis, n in image.sizes.items()}
    axes = tuple("c" if axis == "S" else axis.lower() for axis in sizes)
    shape = tuple(sizes.values())
    dtype = np.dtype(image.dtype)
    # Where rows are padded, or samples are blue, green, red, frames are put right as they are read.
    plain = "S" not in sizes and math.prod(shape) * dtype.itemsize == image.memory_block.size
    frame = image.frames.frame_dims
    inner = tuple(n if axis in frame else 1 for axis, n in sizes.items())

    def mapped(level: int, region: Region) -> np.ndarray:
        return np.array(_image(path, number).asarray(out="memmap")[tuple(region)])

    def framed(level: int, region: Region) -> np.ndarray:
        return _frames(_image(path, number), region)

    return Scene(
        axes,
        [shape],
        dtype,
        tiled(axes, shape) if plain else inner,
        mapped if plain else framed,
        _channels(described, sizes),
        _sides(image),
    )


def _frames(image: Any, region: Region) -> np.ndarray:
    """Return a region of an image frame by frame."""
    inner = len(image.frames.frame_dims)
    outer = image.dims[: image.ndim - inner]
    spans = [range(part.start, part.stop) for part in region[: len(outer)]]
    found = []
    for index in itertools.product(*spans):
        with _reading:
            frame = image.frame(**dict(zip(outer, index, strict=True)))
        found.append(frame[tuple(region[len(outer) :])])
    return np.stack(found).reshape(*map(len, spans), *found[0].shape)


def _channels(described: list[Any], sizes: dict[str, int]) -> list[str] | None:
    """Names of the channels' colours, by which Leica tells them apart; None if two are alike."""
    in_file = sorted(described, key=lambda each: int(each.get("BytesInc", 0)))
    found = [each.get("LUTName", "") for each in in_file]
    if sizes.get("S", 1) > 1 and [e.get("ChannelTag") for e in in_file] == ["3", "2", "1"]:
        found.reverse()
    return found if all(found) and len(set(found)) == len(found) else None


def _sides(image: Any) -> dict[str, float]:
    """Sides of a pixel in micrometres; the file has the distance of the outermost two."""
    found = {}
    for each in image.xml_element.findall(f"{_DESCRIPTION}/Dimensions/DimensionDescription"):
        axis = _DIMENSIONS.get(each.get("DimID", ""))
        steps, unit = int(each.get("NumberOfElements", 1)) - 1, each.get("Unit", "")
        if axis and steps > 0 and unit in MICROMETERS and float(each.get("Length", 0)):
            found[axis] = abs(float(each.get("Length", 0))) / steps * MICROMETERS[unit]
    return found
