"""Files of microscopes and slide scanners; each reader is an optional extra."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
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
    stamp,
    stamps_below,
)

if TYPE_CHECKING:
    from harpy_core.raster.chunks import Slices
    from harpy_core.raster.scene_array import SceneArray

LOCAL = True


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads a kind of file.

    Attributes
    ----------
    extra
        Name of the extra that installs it, and of its module in `harpy_core.raster.readers`.
    packages
        Names of the packages that it imports.
    """

    extra: str
    packages: tuple[str, ...]


_SLIDE = Reader("slide", ("openslide", "openslide_bin"))

READERS = {
    ".czi": Reader("czi", ("pylibCZIrw",)),
    ".lif": Reader("lif", ("liffile",)),
    ".nd2": Reader("nd2", ("nd2",)),
    ".mrxs": _SLIDE,
    ".vms": _SLIDE,
    ".vmu": _SLIDE,
    ".bif": _SLIDE,
    ".svslide": _SLIDE,
}
"""Reader of each ending."""

UNREAD = (
    ".vsi",
    ".oib",
    ".oif",
    ".oir",
    ".ims",
    ".dv",
    ".lof",
    ".xlif",
    ".sldy",
    ".isyntax",
)
"""Endings of the files of other microscopes and scanners."""


ENDINGS: tuple[str, ...] = (*READERS, *UNREAD)
"""All of them."""

_LISTS = (".vms", ".vmu")
"""Endings of texts that name the files of a slide."""


def claims(uri: str) -> bool:
    """Whether a path names a file of a microscope, by its ending; a folder is not one."""
    return uri.lower().endswith(ENDINGS) and not os.path.isdir(uri)


def peek(uri: str) -> Peek:
    """Refuse a file whose reader is not installed."""
    check(uri)
    return Peek()


def _ending(uri: str) -> str:
    return os.path.splitext(uri)[1].lower()


def check(uri: str) -> Reader:
    """Refuse a file whose reader is not installed; the message does not name it."""
    ending = _ending(uri)
    reader = READERS.get(ending)
    if reader is None:
        raise InputError(
            f"{ending} is not read: export it as OME-TIFF (QuPath) or OME-Zarr (bioformats2raw)"
        )
    if any(find_spec(package) is None for package in reader.packages):
        raise InputError(
            f"{ending} needs a reader that is not installed: pip install "
            f"'harpy-core[{reader.extra}]'; or export it as OME-TIFF or OME-Zarr"
        )
    return reader


def watched(uri: str) -> list[str]:
    """Return the file, and those that a slide keeps beside it."""
    return _files(uri)


def stamps(uri: str) -> list[Stamp]:
    """Return the file, and those that a slide keeps beside it."""
    return [stamp(path) for path in _files(uri)]


def _files(uri: str) -> list[str]:
    """The file, then those of a slide: of the folder of its name, or those that its text names."""
    stem, ending = os.path.splitext(uri)
    if ending.lower() == ".mrxs" and os.path.isdir(stem):
        return [uri, *sorted(os.path.join(stem, name) for name, _, _ in stamps_below(stem))]
    if ending.lower() in _LISTS and os.path.isfile(uri):
        with open(uri, encoding="utf-8", errors="replace") as file:
            values = [line.partition("=")[2].strip() for line in file]
        beside = {os.path.join(os.path.dirname(uri), value) for value in values if value}
        return [uri, *sorted(path for path in beside if os.path.isfile(path))]
    return [uri]


def open_image(uri: str, name: str | None, choice: Choice) -> Element:
    """Open an image of the file."""
    return _opened(uri, name, "images", choice)


def open_labels(
    uri: str, name: str | None, image: str | None, choice: Choice, elsewhere: bool
) -> Element | None:
    """Return None: labels are a file of their own."""
    if name is None:
        raise InputError(f"{uri}: it holds no labels; give labels = the path of a label TIFF")
    return None


def open_alone(uri: str, choice: Choice) -> Element:
    """Open labels in such a file."""
    return _opened(uri, None, "labels", choice)


def _opened(uri: str, scene: str | None, kind: str, choice: Choice) -> Element:
    if not os.path.isfile(uri):
        raise InputError(f"{uri}: nothing there; correct the path")
    try:
        reader = check(uri)
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
    from harpy_core.raster.scene_array import open_scene

    return open_scene(uri, reader.extra, scene, kind, choice)


def contents(uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield the size of the file, or of the files of a slide, and the names of its images."""
    if not os.path.isfile(uri):
        return
    found = _files(uri)
    several = f"{len(found)} files, " if len(found) > 1 else ""
    size = sum(os.path.getsize(path) for path in found)
    yield "file", f"{_ending(uri)[1:].upper()}, {several}{size:,} bytes"
    from harpy_core.raster.scene_array import image_names

    names = image_names(uri, check(uri).extra)
    if len(names) > 1:
        yield "images", listed([f"{number} {name!r}" for number, name in enumerate(names)])


def owns(array: Any) -> bool:
    """Whether an array is an image of such a file."""
    # Without importing what reads it: that may not be installed.
    return type(array).__name__ == "SceneArray" and type(array).__module__.endswith(".scene_array")


def chunks(array: SceneArray, strict: bool | None) -> Slices:
    """Return blocks as the reader has them: tiles, or whole planes."""
    from harpy_core.raster.chunks import Slices

    return Slices(array, array.path)


def facts(array: SceneArray, times: bool) -> list[Any]:
    """Image, level, and sizes and times of the files."""
    first, *others = (stamp(path) for path in _files(array.path))
    found = [array.path, str(array.scene), array.level, *first[1 : 3 if times else 2]]
    return [*found, *([*each[: 3 if times else 2]] for each in others)]


def storage(array: SceneArray, count: int) -> Storage:
    """Blocks; how they are compressed is up to the reader."""
    return Storage(tuple(array.chunks), "the file's own", [])


def files(array: SceneArray) -> list[str]:
    """Return the files."""
    return _files(array.path)


def reusable(array: Any) -> None:
    """Return None: no other array can have its blocks."""
