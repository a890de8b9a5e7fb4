"""Headers of TIFFs, read with the standard library alone."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from harpy_core.errors import InputError
from harpy_core.raster.formats.names import refuse_long

_STARTS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
"""First bytes, with the byte order that they mean; those with a plus are BigTIFFs."""

_WIDTH, _HEIGHT, _BITS, _DESCRIPTION, _KIND = 256, 257, 258, 270, 339
_SIZES = {1: 1, 3: 2, 4: 4, 16: 8}
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_TEXT = 2
_UNSIGNED = 1


def check(path: str) -> None:
    """Refuse a file that does not begin like a TIFF, or whose directories lead back to one before.

    Raises
    ------
    InputError
        It does not, or they do; the message does not name it.
    """
    with open(path, "rb") as file:
        start = _start(file)
        order, big = _STARTS[start], b"+" in start
        word, count_code, entry_size = ("Q", "Q", 20) if big else ("I", "H", 12)
        seen: set[int] = set()
        # A chain that is cut off ends there for those who follow it.
        with suppress(struct.error, OverflowError):
            place = 8 if big else 4
            while offset := _read(file, place, order + word):
                if offset in seen:
                    raise InputError("its directories form a loop: copy or export it again")
                seen.add(offset)
                count = _read(file, offset, order + count_code)
                place = offset + struct.calcsize(order + count_code) + count * entry_size


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
    tags = _tags(path)
    return Header(
        height=tags.get(_HEIGHT, 0),
        width=tags.get(_WIDTH, 0),
        bits=tags.get(_BITS, 1),
        kind=tags.get(_KIND, _UNSIGNED),
    )


def description(path: str) -> str | None:
    """Read the description of the first image, such as OME-XML; None without one.

    Raises
    ------
    InputError
        The file is not a TIFF, or is cut off; the message does not name it.
    """
    with open(path, "rb") as file:
        for entry in _entries(file):
            if entry.tag == _DESCRIPTION and entry.kind == _TEXT:
                refuse_long("its description", entry.count)
                file.seek(entry.place)
                return file.read(entry.count).rstrip(b"\0").decode(errors="replace")
    return None


def _tags(path: str) -> dict[int, int]:
    """First value of each whole-number tag of the first image."""
    tags = {}
    with open(path, "rb") as file:
        for entry in _entries(file):
            size = _SIZES.get(entry.kind)
            if size is not None and entry.count:
                file.seek(entry.place)
                tags[entry.tag] = _number(file, entry.order + _CODES[size])
    return tags


def _read(file: BinaryIO, place: int, code: str) -> int:
    file.seek(place)
    found: int = struct.unpack(code, file.read(struct.calcsize(code)))[0]
    return found


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tag: its type, its number of values, and the place of the first, with the byte order."""

    tag: int
    kind: int
    count: int
    place: int
    order: str


def _entries(file: BinaryIO) -> list[_Entry]:
    """Tags of the first image (TIFF 6.0, section 2; BigTIFF)."""
    start = _start(file)
    order, big = _STARTS[start], b"+" in start
    word, count_code, entry_size = ("Q", "Q", 20) if big else ("I", "H", 12)
    width = struct.calcsize(word)
    try:
        if big:
            file.seek(8)
        first = _number(file, order + word)
        file.seek(first)
        count = _number(file, order + count_code)
        begin = file.tell()
        entries = file.read(count * entry_size)
        found = []
        for at in range(0, len(entries) - entry_size + 1, entry_size):
            tag, kind, values = struct.unpack_from(f"{order}HH{word}", entries, at)
            place = begin + at + 4 + width
            if _SIZES.get(kind, 1) * values > width:
                place = struct.unpack_from(order + word, entries, at + 4 + width)[0]
            found.append(_Entry(tag, kind, values, place, order))
    except (struct.error, OverflowError, ValueError, MemoryError) as error:
        raise InputError("is cut off: copy or export it again") from error
    return found


def _number(file: BinaryIO, code: str) -> int:
    content = file.read(struct.calcsize(code))
    if len(content) < struct.calcsize(code):
        raise InputError("is cut off: copy or export it again")
    found: int = struct.unpack(code, content)[0]
    return found


def _start(file: BinaryIO) -> bytes:
    start = file.read(4)
    if start not in _STARTS:
        raise InputError("is not a TIFF: copy or export it again")
    return start
