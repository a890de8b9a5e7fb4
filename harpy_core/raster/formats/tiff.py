"""TIFF and OME-TIFF; see `harpy_core.raster.tiff_array` for how they are read."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import Element, Options, Peek, Stamp, Storage, stamp

if TYPE_CHECKING:
    from harpy_core.raster.chunks import Slices
    from harpy_core.raster.tiff_array import TiffArray

LOCAL = True

ENDINGS = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
"""Endings of the names of TIFFs."""

_STARTS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
"""First bytes, with the byte order that they mean; those with a plus are BigTIFFs."""

_WIDTH, _HEIGHT, _BITS, _KIND = 256, 257, 258, 339
_SIZES = {1: 1, 3: 2, 4: 4, 16: 8}
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_UNSIGNED = 1


def claims(uri: str) -> bool:
    """Whether a path names a TIFF, by its ending; a folder is not one."""
    return uri.lower().endswith(ENDINGS) and not os.path.isdir(uri)


def peek(uri: str) -> Peek:
    """Refuse a file that does not begin like a TIFF; its labels are a file of their own."""
    with open(uri, "rb") as file:
        if file.read(4) not in _STARTS:
            raise InputError("is not a TIFF: copy or export it again")
    return Peek()


def watched(uri: str) -> list[str]:
    """Return the file."""
    return [uri]


def stamps(uri: str) -> list[Stamp]:
    """Return the file."""
    return [stamp(uri)]


def open_image(uri: str, name: str | None, level: int, options: Options) -> Element:
    """Open a series of the file, the first if none is named."""
    from harpy_core.raster.tiff_array import open_tiff

    return open_tiff(uri, name, "images", level)


def open_labels(
    uri: str, name: str | None, image: str | None, level: int, options: Options, elsewhere: bool
) -> Element | None:
    """Return None: labels are a file of their own."""
    if name is None:
        raise InputError(f"{uri}: a TIFF holds no labels; give labels = the path of a label TIFF")
    return None


def open_alone(uri: str, level: int, options: Options) -> Element:
    """Open labels in a TIFF."""
    from harpy_core.raster.tiff_array import open_tiff

    return open_tiff(uri, None, "labels", level)


def contents(uri: str, image: str | None, options: Options) -> Iterator[tuple[str, str]]:
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
    """Series, and size and time of the file."""
    _, size, changed = stamp(array.path)
    return [array.path, str(array.series), array.level, size, *([changed] if times else [])]


def storage(array: TiffArray, count: int) -> Storage:
    """Compression, and the sizes of some segments."""
    return Storage(tuple(array.chunks), array.compression, [*array.segment_sizes(count)])


# Headers ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Header:
    """Header of the first image of a TIFF.

    Attributes
    ----------
    height, width
        Size in pixels.
    bits
        Bits per sample.
    kind
        Sample format: 1 for unsigned integers, 2 for signed ones, 3 for floats.
    """

    height: int
    width: int
    bits: int
    kind: int


def header(path: str) -> Header:
    """Read the first image's header, with the standard library alone.

    Raises
    ------
    InputError
        The file is not a TIFF, or is cut off; the message does not name it.
    """
    with open(path, "rb") as file:
        start = file.read(4)
        if start not in _STARTS:
            raise InputError("is not a TIFF: copy or export it again")
        try:
            tags = _tags(file, _STARTS[start], b"+" in start)
        except struct.error as error:
            raise InputError("is cut off: copy or export it again") from error
    return Header(
        height=tags.get(_HEIGHT, 0),
        width=tags.get(_WIDTH, 0),
        bits=tags.get(_BITS, 1),
        kind=tags.get(_KIND, _UNSIGNED),
    )


def _tags(file: BinaryIO, order: str, big: bool) -> dict[int, int]:
    """First value of each whole-number tag of the first image (TIFF 6.0, section 2; BigTIFF)."""
    word, count_code, entry_size = ("Q", "Q", 20) if big else ("I", "H", 12)

    def number(code: str) -> int:
        size = struct.calcsize(code)
        found: int = struct.unpack(order + code, file.read(size))[0]
        return found

    if big:
        file.seek(8)
    file.seek(number(word))
    entries = file.read(number(count_code) * entry_size)
    tags = {}
    for at in range(0, len(entries) - entry_size + 1, entry_size):
        tag, kind, values = struct.unpack_from(f"{order}HH{word}", entries, at)
        size = _SIZES.get(kind)
        if size is None or not values:
            continue
        place = at + 4 + struct.calcsize(word)
        if size * values <= struct.calcsize(word):
            tags[tag] = struct.unpack_from(order + _CODES[size], entries, place)[0]
        else:
            file.seek(struct.unpack_from(order + word, entries, place)[0])
            tags[tag] = number(_CODES[size])
    return tags
