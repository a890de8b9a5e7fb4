"""Sides of pixels in micrometres, from the metadata of NGFF and of OME-TIFF."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harpy_core.raster.axes import SPATIAL
from harpy_core.raster.placement import Placement

Sides = Mapping[str, float]
"""Side of a pixel along each of the axes z, y and x that are known, in micrometres."""

MICROMETERS = {
    "angstrom": 1e-4,
    "Å": 1e-4,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "micrometer": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "millimeter": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "cm": 1e4,
    "meter": 1e6,
    "m": 1e6,
    "inch": 25_400.0,
    "in": 25_400.0,
}
"""Micrometres of each unit of length, under the names of NGFF and the symbols of OME."""

_FRAME = ("c", "z", "y", "x")
_ORIGINAL = "global"
"""Coordinate system that NGFF leaves without a name."""


def of_multiscale(axes: Sequence[Any], placed: Placement) -> Sides:
    """Return the sides of a level's pixels; of no axis whose unit is not one of length.

    Parameters
    ----------
    axes
        Entry ``axes`` of a multiscale of NGFF.
    placed
        Placement of the level.
    """
    matrix = placed.get(_ORIGINAL)
    if matrix is None or isinstance(matrix, str):
        return {}
    linear = np.asarray(matrix)[:-1, :-1]
    if np.any(linear != np.diag(np.diagonal(linear))):
        return {}
    units = {str(a["name"]).lower(): str(a.get("unit")) for a in axes if isinstance(a, dict)}
    return {
        axis: float(abs(linear[i, i])) * MICROMETERS[units[axis]]
        for i, axis in enumerate(_FRAME)
        if units.get(axis) in MICROMETERS
    }


def of_ome_xml(metadata: str | None, number: int) -> Sides:
    """Return the sides of the pixels of an image of OME-XML, at its finest level.

    Parameters
    ----------
    metadata
        OME-XML of a TIFF, if it has any.
    number
        Number of the image.
    """
    images = ElementTree.fromstring(metadata).findall("{*}Image") if metadata else []
    pixels = images[number].find("{*}Pixels") if number < len(images) else None
    if pixels is None:
        return {}
    found = {}
    for axis in SPATIAL:
        size = pixels.get(f"PhysicalSize{axis.upper()}")
        unit = pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm")
        if size is not None and unit in MICROMETERS and float(size) > 0:
            found[axis] = float(size) * MICROMETERS[unit]
    return found


def at_level(sides: Sides, finest: Sequence[int], level: Sequence[int], axes: str) -> Sides:
    """Return the sides at a level of a pyramid that covers the same field with fewer pixels.

    Parameters
    ----------
    finest, level
        Shape of the finest level, and of this one.
    axes
        Names of their axes, in any case.
    """
    places = {axis: i for i, axis in enumerate(axes.lower())}
    return {
        axis: side * (finest[places[axis]] / level[places[axis]]) if axis in places else side
        for axis, side in sides.items()
    }


def along(sides: Sides, axes: Sequence[str]) -> tuple[float, ...] | None:
    """Return the sides along some axes in their order; None unless all are known."""
    return tuple(sides[axis] for axis in axes) if all(axis in sides for axis in axes) else None
