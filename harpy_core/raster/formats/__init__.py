"""Formats of images and labels: a file for each kind of source, and its line here."""

from __future__ import annotations

import os
from typing import Any

from harpy_core.raster.formats import microscopes, n5, planes, polygons, remote, tiff, zarr_store
from harpy_core.raster.formats.format import Format

FORMATS: tuple[Format, ...] = (
    remote,
    tiff,
    planes,
    microscopes,
    n5,
    polygons,
    zarr_store,
)
"""Formats in order: the first that claims a source opens it; the last claims all others."""


def format_of(uri: str) -> Format:
    """Return the format of a source, by its address or what is there."""
    return next(found for found in FORMATS if found.claims(uri))


def owner_of(array: Any) -> Format | None:
    """Return the format that opened an array; None for arrays in memory."""
    return next((found for found in FORMATS if found.owns(array)), None)


def is_apart(labels: str) -> bool:
    """Whether the name of labels is that of a file of their own, or an address."""
    if labels.startswith((".", "/")):
        return True
    return not os.path.isdir(labels) and format_of(labels) is not FORMATS[-1]


def stem(path: str) -> str:
    """Name of a file or folder without the endings that say what format it has."""
    name = os.path.basename(path)
    bare = name[: -len(".zip")] if name.lower().endswith(".zip") else name
    endings = (ending for found in FORMATS for ending in found.ENDINGS)
    longest = max((e for e in endings if bare.lower().endswith(e)), key=len, default=None)
    if longest is None:
        return name
    bare = bare[: -len(longest)]
    return bare[: -len(".ome")] if bare.lower().endswith(".ome") else bare


def beside(labels: str, uri: str) -> str:
    """Place of labels that are a file of their own: as given, or beside the image."""
    there = format_of(labels)
    if not there.LOCAL:
        return labels
    if os.path.exists(labels) or os.path.isabs(labels) or not format_of(uri).LOCAL:
        return os.path.abspath(labels)
    return os.path.abspath(os.path.join(os.path.dirname(uri), labels))
