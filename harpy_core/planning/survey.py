"""What is in a source: its elements, how they are stored, and a sample of their chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from zarr.core.sync import sync

from harpy_core.errors import InputError
from harpy_core.raster.chunks import ChunkFiles
from harpy_core.raster.formats.stores import open_group
from harpy_core.raster.formats.tiff import TiffArray, is_tiff
from harpy_core.raster.opening import (
    Element,
    axes_of,
    check_elements,
    chosen_channels,
    find_elements,
    names_in,
)
from harpy_core.raster.reading import AxesView

SAMPLED = 4
"""Chunks of each array that are read."""

SAMPLED_BYTES = 2**28
"""Decoded bytes after which no further chunk of an array is read."""

_LISTED = 12
"""Names after which a list is cut short."""


@dataclass(slots=True)
class Survey:
    """What was found in a source.

    Attributes
    ----------
    lines
        For people, aligned.
    problem
        Why it cannot be used; None where it can.
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
    """Look at a source: everything of its metadata, and a few chunks of its pixels.

    See `open_raster` for the parameters; what it would refuse is the survey's problem.
    """
    found = Survey()
    try:
        found.lines += _contents(uri, storage_options, image)
        pixels, segmentation = find_elements(uri, image, labels, level, storage_options)
        found.lines += _side_by_side(_facts(pixels, "images"), _facts(segmentation, "labels"))
        names = check_elements(uri, pixels, segmentation).channels
        used = [names[i] for i in chosen_channels(uri, names, channels)]
        of = "" if len(used) == len(names) else f" of {len(names)}"
        found.lines.append(_row("channels") + f"{len(used)}{of}: {_list(used)}")
        found.lines.append(_row("instances") + f"{_instances(segmentation.array)}")
    except InputError as error:
        found.problem = str(error)
    return found


def _contents(
    uri: str, storage_options: Mapping[str, Any] | None, image: str | None
) -> Iterator[str]:
    """The kind of file or store, and the names of what is in it."""
    if is_tiff(uri) and Path(uri).is_file():
        yield from _tiff_contents(uri)
        return
    if is_tiff(uri):
        return
    group = open_group(uri, storage_options)
    yield _row("store") + f"Zarr {group.metadata.zarr_format}, {_convention(group)}"
    for kind in ("images", "labels"):
        names = names_in(group, kind, image or "")
        shown = [name or "the store itself" for name in names]
        plain = [n for n, _ in group.members()] if not names and kind == "images" else []
        other = f"none declared; there are {_list(plain)}" if plain else "none declared"
        yield f"{kind:<11} {_list(shown) if shown else other}"


def _tiff_contents(uri: str) -> Iterator[str]:
    try:
        with tifffile.TiffFile(uri) as tiff:
            kind = "OME-TIFF" if tiff.is_ome else "TIFF"
            big = "Big" if tiff.is_bigtiff else ""
            names = [series.name or str(i) for i, series in enumerate(tiff.series)]
    except tifffile.TiffFileError as error:
        raise InputError(f"{uri}: not a TIFF ({error}); correct the path") from error
    yield _row("file") + f"{big}{kind}, {Path(uri).stat().st_size:,} bytes"
    yield _row("images") + f"{_list(names)}"


def _convention(group: zarr.Group) -> str:
    attributes: dict[str, Any] = group.attrs.asdict()
    if "spatialdata_attrs" in attributes:
        return f"SpatialData {attributes['spatialdata_attrs'].get('version', '')}".rstrip()
    ome = {**attributes, **attributes.get("ome", {})}
    if "multiscales" in ome:
        version = ome.get("version") or ome["multiscales"][0].get("version", "")
        return f"OME-Zarr {version}".rstrip()
    return "plain arrays"


def _row(name: str) -> str:
    """The beginning of a line."""
    return f"{name:<11} "


def _list(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest:,} more" if rest > 0 else "")


def _side_by_side(*columns: Mapping[str, str]) -> Iterator[str]:
    widths = [max(map(len, column.values())) for column in columns]
    for name in columns[0]:
        cells = (column[name].ljust(width) for column, width in zip(columns, widths, strict=True))
        yield (_row(name) + "   ".join(cells)).rstrip()


# One array ----------------------------------------------------------------------------------------


_SHUFFLES = ("no shuffle", "shuffle", "bitshuffle")
"""What numcodecs calls 0, 1 and 2."""


def _facts(element: Element, kind: str) -> dict[str, str]:
    array = element.array
    stored = array.array if isinstance(array, AxesView) else array
    sample = _Sample(stored)
    return {
        "": kind.removesuffix("s") if kind == "images" else kind,
        "element": element.name or "the store itself",
        "shape": f"{_by(array.shape)} ({', '.join(axes_of(kind, array.ndim))})",
        "levels": f"{len(element.levels)}: "
        + ", ".join(_by(shape[-2:]) for shape in element.levels[:_LISTED]),
        "dtype": str(np.dtype(array.dtype)),
        "chunks": _by(array.chunks),
        "shards": "none" if sample.unit == tuple(stored.chunks) else _by(sample.unit),
        "codec": sample.codec(),
        "stored": sample.presence(),
        "compression": sample.compression(),
    }


def _by(sizes: Sequence[int]) -> str:
    return " x ".join(f"{n:,}" for n in sizes)


def _diagonal(shape: Sequence[int], unit: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Indices of some units of an array, evenly from its first corner to its last."""
    grid = [-(-n // c) for n, c in zip(shape, unit, strict=True)]
    places = [tuple((2 * i + 1) * n // (2 * count) for n in grid) for i in range(count)]
    return sorted(set(places)) if all(grid) else []


class _Sample:
    """Some of the objects that an array is stored in: chunks, shards, or segments of a TIFF."""

    def __init__(self, array: zarr.Array | TiffArray) -> None:
        self._array = array
        self.unit: tuple[int, ...] = tuple(getattr(array, "shards", None) or array.chunks)
        self._number = math.prod(-(-n // c) for n, c in zip(array.shape, self.unit, strict=True))
        self._sizes: Sequence[int | None]
        if isinstance(array, TiffArray):
            self._sizes = array.segment_sizes(4 * SAMPLED)
        else:
            indices = _diagonal(array.shape, self.unit, 4 * SAMPLED)
            self._sizes = [_stored_size(array, index) for index in indices]

    def presence(self) -> str:
        """How many of the looked-at units are there."""
        there = sum(size is not None for size in self._sizes)
        return f"{there} of {len(self._sizes)} that were looked at, of {self._number:,}"

    def compression(self) -> str:
        """Decoded bytes for each stored one."""
        sizes = [size for size in self._sizes if size]
        if not sizes:
            return "unknown"
        decoded = math.prod(self.unit) * np.dtype(self._array.dtype).itemsize
        return f"{decoded * len(sizes) / sum(sizes):.2f} x"

    def codec(self) -> str:
        """Filters and compressors, with their settings."""
        if isinstance(self._array, TiffArray):
            return self._array.compression
        steps = [*self._array.filters, *self._array.compressors]
        return ", ".join(_codec_name(step) for step in steps) or "none"


def _stored_size(array: zarr.Array, index: tuple[int, ...]) -> int | None:
    """Bytes of the object that holds a chunk or a shard; None where there is none."""
    key = f"{array.path}/{array.metadata.encode_chunk_key(index)}".lstrip("/")
    try:
        return int(sync(array.store_path.store.getsize(key)))
    except (FileNotFoundError, KeyError):
        return None


def _codec_name(codec: Any) -> str:
    if hasattr(codec, "get_config"):
        settings = codec.get_config()
        name = settings.pop("id")
    else:
        written = codec.to_dict()
        name, settings = written["name"], written.get("configuration", {})
    shown = [settings[key] for key in ("cname", "clevel", "level", "shuffle") if key in settings]
    if isinstance(settings.get("shuffle"), int) and 0 <= settings["shuffle"] < len(_SHUFFLES):
        shown[-1] = _SHUFFLES[settings["shuffle"]]
    return " ".join(map(str, (name, *shown)))


def _instances(array: Any) -> str:
    """How many labels a few chunks hold."""
    stored = array.array if isinstance(array, AxesView) else array
    files = ChunkFiles(stored)
    size = math.prod(stored.chunks) * np.dtype(stored.dtype).itemsize
    count = max(min(SAMPLED, SAMPLED_BYTES // size), 1)
    indices = _diagonal(stored.shape, stored.chunks, count)
    labels: set[int] = set()
    pixels = 0
    for index in indices:
        chunk = np.empty(stored.chunks, np.dtype(stored.dtype).newbyteorder("="))
        files.read(index, chunk)
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
