"""A TIFF series as an array that reads and decodes single tiles or strips.

TIFFs as sources are up to `harpy_core.raster.formats.tiff`.
"""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from harpy_core.errors import InputError
from harpy_core.raster import axes, scanners, spacing
from harpy_core.raster.formats import headers, ome
from harpy_core.raster.formats.format import (
    Choice,
    Element,
    Stamp,
    chosen_level,
    listed,
    stamp,
)
from harpy_core.raster.formats.ome import Spread

_SAMPLES = {3: ["red", "green", "blue"], 4: ["red", "green", "blue", "alpha"]}
"""Names of the samples of a colour image, of which OME names the channel alone."""

_NAME_TAGS = ("Biomarker", "Name")
"""Tags of a channel's name in a plane of a PerkinElmer slide."""

_OPEN = 256
"""Number of levels that a process keeps open."""


@lru_cache(maxsize=_OPEN)
def _opened(
    path: str, xml: str | None, series: int, level: int, stamps: tuple[Stamp, ...]
) -> zarr.Array:
    """Open a level of a series, once in each process until a file changes."""
    store = tifffile.imread(path, aszarr=True, series=series, level=level, omexml=xml)
    node = zarr.open(store, mode="r")
    array = node["0"] if isinstance(node, zarr.Group) else node
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: series {series} holds no image; name another one")
    return array


class TiffArray:
    """A level of a series of a TIFF as it is stored, whose planes may lie in several files.

    Parameters
    ----------
    path
        Path of the file, of one of several, or of their companion.
    series
        Name or number of the image in it; None takes the only one.
    level
        Number of the resolution of a pyramid, 0 for the finest.

    Attributes
    ----------
    axes
        Names of the axes, lower case; samples of a colour are c, and so is what has no name.
    unnamed
        Numbers of the axes that have no name in the file.
    channels
        Names from the OME metadata; None if it has none.
    levels
        Shape of each resolution in the file, the finest first.
    compression
        Name of the compression of its segments.
    sides
        Side of a pixel along each spatial axis for which the metadata have one, in micrometres.
    files
        Paths of all files of the image, `path` first.

    Raises
    ------
    InputError
        There is no such file, series or level, several series could be meant, planes are missing,
        or the file is not a TIFF.
    """

    def __init__(self, path: str, series: str | None = None, level: int = 0) -> None:
        if not Path(path).is_file():
            raise InputError(f"{path}: nothing there; correct the path")
        self.path, self.series, self.level = path, series, level
        spread = _spread_of(path)
        self._start, self._xml = spread.start, spread.xml
        self.files = (path, *(file for file in spread.files if file != path))
        try:
            with tifffile.TiffFile(self._start, omexml=self._xml) as tiff:
                self._number = _number(tiff, path, series)
                levels = tiff.series[self._number].levels
                if not 0 <= level < len(levels):
                    raise InputError(f"{path}: no level {level}; there are 0 to {len(levels) - 1}")
                _refuse_gaps(path, levels[level])
                scanners.refuse_luminance(path, levels[level].keyframe)
                self.levels = [found.shape for found in levels]
                self.shape, axes = levels[level].shape, levels[level].axes
                self.compression = tifffile.COMPRESSION(
                    levels[level].keyframe.compression
                ).name.lower()
                self.channels = _channel_names(tiff, self._number)
                sides = spacing.of_ome_xml(tiff.ome_metadata, self._number)
                sides = sides or scanners.sides(tiff, self._number)
                self.sides = spacing.at_level(sides, levels[0].shape, self.shape, axes)
        except tifffile.TiffFileError as error:
            raise InputError(f"{path}: not a TIFF ({error}); correct the path") from error
        self.axes = tuple("c" if axis in "SQI" else axis.lower() for axis in axes)
        self.unnamed = frozenset(i for i, axis in enumerate(axes) if axis in "QI")
        self.ndim = len(self.shape)
        self._stamps = tuple(map(stamp, self.files))
        array = self._array()
        self.dtype, self.chunks = np.dtype(array.dtype), array.chunks

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.path, self.series, self.level)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self._array()[key])

    def segment_sizes(self, count: int) -> list[int]:
        """Stored bytes of at most `count` tiles or strips, evenly over the level."""
        with tifffile.TiffFile(self._start, omexml=self._xml) as tiff:
            level = tiff.series[self._number].levels[self.level]
            sizes: list[int] = []
            for place in _spread(len(level), count):
                page = level[place]
                if page is not None:
                    found = page.databytecounts
                    each = max(count // len(level), 1)
                    sizes += [int(found[i]) for i in _spread(len(found), each)]
        return sizes

    def _array(self) -> zarr.Array:
        return _opened(self._start, self._xml, self._number, self.level, self._stamps)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype)


def open_tiff(path: str, series: str | None, kind: str, choice: Choice) -> Element:
    """Open a series of a TIFF as an image or labels.

    Parameters
    ----------
    path
        Path of the file.
    series
        Name or number of the image in it; None takes the only one.
    kind
        ``images`` or ``labels``.
    choice
        Level, axes and time point.
    """
    array = TiffArray(path, series)

    def names(shape: tuple[int, ...]) -> tuple[str, ...]:
        found = array.axes
        if kind == "labels":
            # Labels have no channels: pages without a name are planes.
            found = tuple("z" if i in array.unnamed else a for i, a in enumerate(found))
        return axes.named_plainly(kind, found, shape, choice.axes, path)

    shapes = [axes.spatial(shape, names(shape)) for shape in array.levels]
    level = chosen_level(kind, choice, [str(n) for n in range(len(shapes))], shapes, path)
    if level:
        array = TiffArray(path, series, level)
    found = axes.arranged(array, names(array.shape), kind, choice.t, path)
    return Element(series or path, found, array.channels, None, array.levels, level, array.sides)


def contents(path: str) -> Iterator[tuple[str, str]]:
    """Yield the kind of TIFF and its series, for people."""
    if not os.path.isfile(path):
        return
    spread = _spread_of(path)
    try:
        with tifffile.TiffFile(spread.start, omexml=spread.xml) as tiff:
            kind = "OME-TIFF" if tiff.is_ome else "TIFF"
            big = "Big" if tiff.is_bigtiff else ""
            names = _listed_series(tiff)
    except tifffile.TiffFileError as error:
        raise InputError(f"{path}: not a TIFF ({error}); correct the path") from error
    size = sum(os.path.getsize(file) for file in spread.files)
    several = f"{len(spread.files)} files, " if len(spread.files) > 1 else ""
    yield "file", f"{big}{kind}, {several}{size:,} bytes"
    yield "images", listed(names)


def _spread_of(path: str) -> Spread:
    """Return the files of an image, if all are there."""
    try:
        found = ome.spread(path)
        found.refuse_missing()
        for file in {found.start, *found.files}:
            if not file.lower().endswith(ome.COMPANION):
                headers.check(file)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return found


def _listed_series(tiff: tifffile.TiffFile) -> list[str]:
    """Number, name and size of each series."""
    listed = []
    for number, series in enumerate(tiff.series):
        name = f" {series.name!r}" if series.name else ""
        listed.append(
            f"{number}{name} ({' x '.join(map(str, series.shape))} {series.axes.lower()})"
        )
    return listed


def _refuse_gaps(path: str, series: tifffile.TiffPageSeries) -> None:
    """Refuse planes that are not there, which tifffile reads as zeros."""
    gaps = sum(page is None for page in series)
    if gaps:
        raise InputError(
            f"{path}: {gaps} of the {len(series)} planes that its metadata describe are not there: "
            "copy or export it again"
        )


def _spread(length: int, count: int) -> list[int]:
    """Return at most `count` places, evenly over a length."""
    return sorted({(2 * i + 1) * length // (2 * count) for i in range(count)})


def _number(tiff: tifffile.TiffFile, path: str, series: str | None) -> int:
    """Return the number of the series that is meant."""
    names = [found.name for found in tiff.series]
    if series is None or series == "":
        slide = scanners.slide_number(tiff)
        if slide is not None:
            return slide
        sizes = [math.prod(found.shape) for found in tiff.series]
        # Slides are followed by a thumbnail, a label and an overview.
        if len(sizes) > 1 and max(sizes[1:]) >= sizes[0]:
            raise InputError(
                f"{path}: which of its images? {listed(_listed_series(tiff))}: name an image by "
                "its name or number, and save labels as a file of their own"
            )
        return 0
    if names.count(series) == 1:
        return names.index(series)
    if series.isdigit() and int(series) < len(names):
        return int(series)
    raise InputError(
        f"{path}: no image {series!r}; found {', '.join(names)}, or 0 to {len(names) - 1}"
    )


def _described(tiff: tifffile.TiffFile, number: int) -> ElementTree.Element | None:
    """Return the OME metadata of a series."""
    if not tiff.ome_metadata:
        return None
    images = ElementTree.fromstring(tiff.ome_metadata).findall("{*}Image")
    # One that tifffile leaves out would shift those behind it.
    return images[number] if len(images) == len(tiff.series) else None


def _channel_names(tiff: tifffile.TiffFile, number: int) -> list[str] | None:
    """Channel names of the OME-XML, or of a PerkinElmer slide; None if some are missing."""
    if tiff.is_qpi:
        return _names_of_pages(tiff.series[number])
    image = _described(tiff, number)
    if image is None:
        return None
    names: list[str] = []
    for channel in image.findall("{*}Pixels/{*}Channel"):
        name = channel.get("Name")
        if not name:
            return None
        samples = int(channel.get("SamplesPerPixel", 1))
        own = _SAMPLES.get(samples, [str(sample) for sample in range(samples)])
        names += [name] if samples == 1 else [f"{name} {sample}" for sample in own]
    return names or None


def _names_of_pages(series: tifffile.TiffPageSeries) -> list[str] | None:
    """Names in the descriptions of the planes: the marker or, without one, the filter."""
    names = []
    for page in series:
        root = ElementTree.fromstring(page.aspage().description) if page is not None else None
        found = [None if root is None else root.findtext(f".//{tag}") for tag in _NAME_TAGS]
        names.append(next(filter(None, found), ""))
    return names if all(names) and "c" in series.axes.lower() else None
