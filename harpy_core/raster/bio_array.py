"""A scene of a microscope's file as an array that bioio reads block by block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster import axes
from harpy_core.raster.formats.format import (
    Choice,
    Element,
    Stamp,
    chosen_level,
    listed,
    stamp,
)

_OPEN = 16
"""Number of scenes that a process keeps open."""


@lru_cache(maxsize=_OPEN)
def _opened(path: str, scene: str | None, level: int, file: Stamp) -> Any:
    """Open a level of a scene, once in each process until the file changes."""
    from bioio import BioImage

    image = BioImage(path)
    if scene is not None:
        image.set_scene(number_of(path, image.scenes, scene))
    elif len(image.scenes) > 1:
        numbered = [f"{number} {name!r}" for number, name in enumerate(image.scenes)]
        raise InputError(
            f"{path}: which of its images? {listed(numbered)}: name one by its name or number"
        )
    if level:
        image.set_resolution_level(level)
    return image


def number_of(path: str, names: Sequence[str], scene: str) -> int:
    """Number of the scene that is meant by a name or number; `path` is for an error."""
    if list(names).count(scene) == 1:
        return list(names).index(scene)
    if scene.isdigit() and int(scene) < len(names):
        return int(scene)
    raise InputError(
        f"{path}: no image {scene!r}; found {listed(list(names))}, or 0 to {len(names) - 1}"
    )


class BioArray:
    """A level of a scene as it is stored.

    Parameters
    ----------
    path
        Path of the file.
    scene
        Name or number of the image in it; None takes the only one.
    level
        Number of the resolution, 0 for the finest.

    Attributes
    ----------
    axes
        Names of the axes, lower case; samples of a colour are c.
    channels
        Names from the metadata; None if they are not one for each channel.
    levels
        Number of resolutions.
    """

    def __init__(self, path: str, scene: str | None = None, level: int = 0) -> None:
        self.path, self.scene, self.level = path, scene, level
        self._stamp = stamp(path)
        image = self._image()
        pixels = image.dask_data
        order = image.dims.order.lower()
        self.axes = tuple("c" if axis == "s" else axis for axis in order)
        self.shape: tuple[int, ...] = tuple(pixels.shape)
        self.ndim = len(self.shape)
        self.dtype = np.dtype(pixels.dtype)
        self.chunks = tuple(_regular(sizes) for sizes in pixels.chunks)
        self.levels = len(image.resolution_levels)
        names = [str(name) for name in image.channel_names or ()]
        number = max((n for a, n in zip(self.axes, self.shape, strict=True) if a == "c"), default=1)
        self.channels = names if len(names) == number else None

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.path, self.scene, self.level)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self._image().dask_data[key].compute(scheduler="synchronous"))

    def _image(self) -> Any:
        return _opened(self.path, self.scene, self.level, self._stamp)


def _regular(sizes: tuple[int, ...]) -> int:
    """Size of all blocks along an axis but the last; of the axis, if they differ."""
    first, *rest = sizes
    alike = all(size == first for size in rest[:-1]) and all(size <= first for size in rest)
    return first if alike else sum(sizes)


def open_scene(path: str, scene: str | None, kind: str, choice: Choice) -> Element:
    """Open a scene of a file as an image or labels.

    Parameters
    ----------
    path
        Path of the file.
    scene
        Name or number of the image in it; None takes the only one.
    kind
        ``images`` or ``labels``.
    choice
        Level, axes and time point.
    """
    array = BioArray(path, scene)
    levels = [array, *(BioArray(path, scene, level) for level in range(1, array.levels))]
    names = [axes.named_plainly(kind, e.axes, e.shape, choice.axes, path) for e in levels]
    shapes = [axes.spatial(e.shape, found) for e, found in zip(levels, names, strict=True)]
    level = chosen_level(kind, choice, [str(n) for n in range(len(levels))], shapes, path)
    found = axes.arranged(levels[level], names[level], kind, choice.t, path)
    stored = [each.shape for each in levels]
    return Element(scene or path, found, array.channels, None, stored, level)
