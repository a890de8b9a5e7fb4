"""Images that OME-XML spreads over several TIFFs: which files they are, and where they begin.

A plane of such a set says where the metadata are: in itself, or, by ``BinaryOnly``, in a companion
or in another TIFF of the set. The XML is read with the standard library alone.
Source: https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass

from harpy_core.errors import InputError
from harpy_core.raster.formats.format import listed
from harpy_core.raster.formats.headers import description
from harpy_core.raster.formats.names import refuse_long

COMPANION = ".companion.ome"
"""Ending of the name of a file that holds the metadata of a set, and no pixels."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The files of an image.

    Attributes
    ----------
    start
        Path of the TIFF to open.
    xml
        OME-XML of the set, if it is not in that TIFF.
    files
        Paths of all files that are there, sorted, that of the metadata too.
    missing
        Names of the files that are not.
    """

    start: str
    xml: str | None
    files: tuple[str, ...]
    missing: tuple[str, ...]

    def refuse_missing(self) -> None:
        """Refuse a set that lacks a file; the message does not name the source.

        Raises
        ------
        InputError
            A file is not there.
        """
        if self.missing:
            number = len(self.files) + len(self.missing)
            raise InputError(
                f"is one of {number} files of an image, of which {len(self.missing)} are not "
                f"there: put {listed(self.missing)} beside it"
            )


def spread(uri: str) -> Spread:
    """Find the files of an image.

    Parameters
    ----------
    uri
        Path of one of its TIFFs, or of the companion.

    Raises
    ------
    InputError
        The metadata are not there, or are no OME-XML; the message does not name the source.
    """
    text = _content(uri) if uri.lower().endswith(COMPANION) else description(uri)
    if text is None or "<" not in text[:64] or "OME" not in text:
        return Spread(uri, None, (uri,), ())
    place, root = uri, _root(text)
    master = None if root is None else root.find("{*}BinaryOnly")
    if master is not None:
        place = _metadata_file(uri, master.get("MetadataFile", ""))
        text = _content(place) if place.lower().endswith((".ome", ".xml")) else description(place)
        root = _root(text or "")
        if root is None:
            raise InputError(
                f"is a plane of an image whose metadata should be in {place}, which holds none: "
                "copy or export the whole set again"
            )
    if root is None:
        return Spread(uri, None, (uri,), ())
    return _named(place, text or "", root)


def _named(place: str, text: str, root: ElementTree.Element) -> Spread:
    """Find the files that OME-XML names; `place` is the file that it is in."""
    inside = not place.lower().endswith((".ome", ".xml"))
    own = root.get("UUID")
    folder = os.path.dirname(place)
    paths = {uuid: os.path.join(folder, name) for uuid, name in _parts(root)}
    if inside and own in paths:
        # Named by its number, a file may have been renamed.
        paths[own] = place
    missing = {path for path in paths.values() if not os.path.isfile(path)}
    if inside and own is None and len(set(paths.values())) == 1:
        missing, paths = set(), {}
    there = sorted({place, *paths.values()} - missing)
    tiffs = [paths.get(own or "", ""), *(path for path in paths.values())]
    start = place if inside else next((path for path in tiffs if path in there), None)
    if start is None:
        raise InputError(f"describes an image, but {listed(sorted(_names(missing)))} are not there")
    return Spread(start, None if inside else text, tuple(there), tuple(sorted(_names(missing))))


def _names(paths: set[str]) -> list[str]:
    return [os.path.basename(path) for path in paths]


def _parts(root: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """Yield the number and the name of each file that holds planes."""
    for uuid in root.iterfind("{*}Image/{*}Pixels/{*}TiffData/{*}UUID"):
        name = uuid.get("FileName")
        if name:
            yield (uuid.text or name).strip(), name


def _root(text: str) -> ElementTree.Element | None:
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None
    return root if root.tag.rpartition("}")[2] == "OME" else None


def _metadata_file(uri: str, name: str) -> str:
    path = os.path.join(os.path.dirname(uri), name)
    if name and os.path.isfile(path):
        return path
    raise InputError(
        f"is one plane of an image that is spread over several files, whose metadata are in "
        f"{name or 'a file without a name'}: put it, and the other files, beside it"
    )


def _content(path: str) -> str:
    refuse_long(path, os.path.getsize(path))
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
