"""Datasets of an N5 container, read through tensorstore, an optional extra."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import (
    Choice,
    Element,
    Peek,
    Stamp,
    Storage,
    listed,
    stamps_below,
)
from harpy_core.raster.formats.names import METADATA, refuse_long

if TYPE_CHECKING:
    from harpy_core.raster.chunks import Slices
    from harpy_core.raster.n5_array import N5Array

LOCAL = True
ENDINGS: tuple[str, ...] = (".n5",)

ATTRIBUTES = "attributes.json"
"""Name of the file of a group's or a dataset's metadata."""

_DEPTH = 5
"""Groups inside each other that are searched for datasets."""


def claims(uri: str) -> bool:
    """Whether a folder holds the metadata of N5, and none of Zarr."""
    inside = [os.path.exists(os.path.join(uri, name)) for name in METADATA]
    return os.path.isfile(os.path.join(uri, ATTRIBUTES)) and not any(inside)


def attributes(folder: str) -> dict[str, Any]:
    """Metadata of a group or dataset; empty if there are none."""
    path = os.path.join(folder, ATTRIBUTES)
    if not os.path.isfile(path):
        return {}
    refuse_long(path, os.path.getsize(path))
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def datasets(uri: str, name: str = "") -> list[str]:
    """Names of the datasets of a container, by their paths in it."""
    folder = os.path.join(uri, name)
    if "dimensions" in attributes(folder):
        return [name]
    if name.count("/") >= _DEPTH:
        return []
    below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    return [found for each in below for found in datasets(uri, f"{name}/{each}".lstrip("/"))]


class _Container(Peek):
    """View of a container through the names of its datasets."""

    def __init__(self, uri: str) -> None:
        self._datasets = datasets(uri)

    def images(self, named: bool) -> list[str] | None:
        return self._datasets

    def labels(self, image: str) -> list[str] | None:
        return self._datasets


def peek(uri: str) -> Peek:
    """Refuse a container if its reader is not installed."""
    check()
    return _Container(uri)


def check() -> None:
    """Refuse a container if its reader is not installed; the message does not name it."""
    if find_spec("tensorstore") is None:
        raise InputError(
            "N5 needs a reader that is not installed: pip install 'harpy-core[n5]'; or convert it "
            "to OME-Zarr"
        )


def watched(uri: str) -> list[str]:
    """Return the file of the root's metadata."""
    return [os.path.join(uri, ATTRIBUTES)]


def stamps(uri: str) -> Iterator[Stamp]:
    """Stamps of all files."""
    return stamps_below(uri)


def open_image(uri: str, name: str | None, choice: Choice) -> Element:
    """Open a dataset as an image; without a name, the only one."""
    return _opened(uri, name, "images", choice)


def open_labels(
    uri: str, name: str | None, image: str | None, choice: Choice, elsewhere: bool
) -> Element | None:
    """Open a dataset as labels; None if there is none of that name, but something elsewhere."""
    if elsewhere and name is not None and name not in datasets(uri):
        return None
    return _opened(uri, name, "labels", choice)


def open_alone(uri: str, choice: Choice) -> Element:
    """Open labels that are a dataset of their own."""
    return _opened(uri, None, "labels", choice, uri)


def _opened(
    uri: str, name: str | None, kind: str, choice: Choice, called: str | None = None
) -> Element:
    try:
        check()
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
    from harpy_core.raster.n5_array import open_dataset

    there = datasets(uri)
    if name is None and len(there) == 1:
        name = there[0]
    if name not in there:
        which = f"no {kind} {name!r}" if name else f"which {kind}?"
        raise InputError(f"{uri}: {which}; found {listed(there) or 'none'}; name one in the source")
    path = os.path.join(uri, name).rstrip("/")
    axes = attributes(path).get("axes")
    listed_axes = [str(axis) for axis in axes] if isinstance(axes, list) else None
    return open_dataset(path, called or name, kind, choice, listed_axes)


def contents(uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield the version, and the names of the datasets."""
    yield "store", f"N5 {attributes(uri).get('n5', '')}".rstrip()
    yield "arrays", listed(datasets(uri))


def owns(array: Any) -> bool:
    """Whether an array is a dataset of N5."""
    # Without importing what reads it: that may not be installed.
    return type(array).__name__ == "N5Array" and type(array).__module__.endswith(".n5_array")


def chunks(array: N5Array, strict: bool | None) -> Slices:
    """Return the blocks; one that is missing is zeros, as N5 defines it."""
    from harpy_core.raster.chunks import Slices

    return Slices(array, array.path)


def facts(array: N5Array, times: bool) -> list[Any]:
    """Names, sizes and times of the files."""
    below = sorted(stamps_below(array.path))
    return [list(array.shape), str(array.dtype), *([*s] if times else [*s[:2]] for s in below)]


def storage(array: N5Array, count: int) -> Storage:
    """Blocks and their compression."""
    codec = attributes(array.path).get("compression", {}).get("type", "")
    return Storage(tuple(array.chunks), str(codec), [])


def files(array: N5Array) -> list[str]:
    """Paths of the files of the dataset."""
    return [os.path.join(array.path, name) for name, _, _ in stamps_below(array.path)]


def reusable(array: Any) -> None:
    """Return None: blocks of N5 have a head that Zarr does not read."""
