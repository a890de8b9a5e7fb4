"""Files of microscopes that are read through bioio, an optional extra for each kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import Choice, Element, Peek, Stamp, Storage, stamp

if TYPE_CHECKING:
    from harpy_core.raster.bio_array import BioArray
    from harpy_core.raster.chunks import Slices

LOCAL = True

READERS = {".czi": "bioio_czi", ".lif": "bioio_lif", ".nd2": "bioio_nd2"}
"""Endings, and the reader of each; without its dot, the ending is the extra's name."""

UNREAD = (
    ".mrxs",
    ".vsi",
    ".oib",
    ".oif",
    ".oir",
    ".ims",
    ".dv",
    ".bif",
    ".vms",
    ".sldy",
    ".isyntax",
)
"""Endings of the files of other microscopes and scanners."""


ENDINGS: tuple[str, ...] = (*READERS, *UNREAD)
"""All of them."""


def claims(uri: str) -> bool:
    """Whether a path names a file of a microscope, by its ending; a folder is not one."""
    return uri.lower().endswith(ENDINGS) and not os.path.isdir(uri)


def peek(uri: str) -> Peek:
    """Refuse a file whose reader is not installed."""
    check(uri)
    return Peek()


def check(uri: str) -> None:
    """Refuse a file whose reader is not installed; the message does not name it."""
    ending = os.path.splitext(uri)[1].lower()
    reader = READERS.get(ending)
    if reader is None:
        raise InputError(
            f"{ending} is not read: export it as OME-TIFF (QuPath) or OME-Zarr (bioformats2raw)"
        )
    if find_spec("bioio") is None or find_spec(reader) is None:
        raise InputError(
            f"{ending} needs a reader that is not installed: pip install "
            f"'harpy-core[{ending[1:]}]'; or export it as OME-TIFF or OME-Zarr"
        )


def watched(uri: str) -> list[str]:
    """Return the file."""
    return [uri]


def stamps(uri: str) -> list[Stamp]:
    """Return the file."""
    return [stamp(uri)]


def open_image(uri: str, name: str | None, choice: Choice) -> Element:
    """Open a scene of the file."""
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
        check(uri)
    except InputError as error:
        raise InputError(f"{uri}: {error}") from error
    from harpy_core.raster.bio_array import open_scene

    return open_scene(uri, scene, kind, choice)


def contents(uri: str, image: str | None, choice: Choice) -> Iterator[tuple[str, str]]:
    """Yield the size of the file, and its scenes."""
    if not os.path.isfile(uri):
        return
    yield "file", f"{os.path.splitext(uri)[1][1:].upper()}, {os.path.getsize(uri):,} bytes"


def owns(array: Any) -> bool:
    """Whether an array is a scene of such a file."""
    # Without importing what reads it: that may not be installed.
    return type(array).__name__ == "BioArray" and type(array).__module__.endswith(".bio_array")


def chunks(array: BioArray, strict: bool | None) -> Slices:
    """Return blocks as the reader has them: planes, or tiles of them."""
    from harpy_core.raster.chunks import Slices

    return Slices(array, array.path)


def facts(array: BioArray, times: bool) -> list[Any]:
    """Scene, level, and size and time of the file."""
    _, size, changed = stamp(array.path)
    return [array.path, str(array.scene), array.level, size, *([changed] if times else [])]


def storage(array: BioArray, count: int) -> Storage:
    """Blocks; how they are compressed is up to the reader."""
    return Storage(tuple(array.chunks), "the file's own", [])


def files(array: BioArray) -> list[str]:
    """Return the file."""
    return [array.path]


def reusable(array: Any) -> None:
    """Return None: no other array can have its blocks."""
