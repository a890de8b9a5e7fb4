"""Survey of a source: its elements, their storage, and a sample of their chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harpy_core.errors import InputError, understood
from harpy_core.raster import axes as axes_names
from harpy_core.raster.formats import format_of, owner_of
from harpy_core.raster.formats.format import LISTED, Choice, Element, Format, Storage, listed
from harpy_core.raster.label_views import whole_numbers
from harpy_core.raster.ngff import diagonal
from harpy_core.raster.opening import check_elements, chosen_channels, find_elements, given_names
from harpy_core.raster.overlay import Laid, Sides
from harpy_core.raster.polygons import PolygonLabels
from harpy_core.raster.spacing import along
from harpy_core.raster.views import stored_in
from harpy_core.tiles.labels import mask_note

SAMPLED = 4
"""Number of chunks of each array that are read."""

SAMPLED_BYTES = 2**28
"""Decoded bytes after which no further chunk of an array is read."""


@dataclass(slots=True)
class Survey:
    """The contents of a source.

    Attributes
    ----------
    lines
        Lines for people, aligned.
    problem
        Reason why the source cannot be used; None if it can.
    """

    lines: list[str] = field(default_factory=list)
    problem: str | None = None


def survey(
    uri: str,
    image: str | None = None,
    labels: str | None = None,
    channels: Sequence[str] | str | None = None,
    *,
    level: int | str = 0,
    labels_level: int | str | None = None,
    axes: str | None = None,
    t: int | None = None,
    label_connected: bool = False,
    labels_scale: Sides | None = None,
    labels_translation: Sides | None = None,
    labels_nearest: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    labels_alone: bool = False,
) -> Survey:
    """Look at a source: all of its metadata, and a few chunks of its pixels.

    See `open_raster` for the parameters; what it would refuse becomes the survey's problem. With
    `labels_alone`, the image has been described, and these are other labels of it.
    """
    found = Survey()
    choice = Choice(level, axes, t, storage_options)
    try:
        source = format_of(uri)
        with understood(uri):
            for name, line in () if labels_alone else source.contents(uri, image, choice):
                found.lines.append(_row(name) + line)
        pixels, segmentation = find_elements(uri, image, labels, choice, labels_level)
        with understood(uri):
            of_image = [] if labels_alone else [_facts(pixels, "images")]
            found.lines += _side_by_side(*of_image, _facts(segmentation, "labels"))
        keys = "" if labels_alone else "labels_"
        laid = Laid(labels_scale, labels_translation, labels_nearest, keys)
        own = check_elements(uri, pixels, segmentation, label_connected, laid).channels
        if not labels_alone:
            names, wanted = given_names(uri, channels, pixels.channels, own)
            used = [names[i] for i in chosen_channels(uri, names, wanted)]
            of = "" if len(used) == len(names) else f" of {len(names)}"
            found.lines.append(_row("channels") + f"{len(used)}{of}: {listed(used)}")
        found.lines.append(_row("instances") + _instances(segmentation.array, label_connected))
    except InputError as error:
        found.problem = str(error)
    return found


def _row(name: str) -> str:
    """Format the beginning of a line."""
    return f"{name:<11} "


def _side_by_side(*columns: Mapping[str, str]) -> Iterator[str]:
    widths = [max(map(len, column.values())) for column in columns]
    for name in columns[0]:
        cells = (column[name].ljust(width) for column, width in zip(columns, widths, strict=True))
        yield (_row(name) + "   ".join(cells)).rstrip()


# One array ----------------------------------------------------------------------------------------


def _facts(element: Element, kind: str) -> dict[str, str]:
    array = element.array
    stored = stored_in(array)
    found = _format(stored).storage(stored, 4 * SAMPLED)
    return {
        "": kind.removesuffix("s") if kind == "images" else kind,
        "element": element.name or "the store itself",
        "shape": f"{_by(array.shape)} ({', '.join(axes_names.of(kind, array.ndim))})",
        "levels": _levels(element),
        "pixel": _spacing(element, kind),
        "dtype": str(np.dtype(array.dtype)),
        "chunks": _by(array.chunks),
        "shards": "none" if found.unit == tuple(stored.chunks) else _by(found.unit),
        "codec": found.codec,
        "stored": _presence(found, stored.shape),
        "compression": _compression(found, np.dtype(stored.dtype)),
    }


def _levels(element: Element) -> str:
    """Describe the number of levels, their shapes, and which is used if it is not the first."""
    shapes = ", ".join(_by(shape[-2:]) for shape in element.levels[:LISTED])
    used = f" (level {element.level} is used)" if element.level else ""
    return f"{len(element.levels)}: {shapes}{used}"


def _spacing(element: Element, kind: str) -> str:
    """Describe the side of a pixel along (z, ) y and x."""
    named = [axis for axis in axes_names.of(kind, element.array.ndim) if axis != "c"]
    sides = along(element.sides, named)
    return "of unknown size" if sides is None else f"{' x '.join(f'{s:g}' for s in sides)} µm"


def _format(array: Any) -> Format:
    owner = owner_of(array)
    assert owner is not None
    return owner


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(f"{n:,}" for n in sizes)


def _compression(found: Storage, dtype: np.dtype) -> str:
    """Describe the decoded bytes per stored byte."""
    sizes = [size for size in found.sizes if size]
    if not sizes:
        return "unknown"
    return f"{math.prod(found.unit) * dtype.itemsize * len(sizes) / sum(sizes):.2f} x"


def _presence(found: Storage, shape: Sequence[int]) -> str:
    """Describe how many of the sampled units are there."""
    there = sum(size is not None for size in found.sizes)
    number = math.prod(-(-n // c) for n, c in zip(shape, found.unit, strict=True))
    return f"{there} of {len(found.sizes)} that were looked at, of {number:,}"


def _instances(array: Any, connected: bool) -> str:
    """Describe how many labels a few chunks hold, and whether they look like a mask."""
    if isinstance(array, PolygonLabels):
        return f"{len(array):,} polygons"
    stored = stored_in(array)
    chunks = _format(stored).chunks(stored, strict=False)
    size = math.prod(stored.chunks) * np.dtype(stored.dtype).itemsize
    count = max(min(SAMPLED, SAMPLED_BYTES // size), 1)
    indices = diagonal(stored.shape, stored.chunks, count)
    labels: set[int] = set()
    pixels = 0
    for index in indices:
        chunk = np.empty(stored.chunks, np.dtype(stored.dtype).newbyteorder("="))
        chunks.read(index, chunk)
        inside = tuple(
            slice(0, min(c, n - i * c))
            for i, c, n in zip(index, stored.chunks, stored.shape, strict=True)
        )
        part = whole_numbers(chunk[inside]) if chunk.dtype.kind == "f" else chunk[inside]
        pixels += part.size
        labels.update(np.unique(part).tolist())
    whole = math.prod(-(-n // c) for n, c in zip(stored.shape, stored.chunks, strict=True))
    labels.discard(0)
    if connected:
        return "the connected pieces of a mask"
    note = mask_note(labels)
    found = f"{len(labels):,} in {len(indices)} of {whole:,} chunks ({pixels:,} pixels)"
    return f"{found}: {note}" if note else found
