"""Survey of a source: its elements, their storage, and a sample of their chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harpy_core.errors import InputError, understood
from harpy_core.raster import axes
from harpy_core.raster.formats import format_of, owner_of
from harpy_core.raster.formats.format import LISTED, Element, Format, Storage, listed
from harpy_core.raster.ngff import diagonal
from harpy_core.raster.opening import check_elements, chosen_channels, find_elements
from harpy_core.raster.views import stored_in

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
    channels: Sequence[str] | None = None,
    *,
    level: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> Survey:
    """Look at a source: all of its metadata, and a few chunks of its pixels.

    See `open_raster` for the parameters; what it would refuse becomes the survey's problem.
    """
    found = Survey()
    try:
        source = format_of(uri)
        with understood(uri):
            for name, line in source.contents(uri, image, storage_options):
                found.lines.append(_row(name) + line)
        pixels, segmentation = find_elements(uri, image, labels, level, storage_options)
        with understood(uri):
            facts = _facts(pixels, "images"), _facts(segmentation, "labels")
        found.lines += _side_by_side(*facts)
        names = check_elements(uri, pixels, segmentation).channels
        used = [names[i] for i in chosen_channels(uri, names, channels)]
        of = "" if len(used) == len(names) else f" of {len(names)}"
        found.lines.append(_row("channels") + f"{len(used)}{of}: {listed(used)}")
        found.lines.append(_row("instances") + f"{_instances(segmentation.array)}")
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
        "shape": f"{_by(array.shape)} ({', '.join(axes.of(kind, array.ndim))})",
        "levels": f"{len(element.levels)}: "
        + ", ".join(_by(shape[-2:]) for shape in element.levels[:LISTED]),
        "dtype": str(np.dtype(array.dtype)),
        "chunks": _by(array.chunks),
        "shards": "none" if found.unit == tuple(stored.chunks) else _by(found.unit),
        "codec": found.codec,
        "stored": _presence(found, stored.shape),
        "compression": _compression(found, np.dtype(stored.dtype)),
    }


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


def _instances(array: Any) -> str:
    """Describe how many labels a few chunks hold."""
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
        part = chunk[inside]
        pixels += part.size
        labels.update(np.unique(part).tolist())
    whole = math.prod(-(-n // c) for n, c in zip(stored.shape, stored.chunks, strict=True))
    labels.discard(0)
    return f"{len(labels):,} in {len(indices)} of {whole:,} chunks ({pixels:,} pixels)"
