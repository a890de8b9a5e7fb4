"""A TIFF series as an array that reads and decodes single tiles or strips.

TIFFs as sources are up to `harpy_core.raster.formats.tiff`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from harpy_core.errors import InputError
from harpy_core.raster import axes, spacing
from harpy_core.raster.formats.format import Element, listed
from harpy_core.raster.views import whole_key

_SAMPLES = {3: ["red", "green", "blue"], 4: ["red", "green", "blue", "alpha"]}
"""Names of the samples of a colour image, of which OME names the channel alone."""

_OPEN = 256
"""Number of levels that a process keeps open."""


@lru_cache(maxsize=_OPEN)
def _opened(path: str, series: int, level: int, stamp: tuple[int, int]) -> zarr.Array:
    """Open a level of a series, once in each process until the file changes."""
    node = zarr.open(tifffile.imread(path, aszarr=True, series=series, level=level), mode="r")
    array = node["0"] if isinstance(node, zarr.Group) else node
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: series {series} holds no image; name another one")
    return array


class TiffArray:
    """A series of a TIFF, without its axes of one pixel other than y and x.

    Parameters
    ----------
    path
        Path of the file.
    series
        Name or number of the image in it; None takes the first.
    channels
        Put the channels first, even if there is only one, which files often leave out.
    level
        Resolution of a pyramid, 0 for the finest; a file without a pyramid has only that.

    Attributes
    ----------
    axes
        Names of the axes: c, z, y, x or whatever the file has.
    channels
        Names from the OME metadata; None if it has none.
    levels
        Shape of each resolution in the file, the finest first.
    compression
        Name of the compression of its segments.
    sides
        Side of a pixel along each spatial axis for which the metadata have one, in micrometres.

    Raises
    ------
    InputError
        There is no such file, series or level, or the file is not a TIFF.
    """

    def __init__(
        self, path: str, series: str | None = None, channels: bool = False, level: int = 0
    ) -> None:
        if not Path(path).is_file():
            raise InputError(f"{path}: nothing there; correct the path")
        self.path, self.series, self.level = path, series, level
        try:
            with tifffile.TiffFile(path) as tiff:
                self._number = _number(tiff, path, series)
                levels = tiff.series[self._number].levels
                if level >= len(levels):
                    raise InputError(f"{path}: no level {level}; there are 0 to {len(levels) - 1}")
                self.levels = [found.shape for found in levels]
                shape, axes = levels[level].shape, levels[level].axes
                self.compression = tifffile.COMPRESSION(
                    levels[level].keyframe.compression
                ).name.lower()
                self.channels = _channel_names(tiff.ome_metadata, self._number)
                sides = spacing.of_ome_xml(tiff.ome_metadata, self._number)
                self.sides = spacing.at_level(sides, levels[0].shape, shape, axes)
        except tifffile.TiffFileError as error:
            raise InputError(f"{path}: not a TIFF ({error}); correct the path") from error
        names = tuple("c" if axis in "SQI" else axis.lower() for axis in axes)
        self._kept = tuple(i for i, n in enumerate(shape) if n > 1 or names[i] in "yx")
        self._axes_in_file = len(shape)
        kept = tuple(names[i] for i in self._kept)
        self._given = channels
        self._alone = channels and "c" not in kept
        one = (1,) if self._alone else ()
        self.axes: tuple[str, ...] = ("c", *kept) if self._alone else kept
        self.shape = (*one, *(shape[i] for i in self._kept))
        self.ndim = len(self.shape)
        status = Path(path).stat()
        self._stamp = status.st_mtime_ns, status.st_size
        array = _opened(path, self._number, level, self._stamp)
        self.dtype = np.dtype(array.dtype)
        self.chunks = (*one, *(array.chunks[i] for i in self._kept))

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.path, self.series, self._given, self.level)

    def __getitem__(self, key: Any) -> np.ndarray:
        given = whole_key(key, self.ndim)
        if self._alone:
            return self._read(given[1:])[np.newaxis][given[0]]
        return self._read(given)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        full: list[Any] = [0] * self._axes_in_file
        for axis, part in zip(self._kept, key, strict=True):
            full[axis] = part
        return np.asarray(self._level()[tuple(full)])

    def segment_sizes(self, count: int) -> list[int]:
        """Stored bytes of at most `count` tiles or strips, evenly over the level."""
        with tifffile.TiffFile(self.path) as tiff:
            level = tiff.series[self._number].levels[self.level]
            sizes: list[int] = []
            for place in _spread(len(level), count):
                page = level[place]
                if page is not None:
                    found = page.databytecounts
                    each = max(count // len(level), 1)
                    sizes += [int(found[i]) for i in _spread(len(found), each)]
        return sizes

    def _level(self) -> zarr.Array:
        return _opened(self.path, self._number, self.level, self._stamp)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype)


def open_tiff(path: str, series: str | None, kind: str, level: int) -> Element:
    """Open a series of a TIFF as an image or labels.

    Parameters
    ----------
    path
        Path of the file.
    series
        Name or number of the image in it; None takes the first.
    kind
        ``images`` or ``labels``.
    level
        Number of the resolution; labels with only one have it for all.
    """
    array = TiffArray(path, series, kind == "images")
    if level and (kind == "images" or len(array.levels) > 1):
        array = TiffArray(path, series, kind == "images", level)
    axes.check(kind, array.axes, array.axes, path)
    return Element(series or path, array, array.channels, None, array.levels, sides=array.sides)


def contents(path: str) -> Iterator[tuple[str, str]]:
    """Yield the kind of TIFF and its series, for people."""
    try:
        with tifffile.TiffFile(path) as tiff:
            kind = "OME-TIFF" if tiff.is_ome else "TIFF"
            big = "Big" if tiff.is_bigtiff else ""
            names = [series.name or str(i) for i, series in enumerate(tiff.series)]
    except FileNotFoundError:
        return
    except tifffile.TiffFileError as error:
        raise InputError(f"{path}: not a TIFF ({error}); correct the path") from error
    yield "file", f"{big}{kind}, {Path(path).stat().st_size:,} bytes"
    yield "images", listed(names)


def _spread(length: int, count: int) -> list[int]:
    """Return at most `count` places, evenly over a length."""
    return sorted({(2 * i + 1) * length // (2 * count) for i in range(count)})


def _number(tiff: tifffile.TiffFile, path: str, series: str | None) -> int:
    names = [found.name for found in tiff.series]
    if series is None or series == "":
        return 0
    if series in names:
        return names.index(series)
    if series.isdigit() and int(series) < len(names):
        return int(series)
    raise InputError(
        f"{path}: no image {series!r}; found {', '.join(names)}, or 0 to {len(names) - 1}"
    )


def _channel_names(metadata: str | None, number: int) -> list[str] | None:
    """Channel names of the OME-XML; None if some are missing."""
    if not metadata:
        return None
    images = ElementTree.fromstring(metadata).findall("{*}Image")
    if number >= len(images):
        return None
    names: list[str] = []
    for channel in images[number].findall("{*}Pixels/{*}Channel"):
        name = channel.get("Name")
        if not name:
            return None
        samples = int(channel.get("SamplesPerPixel", 1))
        own = _SAMPLES.get(samples, [str(sample) for sample in range(samples)])
        names += [name] if samples == 1 else [f"{name} {sample}" for sample in own]
    return names or None
