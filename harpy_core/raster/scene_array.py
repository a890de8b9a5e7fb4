"""An image of a microscope's file as an array that its reader reads block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from harpy_core.errors import InputError
from harpy_core.raster import axes, spacing
from harpy_core.raster.formats.format import (
    Choice,
    Element,
    Stamp,
    chosen_level,
    listed,
    stamp,
)
from harpy_core.raster.readers.scene import Scene
from harpy_core.raster.views import whole_key

_OPEN = 64
"""Number of images that a process keeps open."""


@lru_cache(maxsize=_OPEN)
def _opened(path: str, reader: str, name: str | None, file: Stamp) -> Scene:
    """Open an image of a file, once in each process until the file changes."""
    module = import_module(f"harpy_core.raster.readers.{reader}")
    with _reported(path):
        names = module.names(path)
    if not names:
        raise InputError(f"{path}: it holds no image; name another file")
    if name is None and len(names) > 1:
        numbered = [f"{number} {each!r}" for number, each in enumerate(names)]
        raise InputError(
            f"{path}: which of its images? {listed(numbered)}: name one by its name or number"
        )
    number = 0 if name is None else number_of(path, names, name)
    with _reported(path):
        found: Scene = module.scene(path, number)
    return found


@contextmanager
def _reported(path: str) -> Iterator[None]:
    """Say in one line that a reader cannot open a file, by whatever error: each has its own."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: cannot be opened ({said[:200]}): copy or export it again"
        ) from error


def number_of(path: str, names: Sequence[str], name: str) -> int:
    """Number of the image that is meant by a name or number; `path` is for an error."""
    if list(names).count(name) == 1:
        return list(names).index(name)
    if name.isdigit() and int(name) < len(names):
        return int(name)
    raise InputError(
        f"{path}: no image {name!r}; found {listed(list(names))}, or 0 to {len(names) - 1}"
    )


class SceneArray:
    """A level of an image as its reader gives it.

    Parameters
    ----------
    path
        Path of the file.
    reader
        Name of the module of `harpy_core.raster.readers` that reads it.
    scene
        Name or number of the image in it; None takes the only one.
    level
        Number of the resolution, 0 for the finest.

    Attributes
    ----------
    axes
        Names of the axes, lower case; samples of a colour are c.
    channels
        Names from the metadata; None if it has none.
    levels
        Shape of each resolution.
    sides
        Side of a pixel of this level along each spatial axis that is known, in micrometres.
    """

    def __init__(self, path: str, reader: str, scene: str | None = None, level: int = 0) -> None:
        self.path, self.reader, self.scene, self.level = path, reader, scene, level
        self._stamp = stamp(path)
        found = self._scene()
        self.axes, self.dtype, self.levels = found.axes, found.dtype, found.levels
        self.shape: tuple[int, ...] = found.levels[level]
        self.ndim = len(self.shape)
        self.chunks = tuple(map(min, found.block, self.shape))
        self.sides = spacing.at_level(
            found.sides, found.levels[0], self.shape, "".join(a[:1] for a in self.axes)
        )
        self.channels = found.channels

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.path, self.reader, self.scene, self.level)

    def __getitem__(self, key: Any) -> np.ndarray:
        chosen = [
            np.arange(n)[part]
            for part, n in zip(whole_key(key, self.ndim), self.shape, strict=True)
        ]
        counts = [each.shape for each in chosen if each.ndim]
        wanted = [np.atleast_1d(each) for each in chosen]
        if not all(each.size for each in wanted):
            return np.empty([n for (n,) in counts], self.dtype)
        region = tuple(slice(int(each.min()), int(each.max()) + 1) for each in wanted)
        found = self._scene().read(self.level, region)
        inside = np.ix_(*(each - part.start for each, part in zip(wanted, region, strict=True)))
        return found[inside].reshape([n for (n,) in counts])

    def _scene(self) -> Scene:
        return _opened(self.path, self.reader, self.scene, self._stamp)


def open_scene(path: str, reader: str, scene: str | None, kind: str, choice: Choice) -> Element:
    """Open an image of a file as an image or labels.

    Parameters
    ----------
    path
        Path of the file.
    reader
        Name of the module that reads it.
    scene
        Name or number of the image in it; None takes the only one.
    kind
        ``images`` or ``labels``.
    choice
        Level, axes and time point.
    """
    array = SceneArray(path, reader, scene)

    def names(shape: tuple[int, ...]) -> tuple[str, ...]:
        return axes.named_plainly(kind, array.axes, shape, choice.axes, path)

    shapes = [axes.spatial(shape, names(shape)) for shape in array.levels]
    level = chosen_level(kind, choice, [str(n) for n in range(len(shapes))], shapes, path)
    if level:
        array = SceneArray(path, reader, scene, level)
    found = axes.arranged(array, names(array.shape), kind, choice.t, path)
    pairs = zip(array.axes, names(array.shape), strict=True)
    sides = {stated: array.sides[axis] for axis, stated in pairs if axis in array.sides}
    # Axes that were stated may make channels of what the file does not call so.
    channels = array.channels if len(array.channels or ()) == found.shape[0] else None
    return Element(scene or path, found, channels, None, [*array.levels], level, sides)


def image_names(path: str, reader: str) -> list[str]:
    """Names of the images of a file."""
    module = import_module(f"harpy_core.raster.readers.{reader}")
    with _reported(path):
        return [*module.names(path)]
