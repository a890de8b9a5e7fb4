"""TIFF and OME-TIFF; see `harpy_core.raster.tiff_array` for how they are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harpy_core.errors import InputError
from harpy_core.raster.formats import headers, ome
from harpy_core.raster.formats.format import Choice, Element, Peek, Stamp, Storage, stamp

if TYPE_CHECKING:
    from harpy_core.raster.chunks import Slices
    from harpy_core.raster.tiff_array import TiffArray

LOCAL = True

PLAIN = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
"""Endings of the names of TIFFs."""

ENDINGS: tuple[str, ...] = (*PLAIN, ".qptiff", ".svs", ".scn", ".ndpi", ".lsm")
"""Endings of the names of TIFFs, those of scanners and microscopes too."""


def claims(uri: str) -> bool:
    """Whether a path names a TIFF, or the companion of some, by its ending; a folder is not one."""
    return uri.lower().endswith((*ENDINGS, ome.COMPANION)) and not os.path.isdir(uri)


def peek(uri: str) -> Peek:
    """Refuse a file that does not begin like a TIFF, or without the others of its image.

    Its labels are a file of their own.
    """
    if not uri.lower().endswith(ome.COMPANION):
        headers.check(uri)
    ome.spread(uri).refuse_missing()
    return Peek()


def watched(uri: str) -> list[str]:
    """Return the files of the image."""
    return [*_files(uri)]


def stamps(uri: str) -> list[Stamp]:
    """Return the files of the image."""
    return [stamp(path) for path in _files(uri)]


def _files(uri: str) -> tuple[str, ...]:
    try:
        return ome.spread(uri).files
    except (InputError, OSError):
        # What is wrong with it is told where it is opened.
        return (uri,)


def open_image(uri: str, name: str | None, choice: Choice) -> Element:
    """Open a series of the file, the first if none is named."""
    from harpy_core.raster.tiff_array import open_tiff

    return open_tiff(uri, name, "images", choice)


def open_labels(
    uri: str, name: str | None, image: str | None, choice: Choice, elsewhere: bool
) -> Element | None:
    """Return None: labels are a file of their own."""
    if name is None:
        raise InputError(f"{uri}: a TIFF holds no labels; give labels = the path of a label TIFF")
    return None


def open_alone(uri: str, choice: Choice) -> Element:
    """Open labels in a TIFF."""
    from harpy_core.raster.tiff_array import open_tiff

    return open_tiff(uri, None, "labels", choice)


def contents(uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield the kind of TIFF and its series."""
    from harpy_core.raster.tiff_array import contents

    return contents(uri)


def owns(array: Any) -> bool:
    """Whether an array is a series of a TIFF."""
    from harpy_core.raster.tiff_array import TiffArray

    return isinstance(array, TiffArray)


def chunks(array: TiffArray, strict: bool | None) -> Slices:
    """Return tiles or strips."""
    from harpy_core.raster.chunks import Slices

    return Slices(array, array.path)


def facts(array: TiffArray, times: bool) -> list[Any]:
    """Series, and size and time of the files."""
    first, *others = (stamp(path) for path in array.files)
    found = [array.path, str(array.series), array.level, *first[1 : 3 if times else 2]]
    return [*found, *([*each[: 3 if times else 2]] for each in others)]


def storage(array: TiffArray, count: int) -> Storage:
    """Compression, and the sizes of some segments."""
    return Storage(tuple(array.chunks), array.compression, [*array.segment_sizes(count)])


def files(array: TiffArray) -> list[str]:
    """Return the files of the image."""
    return [*array.files]


def reusable(array: Any) -> None:
    """Return None: no other array can have a TIFF's segments."""
